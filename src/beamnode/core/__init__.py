"""The rules of processes and connections, sans I/O: signals, links, monitors, aliases, names, the connection table."""
