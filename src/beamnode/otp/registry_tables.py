"""The tables of a registry: which process has which key, with which value. Nobody is linked or told anything here.

A process that has ended is not shown, even while its entries are still there: `forget` takes them out. Keys are told
apart as Elixir's `===` does (`exact`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol, TypeAlias

from beamnode.errors import UsageError
from beamnode.etf import Atom, Pid, Reference

Predicate: TypeAlias = Callable[[Any], Any]
Entry: TypeAlias = tuple[Pid, Any]


class Owner(Protocol):
    """What the tables need of a process."""

    pid: Pid

    @property
    def alive(self) -> bool: ...


_EXACT_ALREADY: Final = frozenset((str, bytes, int, Atom, Pid, Reference, type(None)))


def exact(key: Any) -> Any:
    """What stands for a key in a dict: `1`, `1.0` and `True` are three keys, and a list or a dict can be one.

    Errors: UsageError for what has no hash.
    """
    kind = type(key)
    if kind in _EXACT_ALREADY:
        return key
    if kind is tuple:
        return tuple([exact(part) for part in key])
    if kind is float or kind is bool:
        return (kind, key)
    if kind is list:
        return (list, tuple([exact(part) for part in key]))
    if kind is dict:
        return (dict, frozenset([(exact(name), exact(value)) for name, value in key.items()]))
    try:
        hash(key)
    except TypeError:
        raise UsageError(f"{key!r} cannot be a key of a registry: it has no hash") from None
    return key


class Table(ABC):
    """What both kinds have."""

    def __init__(self) -> None:
        self._owned: dict[Pid, dict[Any, Any]] = {}  # of each process, by exact keys: the kind says what

    def owners(self) -> list[Pid]:
        """Who has an entry."""
        return list(self._owned)

    def has(self, pid: Pid) -> bool:
        """Whether a process has an entry."""
        return pid in self._owned

    @abstractmethod
    def add(self, owner: Owner, key: Any, value: Any) -> Owner | None:
        """Enter a key; who has it already, if it may be there only once: then nothing is entered."""

    @abstractmethod
    def entries(self, key: Any) -> list[Entry]:
        """`(pid, value)` of a key, in the order of their registration as far as they are of one process."""

    @abstractmethod
    def values(self, key: Any, pid: Pid) -> list[Any]:
        """The values that a process has under a key."""

    @abstractmethod
    def remove(self, pid: Pid, key: Any, predicate: Predicate | None = None) -> tuple[int, int]:
        """Take out what a process has under a key (for which `predicate` is true); how many, and how many are left."""

    @abstractmethod
    def keys(self, pid: Pid) -> list[Any]:
        """The keys of a process, each as often as it has it."""

    @abstractmethod
    def all(self) -> Iterator[tuple[Any, Pid, Any]]:
        """`(key, pid, value)` of every entry."""

    @abstractmethod
    def forget(self, pid: Pid) -> None:
        """Take out all that a process has."""

    @abstractmethod
    def __len__(self) -> int:
        """How many entries there are."""


class UniqueTable(Table):
    """A key belongs to one process."""

    def __init__(self) -> None:
        super().__init__()
        self._by_key: dict[Any, tuple[Owner, Any, Any]] = {}  # exact key: owner, key, value

    def add(self, owner: Owner, key: Any, value: Any) -> Owner | None:
        form = exact(key)
        entry = self._by_key.get(form)
        if entry is not None:
            if entry[0].alive:
                return entry[0]
            self.forget(entry[0].pid)
        self._by_key[form] = (owner, key, value)
        self._owned.setdefault(owner.pid, {})[form] = None
        return None

    def owner(self, key: Any) -> Pid | None:
        """Who has the key."""
        entry = self._by_key.get(exact(key))
        return entry[0].pid if entry is not None and entry[0].alive else None

    def replace(self, pid: Pid, key: Any, value: Any) -> bool:
        """Change the value of an entry; False if the process does not have the key."""
        form = exact(key)
        entry = self._by_key.get(form)
        if entry is None or entry[0].pid != pid:
            return False
        self._by_key[form] = (entry[0], entry[1], value)
        return True

    def entries(self, key: Any) -> list[Entry]:
        entry = self._by_key.get(exact(key))
        return [(entry[0].pid, entry[2])] if entry is not None and entry[0].alive else []

    def values(self, key: Any, pid: Pid) -> list[Any]:
        entry = self._by_key.get(exact(key))
        return [entry[2]] if entry is not None and entry[0].alive and entry[0].pid == pid else []

    def remove(self, pid: Pid, key: Any, predicate: Predicate | None = None) -> tuple[int, int]:
        form = exact(key)
        entry = self._by_key.get(form)
        if entry is None or entry[0].pid != pid:
            return 0, 0
        if predicate is not None and not predicate(entry[2]):
            return 0, 1
        del self._by_key[form]
        owned = self._owned[pid]
        del owned[form]
        if not owned:
            del self._owned[pid]
        return 1, 0

    def keys(self, pid: Pid) -> list[Any]:
        found = [self._by_key[form] for form in self._owned.get(pid, ())]
        return [key for owner, key, _ in found if owner.alive]

    def all(self) -> Iterator[tuple[Any, Pid, Any]]:
        return ((key, owner.pid, value) for owner, key, value in list(self._by_key.values()) if owner.alive)

    def forget(self, pid: Pid) -> None:
        for form in self._owned.pop(pid, ()):
            del self._by_key[form]

    def __len__(self) -> int:
        return len(self._by_key)


class _Bucket:
    """What one process has under one key."""

    __slots__ = ("key", "owner", "values")

    def __init__(self, owner: Owner, key: Any) -> None:
        self.owner = owner
        self.key = key
        self.values: list[Any] = []


class DuplicateTable(Table):
    """A key belongs to any number of processes, and to each of them any number of times."""

    def __init__(self) -> None:
        super().__init__()
        self._by_key: dict[Any, dict[Pid, _Bucket]] = {}
        self._size = 0

    def add(self, owner: Owner, key: Any, value: Any) -> Owner | None:
        form = exact(key)
        owned = self._owned.setdefault(owner.pid, {})
        bucket = owned.get(form)
        if bucket is None:
            bucket = owned[form] = self._by_key.setdefault(form, {})[owner.pid] = _Bucket(owner, key)
        bucket.values.append(value)
        self._size += 1
        return None

    def entries(self, key: Any) -> list[Entry]:
        buckets = self._by_key.get(exact(key), {})
        return [(pid, value) for pid, bucket in buckets.items() if bucket.owner.alive for value in bucket.values]

    def values(self, key: Any, pid: Pid) -> list[Any]:
        bucket = self._owned.get(pid, {}).get(exact(key))
        return list(bucket.values) if bucket is not None and bucket.owner.alive else []

    def remove(self, pid: Pid, key: Any, predicate: Predicate | None = None) -> tuple[int, int]:
        form = exact(key)
        bucket = self._owned.get(pid, {}).get(form)
        if bucket is None:
            return 0, 0
        left = [] if predicate is None else [value for value in bucket.values if not predicate(value)]
        removed = len(bucket.values) - len(left)
        bucket.values = left
        self._size -= removed
        if not left:
            self._drop(pid, form)
            del self._owned[pid][form]
            if not self._owned[pid]:
                del self._owned[pid]
        return removed, len(left)

    def _drop(self, pid: Pid, form: Any) -> None:
        buckets = self._by_key[form]
        del buckets[pid]
        if not buckets:
            del self._by_key[form]

    def keys(self, pid: Pid) -> list[Any]:
        buckets = self._owned.get(pid, {}).values()
        return [bucket.key for bucket in buckets if bucket.owner.alive for _ in bucket.values]

    def all(self) -> Iterator[tuple[Any, Pid, Any]]:
        every = [bucket for buckets in self._by_key.values() for bucket in buckets.values()]
        return (
            (bucket.key, bucket.owner.pid, value) for bucket in every if bucket.owner.alive for value in bucket.values
        )

    def forget(self, pid: Pid) -> None:
        for form, bucket in self._owned.pop(pid, {}).items():
            self._size -= len(bucket.values)
            self._drop(pid, form)

    def __len__(self) -> int:
        return self._size
