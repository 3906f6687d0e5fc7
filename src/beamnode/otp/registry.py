"""`Registry`: processes of this node by keys, one each ("unique") or any number ("duplicate").

    await Registry.start_link(keys="unique", name="rooms")
    await Room.start(name=("via", Registry, ("rooms", 7)))
    await GenServer.call(("via", Registry, ("rooms", 7)), a.who)

A registry is a process, and its table is that process's: it ends with it. Nobody sends it anything to look something up
or to register, which is done at once, in the caller (from a thread, on the node's loop). A process is linked with the
registries that it is in: what it has there goes when it ends, and is not shown from that moment on; if a registry
ends, so do they, as in Elixir. Keys are compared as with Elixir's `===`: `1`, `1.0` and `True` are three keys (a `str`
and the same text as `bytes` are two).

Where Elixir takes match specifications, functions are taken: `match(registry, key, lambda value: value > 1)`.
Source: Elixir's Registry.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal, TypeVar

from beamnode.errors import NameTakenError, NoProcessError, UsageError
from beamnode.etf import Atom, Pid, a
from beamnode.etf.shown import shown
from beamnode.node import current_body, exit, self, send, trap_exit, unlink
from beamnode.otp import child_specs, gen, server_loop
from beamnode.otp.child_specs import Supervised
from beamnode.otp.handlers import Handlers
from beamnode.otp.registry_tables import DuplicateTable, Entry, Predicate, Table, UniqueTable
from beamnode.otp.sys import sendable_state

log = logging.getLogger("beamnode.registry")

Kind = Literal["unique", "duplicate"]
Key = Any
Result = TypeVar("Result")


class AlreadyRegistered(NameTakenError):
    """A key of a registry with unique keys belongs to a process already: `pid`."""

    def __init__(self, text: str, pid: Pid) -> None:
        super().__init__(text)
        self.pid = pid


class Registry(Supervised):
    """The functions of any registry, which is named by an Atom or a str; a `via` name has this class in its middle."""

    child_defaults: ClassVar[dict[str, Any]] = {"type": "supervisor"}  # as Elixir's

    @classmethod
    async def start_link(
        cls,
        *,
        keys: Kind | Atom,
        name: Atom | str,
        partitions: int = 1,
        listeners: Iterable[Atom | str] = (),
        meta: Mapping[Any, Any] | None = None,
    ) -> Pid:
        """Start a registry, linked with the current process; its pid.

        `listeners`, registered processes, are sent `(a.register, registry, key, pid, value)` and `(a.unregister,
        registry, key, pid)`, but nothing when a process ends: monitor it for that. `meta`: see `meta`. `partitions` is
        there for programs that come from Elixir: one table serves as well. Errors: AlreadyStarted, UsageError.
        """
        if str(keys) not in ("unique", "duplicate"):
            raise UsageError(f"keys of a registry are 'unique' or 'duplicate', not {keys!r}")
        if not isinstance(name, Atom | str):
            raise UsageError(f"a registry is named by an Atom or a str, not {name!r}")
        if not isinstance(partitions, int) or partitions < 1:
            raise UsageError(f"partitions is a positive integer, not {partitions!r}")
        if isinstance(listeners, Atom | str):
            raise UsageError(f"listeners is a list of names, not {listeners!r}")
        told = tuple(listener if isinstance(listener, Atom) else Atom(listener) for listener in listeners)
        args = (str(keys), name if isinstance(name, Atom) else Atom(name), told, dict(meta or {}), self())
        return await server_loop.start(_Keeper, args, name, None, link=True)

    @classmethod
    def child_spec(cls, *args: Any, **options: Any) -> dict[str, Any]:
        """The specification of a registry as a child: `Registry.child_spec(keys="unique", name="rooms")`."""
        id = child_specs.id_of_name(options.get("name"), cls)
        return {**super().child_spec(*args, **options), "id": id, **cls.child_defaults}

    # --- The current process ------------------------------------------------------------------------------------------

    @staticmethod
    def register(registry: Atom | str, key: Key, value: Any = None) -> Pid:
        """Enter the current process under a key; the pid of the registry, which it is linked with now.

        Errors: AlreadyRegistered, with unique keys; UsageError for a key without a hash.
        """
        return _with(registry, lambda keeper: keeper.register(key, value))

    @staticmethod
    def unregister(registry: Atom | str, key: Key) -> None:
        """Take out all that the current process has under a key; nothing if that is nothing."""
        _with(registry, lambda keeper: keeper.unregister(key, None))

    @staticmethod
    def unregister_match(registry: Atom | str, key: Key, predicate: Predicate) -> None:
        """`unregister`, but only entries for whose value `predicate` is true."""
        _with(registry, lambda keeper: keeper.unregister(key, predicate))

    @staticmethod
    def update_value(registry: Atom | str, key: Key, function: Callable[[Any], Any]) -> tuple[Any, Any] | None:
        """Change the value of the current process's unique key; `(new, old)`, or None when the key is not its own."""
        pid = self()
        found = _with(registry, lambda keeper: keeper.unique("update_value").values(key, pid))
        if not found:
            return None
        new = function(found[0])
        _with(registry, lambda keeper: keeper.unique("update_value").replace(pid, key, new))
        return new, found[0]

    # --- Looking up ---------------------------------------------------------------------------------------------------

    @staticmethod
    def lookup(registry: Atom | str, key: Key) -> list[Entry]:
        """The `(pid, value)` of a key: at most one with unique keys."""
        return _with(registry, lambda keeper: keeper.table.entries(key))

    @staticmethod
    def values(registry: Atom | str, key: Key, pid: Pid) -> list[Any]:
        """The values that a process has under a key."""
        return _with(registry, lambda keeper: keeper.table.values(key, pid))

    @staticmethod
    def keys(registry: Atom | str, pid: Pid) -> list[Key]:
        """The keys of a process, each as often as it has it."""
        return _with(registry, lambda keeper: keeper.table.keys(pid))

    @staticmethod
    def match(registry: Atom | str, key: Key, predicate: Predicate) -> list[Entry]:
        """`lookup`, but only entries for whose value `predicate` is true."""
        return [entry for entry in Registry.lookup(registry, key) if predicate(entry[1])]

    @staticmethod
    def count_match(registry: Atom | str, key: Key, predicate: Predicate) -> int:
        """How many entries `match` finds."""
        return len(Registry.match(registry, key, predicate))

    @staticmethod
    def select(
        registry: Atom | str, predicate: Callable[[Any, Pid, Any], Any] | None = None
    ) -> list[tuple[Key, Pid, Any]]:
        """Every `(key, pid, value)`, or those for which `predicate(key, pid, value)` is true."""
        entries = _with(registry, lambda keeper: list(keeper.table.all()))
        return entries if predicate is None else [entry for entry in entries if predicate(*entry)]

    @staticmethod
    def count_select(registry: Atom | str, predicate: Callable[[Any, Pid, Any], Any]) -> int:
        """How many entries `select` finds."""
        return len(Registry.select(registry, predicate))

    @staticmethod
    def count(registry: Atom | str) -> int:
        """How many entries there are; it takes no longer with many."""
        return _with(registry, lambda keeper: keeper.count())

    @staticmethod
    def dispatch(registry: Atom | str, key: Key, function: Callable[[list[Entry]], Any]) -> None:
        """Call `function` with the entries of a key, here and now, unless there are none.

        With `lambda entries: [send(pid, message) for pid, _ in entries]` it publishes to who is registered.
        """
        entries = Registry.lookup(registry, key)
        result = function(entries) if entries else None
        if inspect.iscoroutine(result):
            result.close()
            raise UsageError("dispatch takes a def: await what you want to do with `Registry.lookup` instead")

    # --- What belongs to the registry itself --------------------------------------------------------------------------

    @staticmethod
    def meta(registry: Atom | str, key: Any, default: Any = None) -> Any:
        """What is kept with the registry under a key, by `start_link` or `put_meta`; else `default`."""
        return _with(registry, lambda keeper: keeper.meta.get(key, default))

    @staticmethod
    def put_meta(registry: Atom | str, key: Any, value: Any) -> None:
        """Keep something with the registry, for as long as it lives."""
        _with(registry, lambda keeper: keeper.meta.update({key: value}))

    @staticmethod
    def delete_meta(registry: Atom | str, key: Any) -> None:
        """Keep it no longer; nothing if it is not there."""
        _with(registry, lambda keeper: keeper.meta.pop(key, None))

    # --- For `via` names: `(registry, key)` or `(registry, key, value)` ----------------------------------------------

    @staticmethod
    def whereis_name(name: tuple[Any, ...]) -> Pid | None:
        """Who has a unique key, or None."""
        registry, key, _ = _parts(name)
        return _with(registry, lambda keeper: keeper.unique("a `via` name").owner(key))

    @staticmethod
    def register_name(name: tuple[Any, ...], pid: Pid) -> bool:
        """`register` for the current process, which `pid` must be; False when another has the key."""
        if pid != self():
            raise UsageError(f"{pid!r} is not the current process: only that can be registered")
        try:
            Registry.register(*_parts(name))
        except AlreadyRegistered:
            return False
        return True

    @staticmethod
    def unregister_name(name: tuple[Any, ...]) -> None:
        """`unregister` for the current process."""
        registry, key, _ = _parts(name)
        Registry.unregister(registry, key)

    @staticmethod
    def send(name: tuple[Any, ...], message: Any) -> Any:
        """Send to who has a unique key. Errors: NoProcessError."""
        pid = Registry.whereis_name(name)
        if pid is None:
            raise NoProcessError(f"nobody is registered as {name!r}")
        return send(pid, message)


