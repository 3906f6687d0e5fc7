"""What a peer may start here: the functions that were exposed, and nothing else.

Nodes of one Python process are no strangers to each other: a spawn between them carries a proof that it comes from the
same process, which could have called the function itself.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sys
from collections.abc import Callable
from typing import Any, Final

from beamnode.errors import SpawnError, UsageError
from beamnode.etf import Atom, a
from beamnode.wire.control import SpawnRequest

# Made once per Python process and never sent: only digests of it are.
_PROCESS_SECRET: Final = secrets.token_bytes(32)

# `beamnode:spawn(Module, Function, Args, Proof)`: how a Python function is asked of a Python node. On an OTP node it is
# an `undef`, which says what is wrong.
SPAWN_MODULE = a.beamnode
SPAWN_FUNCTION = a.spawn


class Exposed:
    """The table of one node: (module, function) to a Python callable."""

    def __init__(self, node: Atom) -> None:
        self._node = node
        self._functions: dict[tuple[Atom, Atom], Callable[..., Any]] = {}

    def expose(self, function: Callable[..., Any], module: str | Atom | None, name: str | Atom | None) -> None:
        """Let peers start `function`, as `module:name`; by default under its own import path."""
        if not callable(function):
            raise UsageError(f"only something callable can be exposed, not {function!r}")
        own_module, own_name = import_path(function)
        self._functions[_atom(module or own_module), _atom(name or own_name)] = function

    def resolve(self, request: SpawnRequest) -> tuple[Callable[..., Any], list[Any]] | None:
        """The function that a request asks for, with its arguments; None when there is no such exposed function."""
        if (request.module, request.function, request.arity) == (SPAWN_MODULE, SPAWN_FUNCTION, 4):
            return self._resolve_python(request.args)
        function = self.find(request.module, request.function)
        return None if function is None else (function, request.args)

    def find(self, module: Atom, name: Atom) -> Callable[..., Any] | None:
        return self._functions.get((module, name))

    def _resolve_python(self, call: list[Any]) -> tuple[Callable[..., Any], list[Any]] | None:
        match call:
            case [Atom() as module, Atom() as name, list() as args, bytes() as proof]:
                function = self.find(module, name)
                if function is None and hmac.compare_digest(proof, proof_of(self._node, module.name, name.name)):
                    function = loaded(module.name, name.name)
                return None if function is None else (function, args)
        return None


def remote_call(node: Atom, function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Atom, Atom, list[Any]]:
    """The module, function and arguments that ask `node` to run a Python function. Errors: SpawnError."""
    module, name = import_path(function)
    if loaded(module, name) is not function:
        raise SpawnError(
            f"{module}.{name} cannot be found by its name, so no other node can either: define it at the top level of "
            "a module (no lambda, no inner function)"
        )
    return SPAWN_MODULE, SPAWN_FUNCTION, [Atom(module), Atom(name), list(args), proof_of(node, module, name)]


def import_path(function: Callable[..., Any]) -> tuple[str, str]:
    return getattr(function, "__module__", None) or "", getattr(function, "__qualname__", None) or repr(function)


def loaded(module: str, name: str) -> Callable[..., Any] | None:
    """The callable of that name in a module that is loaded already; nothing is imported on a peer's word."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if callable(found) else None


def proof_of(node: Atom, module: str, name: str) -> bytes:
    """What only code in this Python process can know: that it wants `node` to run this function."""
    return hmac.digest(_PROCESS_SECRET, repr((node.name, module, name)).encode(), hashlib.sha256)


def _atom(name: str | Atom) -> Atom:
    return name if isinstance(name, Atom) else Atom(name)
