"""beamnode: a Python process as a node of Erlang's distribution."""
