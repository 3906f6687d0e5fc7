# Every target sets up what it needs, in this checkout: `make demo` and `make test` are the only commands to remember.
#
#   make demo     two nodes meet, list each other, spawn and print across
#   make test     all tests, on every supported Python that is here, with real Erlang and Elixir peers
#   make check    format, lint, types, the floors
#   make venv     .venv with beamnode and its development tools        PYTHON=... chooses the interpreter
#   make peers    the real peers (Erlang/OTP 25, 27, 29 with Elixir); needs root, once
#   make bench    all tables of docs/performance.md: beamnode beside Erlang itself  BENCH="--rounds 3" and the like
#   make clean    remove what these targets made in the checkout

PYTHON ?=
BENCH ?=
BIN := .venv/bin

.PHONY: help demo test check bench venv peers clean
.NOTPARALLEL:

help:
	@sed -n 's/^#   //p' Makefile

demo: venv
	@$(BIN)/python -m beamnode demo

test: venv peers
	@scripts/run-tests

check: venv
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -W error -m compileall -q -f -x tests/contract src tests bench
	@for script in scripts/* .ci/run; do bash -n "$$script" && test -x "$$script" || exit 1; done

bench: venv peers
	@$(BIN)/python -c 'import msgspec' 2>/dev/null || $(BIN)/python -m pip install -q 'msgspec>=0.19'
	@$(BIN)/python -m bench $(BENCH)
	@echo; $(BIN)/python -m bench.codec
	@echo; $(BIN)/python -m bench.fairness
	@echo; $(BIN)/python -m bench.cluster
	@echo; $(BIN)/python -m bench.scale

venv:
	@scripts/make-venv .venv $(PYTHON)

peers:
	@scripts/make-peers

clean:
	rm -rf .venv .venv-3.* build dist src/*.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache \
	    erl_crash.dump
	find src -name '*.so' -delete
	find . -name .git -prune -o -name __pycache__ -type d -exec rm -rf {} +
	@echo "Kept: the real peers in $${BEAMNODE_PEERS:-$$HOME/.cache/beamnode/peers} (rm -rf them; make peers makes them again)"
