"""For our tests and our users' tests: real peers, a fault proxy. Nothing above imports it."""
