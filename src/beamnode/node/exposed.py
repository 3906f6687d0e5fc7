"""What a peer may start here: what was exposed, under the node's policy, and nothing else.

Nodes of one Python process are no strangers to each other: a spawn between them carries a proof that it comes from the
same process, which could have called the function itself.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import importlib
import inspect
import logging
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import ModuleType
from typing import Any, Final, Literal

from beamnode.errors import SpawnError, UsageError
from beamnode.etf import Atom, Fun, a
from beamnode.etf.shown import shown
from beamnode.node.asked import Asked, plain
from beamnode.node.audit import Audit
from beamnode.node.guard import Gate
from beamnode.wire.control import SpawnRequest

log = logging.getLogger("beamnode.rpc")

# Made once per Python process and never sent: only digests of it are.
_PROCESS_SECRET: Final = secrets.token_bytes(32)

# `beamnode:spawn(Module, Function, Args, Proof)`: how a Python function is asked of a Python node, with the function
# itself as a fifth argument where its name says nothing elsewhere. On an OTP node it is an `undef`, which says what is
# wrong.
SPAWN_MODULE = a.beamnode
SPAWN_FUNCTION = a.spawn

Run = Literal["process"] | None
Kind = Literal["spawn", "call"]


class Policy(StrEnum):
    """What peers, who all know the cookie, may run on a node."""

    EXPOSED = "exposed"  # what was exposed: a library node
    NOTHING = "nothing"  # a client
    EVERYTHING = "everything"  # any function that can be imported, and functions by value: a shell


PolicyHook = Callable[[Asked], Policy | str]


@dataclass(frozen=True, slots=True)
class Callee:
    """What is to be run: `function(*args)`; with `run="process"` in the pool of processes."""

    function: Callable[..., Any]
    args: list[Any]
    run: Run = None


class ByValueRefused(Exception):
    """A function came by value to a node that does not trust its peers that far."""


class NotImported(Exception):
    """A peer may run what it asks for, whose module is not imported yet: `import_callee(asked)`, in a thread."""

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self.asked = asked


class Exposed:
    """The table of one node: (module, function) to a Python callable; and the policy."""

    def __init__(
        self,
        node: Atom,
        policy: Policy | PolicyHook | str = Policy.EXPOSED,
        audit: Audit | None = None,
        gate: Gate | None = None,
    ) -> None:
        self._node = node
        self._audit = Audit(node) if audit is None else audit
        self._gate = gate
        self._policy = _checked_policy(policy)
        self._functions: dict[tuple[Atom, Atom], tuple[Callable[..., Any], Run]] = {}
        self._builtins: dict[tuple[Atom, Atom, int], Callable[..., Any]] = {}
        self._answers: dict[tuple[Atom, Atom, int], Callable[..., Any]] = {}  # of services, under the policy

    # --- Filling it ---------------------------------------------------------------------------------------------------

    def expose(
        self, target: Any, module: str | Atom | None = None, name: str | Atom | None = None, run: Any = None
    ) -> None:
        """Let peers call a function, the public functions of a module, or the public methods of an object.

        `module` and `name` are what peers call it; by default its import path. An object has none: give `module`.
        """
        if self._policy is Policy.NOTHING:
            raise UsageError("this node's policy is 'nothing', so nothing can be exposed: Node(..., policy='exposed')")
        if run not in (None, "process"):
            raise UsageError(f"run is None (async def: on the loop, def: in a thread) or 'process', not {run!r}")
        if isinstance(target, type):
            raise UsageError(f"{target!r} is a class: expose its functions, or an instance of it with module=...")
        if isinstance(target, ModuleType):
            members, module = _functions_of(target), module or target.__name__
        elif _is_function(target) or (callable(target) and name is not None):
            own_module, own_name = import_path(target)
            members, module = {str(name or own_name): target}, module or own_module
        elif module is None:
            raise UsageError(
                f"only something callable can be exposed, not {shown(target)}; of an object, the methods, under the "
                "name that peers know: node.expose(it, module='name')"
            )
        else:
            members = _methods_of(target)
        if name is not None and len(members) != 1:
            raise UsageError("name= is for one function: a module or an object is exposed under module=")
        if not members:
            raise UsageError(f"{shown(target)} has no public function to expose")
        for member, function in members.items():
            if run == "process":
                _check_for_process(function)
            self._functions[_atom(module), _atom(member)] = (function, run)

    def builtin(
        self, module: Atom, name: Atom, arity: int, function: Callable[..., Any], under_policy: bool = False
    ) -> None:
        """Let peers start a function of a service, whatever the policy, or as if it had been exposed."""
        (self._answers if under_policy else self._builtins)[module, name, arity] = function

    # --- Looking it up ------------------------------------------------------------------------------------------------

    def resolve(self, asked: Asked, kind: Kind = "call") -> Callee | None:
        """What a call or a spawn asks for; None, and a line in the log, when there is no such thing or it is refused.

        Errors: ByValueRefused, NotImported.
        """
        asked = asked.applied()
        arity = len(asked.args)
        if (asked.module, asked.function) == (SPAWN_MODULE, SPAWN_FUNCTION) and arity in (4, 5):
            return self._resolve_python(asked, kind)
        builtin = self._builtins.get((asked.module, asked.function, arity))
        if builtin is not None:
            return Callee(builtin, asked.args)
        return self._resolve_named(asked, kind) if self._is_let_through(asked, kind) else None

    def resolve_request(self, node: Atom, request: SpawnRequest) -> Callee | None:
        """`resolve` for a spawn that `node` asks for."""
        return self.resolve(Asked(node, request.module, request.function, request.args), "spawn")

    def _is_let_through(self, asked: Asked, kind: Kind) -> bool:
        """Whether the guard has nothing against it."""
        return self._gate is None or asked.node is self._node or self._gate.may_run(kind, asked)

    def _allowed(self, asked: Asked, kind: Kind) -> None:
        if asked.node is not self._node and self._audit.tells_of_allowed():
            self._audit.allowed(kind, plain(asked.node), str(asked))

    def _refused(self, asked: Asked, kind: Kind, why: str) -> None:
        self._audit.refused(kind, plain(asked.node), str(asked), why)

    def _resolve_named(self, asked: Asked, kind: Kind) -> Callee | None:
        if asked.args and isinstance(asked.args[0], Fun) and (asked.module, asked.function) == (a.erlang, a.apply):
            self._audit.refused(kind, plain(asked.node), "a fun", f"the code of {shown(asked.args[0].module)} is there")
            return None
        policy = self.policy_for(asked)
        if policy is not Policy.NOTHING:
            found = self._functions.get((asked.module, asked.function))
            if found is not None:
                self._allowed(asked, kind)
                return Callee(found[0], asked.args, found[1])
            answer = self._answers.get((asked.module, asked.function, len(asked.args)))
            if answer is not None:
                self._allowed(asked, kind)
                return Callee(answer, asked.args)
        if policy is Policy.EVERYTHING:
            self._allowed(asked, kind)
            if not is_imported(asked.module.name):
                raise NotImported(asked)
            return import_callee(asked)
        why = "it is not exposed" if policy is Policy.EXPOSED else "this node serves nothing"
        self._refused(asked, kind, why)
        return None

    def policy_for(self, asked: Asked) -> Policy:
        """What the policy says about this call; a hook that fails says no."""
        if isinstance(self._policy, Policy):
            return self._policy
        try:
            return Policy(self._policy(asked))
        except Exception:
            log.exception("the policy of %s failed for %s, asked by %s", self._node, asked, plain(asked.node))
            return Policy.NOTHING

    def _resolve_python(self, asked: Asked, kind: Kind) -> Callee | None:
        match asked.args:
            case [Atom() as module, Atom() as name, list() as args, bytes() | str() as proof, *by_value]:
                pass
            case _:
                self._refused(asked, kind, "malformed")
                return None
        call = Asked(asked.node, module, name, args)
        if not self._is_let_through(call, kind):
            return None
        told = proof.encode() if isinstance(proof, str) else proof
        if hmac.compare_digest(told, proof_of(self._node, module.name, name.name)):
            function = loaded(module.name, name.name)
            if function is not None:
                self._allowed(call, kind)
                return Callee(function, args)
        policy = self.policy_for(call)
        if not by_value or (policy is Policy.EXPOSED and (module, name) in self._functions):
            return self._resolve_named(call, kind)
        if policy is not Policy.EVERYTHING or type(by_value[0]) is not bytes:
            self._refused(call, kind, "it came by value, which needs policy 'everything'")
            raise ByValueRefused
        self._allowed(call, kind)
        function = _unpickled(by_value[0], call)
        return None if function is None else Callee(function, args)


# --- What can be exposed ----------------------------------------------------------------------------------------------


def _is_function(target: Any) -> bool:
    return inspect.isroutine(target) or isinstance(target, functools.partial)


def _functions_of(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """What `__all__` names, or else the functions without a `_` that the module defines itself."""
    listed = getattr(module, "__all__", None)
    found = {}
    for name in dir(module) if listed is None else listed:
        member = getattr(module, name)
        own = listed is not None or getattr(member, "__module__", None) == module.__name__
        if not name.startswith("_") and own and _is_function(member):
            found[name] = member
    return found


def _methods_of(target: Any) -> dict[str, Callable[..., Any]]:
    """The public methods of an object; its properties are not asked."""
    found = {}
    for name in dir(target):
        member = inspect.getattr_static(target, name, None)
        if not name.startswith("_") and (_is_function(member) or isinstance(member, staticmethod | classmethod)):
            found[name] = getattr(target, name)
    return found


def _check_for_process(function: Callable[..., Any]) -> None:
    """Another OS process finds the function by its name."""
    module, name = import_path(function)
    if inspect.iscoroutinefunction(function):
        raise UsageError(f"{module}.{name} is an async def: only a plain def runs in a process of its own")
    if not inspect.isroutine(function) or inspect.ismethod(function) or "<" in name:
        raise UsageError(
            f"{module}.{name} cannot be found by its name in another OS process: define it at the top level of a module"
        )


def _checked_policy(policy: Policy | PolicyHook | str) -> Policy | PolicyHook:
    if callable(policy) and not isinstance(policy, str):
        return policy
    try:
        return Policy(policy)
    except ValueError:
        kinds = ", ".join(repr(kind.value) for kind in Policy)
        raise UsageError(f"policy is one of {kinds}, or a function of a call that gives one, not {policy!r}") from None


# --- Python functions between Python nodes ----------------------------------------------------------------------------


def remote_call(node: Atom, function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Atom, Atom, list[Any]]:
    """The module, function and arguments that ask `node` to run a Python function. Errors: SpawnError.

    A function that another program cannot find by its name (a lambda, one of `__main__`) travels by value as well.
    """
    module, name = import_path(function)
    found = loaded(module, name) is function
    proof = proof_of(node, module, name) if found else b""
    call = [Atom(module[:255]), Atom(name[:255]), list(args), proof]
    if not found or module == "__main__":
        pickled = _pickled(function)
        if pickled is not None:
            call.append(pickled)
        elif not found:
            raise SpawnError(
                f"{module}.{name} cannot be found by its name, so no other node can either: define it at the top level "
                "of a module (no lambda, no inner function), or install cloudpickle (pip install beamnode[cloudpickle])"
            )
    return SPAWN_MODULE, SPAWN_FUNCTION, call


def by_value_refused(node: Atom, function: Callable[..., Any]) -> SpawnError:
    """What to say when `node` refused such a function."""
    module, name = import_path(function)
    return SpawnError(
        f"{module}.{name} cannot be found by its name, and {node} runs no functions that come by value: define it at "
        "the top level of a module (no lambda, no inner function) and expose it there, or give that node "
        "policy='everything'",
        a.notsup,
    )


def _pickled(function: Callable[..., Any]) -> bytes | None:
    """The function by value; None without cloudpickle. Errors: SpawnError for what it holds and cannot travel."""
    try:
        import cloudpickle  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        return None
    try:
        pickled: bytes = cloudpickle.dumps(function)
    except Exception as error:
        raise SpawnError(f"{shown(function)} cannot travel by value, because of what it uses: {error}") from error
    return pickled


def _unpickled(pickled: bytes, asked: Asked) -> Callable[..., Any] | None:
    """Only for peers that may run everything here: unpickling runs code."""
    try:
        import cloudpickle

        function = cloudpickle.loads(pickled)
    except (Exception, SystemExit) as error:
        log.warning("cannot run %s by value for %s: %r", asked, plain(asked.node), error)
        return None
    return function if callable(function) else None


def import_path(function: Callable[..., Any]) -> tuple[str, str]:
    return getattr(function, "__module__", None) or "", getattr(function, "__qualname__", None) or repr(function)


def loaded(module: str, name: str) -> Callable[..., Any] | None:
    """The callable of that name in a module that is loaded already; nothing is imported on a peer's word."""
    return _callable_in(sys.modules.get(module), name)


