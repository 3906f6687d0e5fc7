"""The runtime: clock, entropy, event loop, and the nodes and processes that programs use."""
