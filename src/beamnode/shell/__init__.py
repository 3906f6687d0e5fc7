"""The interactive shell: Python, in a process of a node that lives on beside it."""
