"""OTP's behaviours, on node/'s public names only."""
