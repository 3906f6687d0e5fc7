"""beamnode beside OTP, on the same machine, in the same minutes: `make bench`, and docs/performance.md."""