class _Keeper(Handlers):
    """The process of a registry: it waits for the ends of those that are in its table. The rest is done by them."""

    def init(self, keys: str, name: Atom, listeners: tuple[Atom, ...], meta: dict[Any, Any], parent: Pid) -> None:
        trap_exit()
        self._name = name
        self._listeners = listeners
        self._parent = parent
        body = current_body()
        self._process, self._runtime = body.process, body.runtime
        self.meta = meta
        self.table: Table = UniqueTable() if keys == "unique" else DuplicateTable()
        self._runtime.tables.setdefault("registry", {})[name] = self
        assert body.code_end is not None
        body.code_end.add_done_callback(self._forget)

    def _forget(self, _: object) -> None:
        keepers = self._runtime.tables["registry"]
        if keepers.get(self._name) is self:
            del keepers[self._name]

    def handle_call(self, request: Any, sender: gen.From) -> Any:
        """Elixir's registry is a supervisor, and tools ask it for its children: this one has none."""
        match request:
            case a.which_children:
                return []
            case a.count_children:
                return [(what, 0) for what in (a.specs, a.active, a.supervisors, a.workers)]
        return (a.error, (a.unknown_request, sendable_state(request)))

    def handle_cast(self, request: Any) -> None:
        log.error("Registry %s was cast %s: that means nothing to it", self._name, shown(request))

    def handle_info(self, message: Any) -> None:
        if not self._note_end(message):
            super().handle_info(message)

    def _note_end(self, message: Any) -> bool:
        match message:
            case (a.EXIT, Pid() as pid, _):
                if self._runtime.signals.lookup(pid) is None:  # anybody can send such a message
                    self.table.forget(pid)
                return True
        return False

    def terminate(self, reason: Any) -> None:
        """In Elixir those that are registered are tied to a child of the registry, which never ends with `normal`."""
        if reason is a.normal:
            for pid in self.table.owners():
                if pid != self._parent:
                    unlink(pid)
                exit(pid, a.shutdown)

    def get_state(self) -> Any:
        return {a.name: self._name, a.entries: len(self.table), a.listeners: list(self._listeners)}

    @classmethod
    def module_name(cls) -> Atom:
        return Atom("Registry")

    # --- On the loop, in the name of the current process --------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Its process may have ended a moment ago, and its code not yet."""
        return self._process.alive

    def unique(self, what: str) -> UniqueTable:
        """The table, for what needs unique keys. Errors: UsageError."""
        if not isinstance(self.table, UniqueTable):
            raise UsageError(f"{self._name} has duplicate keys: {what} needs a registry with unique ones")
        return self.table

    def register(self, key: Any, value: Any) -> Pid:
        process = current_body().process
        process.check_alive()
        owner = self.table.add(process, key, value)
        if owner is not None:
            raise AlreadyRegistered(f"{key!r} is registered in {self._name} already, to {owner.pid!r}", owner.pid)
        self._runtime.signals.link(process, self._process.pid)
        self._tell((a.register, self._name, key, process.pid, value))
        return self._process.pid

    def unregister(self, key: Any, predicate: Predicate | None) -> None:
        process = current_body().process
        removed, left = self.table.remove(process.pid, key, predicate)
        if removed and process.pid != self._parent and not self.table.has(process.pid):
            self._runtime.signals.unlink(process, self._process.pid)
        if not left:  # Elixir's tells it also where there was nothing
            self._tell((a.unregister, self._name, key, process.pid))

    def count(self) -> int:
        for message in tuple(self._process.mailbox):  # of ends that it has not come to yet
            self._note_end(message)
        return len(self.table)

    def _tell(self, message: Any) -> None:
        for listener in self._listeners:
            self._runtime.send(current_body().process, listener, message)


