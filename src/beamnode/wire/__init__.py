"""The distribution protocol, sans I/O: what the bytes between two nodes, and between a node and epmd, mean."""
