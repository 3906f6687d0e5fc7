"""The named processes that peers expect on a node."""