def _keeper_of(body: Any, registry: Atom | str) -> _Keeper:
    """On the loop. Errors: NoProcessError where no registry of that name runs."""
    keepers = body.runtime.tables.get("registry", {})
    keeper: _Keeper | None = keepers.get(registry if type(registry) is Atom else _name(registry))
    if keeper is None or not keeper.alive:
        raise NoProcessError(f"no registry named {registry} runs on this node")
    return keeper


def _name(registry: Any) -> Atom:
    if not isinstance(registry, Atom | str):
        raise UsageError(f"a registry is named by an Atom or a str, not {registry!r}")
    return registry if isinstance(registry, Atom) else Atom(registry)


def _with(registry: Atom | str, action: Callable[[_Keeper], Result]) -> Result:
    """Do something with a registry of this node, on its loop."""
    body = current_body()
    if body.runtime.on_its_loop():
        return action(_keeper_of(body, registry))
    result: Result = body.runtime.on_loop(lambda: action(_keeper_of(body, registry)))
    return result


def _parts(name: Any) -> tuple[Any, Any, Any]:
    """Registry, key and value of a `via` name."""
    if type(name) is not tuple or len(name) not in (2, 3):
        raise UsageError(f"a name of a Registry is (registry, key) or (registry, key, value), not {name!r}")
    return name[0], name[1], name[2] if len(name) == 3 else None