def is_imported(module: str) -> bool:
    """Whether using it takes no time: it is there, and no other thread is still running it."""
    found = sys.modules.get(module)
    return found is not None and not getattr(getattr(found, "__spec__", None), "_initializing", False)


def import_callee(asked: Asked) -> Callee | None:
    """What a peer asks for, which it may run, in a module that is imported if need be: that can take seconds."""
    function = imported(asked.module.name, asked.function.name)
    if function is not None:
        return Callee(function, asked.args)
    log.warning("refused %s to %s: there is no such function", asked, plain(asked.node))
    return None


def imported(module: str, name: str) -> Callable[..., Any] | None:
    """The callable of that name in a module that is imported if need be: for peers that may run everything."""
    try:
        return _callable_in(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # a module may do anything when it is imported, or asked for a name
        log.warning("cannot import %s, which a peer asked for: %r", shown(module), error)
        return None


def _callable_in(found: Any, name: str) -> Callable[..., Any] | None:
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if callable(found) else None


def proof_of(node: Atom, module: str, name: str) -> bytes:
    """What only code in this Python process can know: that it wants `node` to run this function."""
    digest = hmac.digest(_PROCESS_SECRET, repr((node.name, module, name)).encode(), hashlib.sha256)
    return digest.hex().encode()  # text, which stays what it is with `strings`, too


def _atom(name: str | Atom) -> Atom:
    return name if isinstance(name, Atom) else Atom(name)
