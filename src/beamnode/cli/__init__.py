"""The commands: `beamnode epmd`, `names`, `ping`, `demo`."""
