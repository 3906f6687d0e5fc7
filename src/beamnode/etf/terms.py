"""The Python classes of the terms that have no Python type of their own. Values: never change one after it is made.

| term             | class          |            | term         | class      |
|------------------|----------------|            |--------------|------------|
| atom             | `Atom`         |            | fun          | `Fun`      |
| pid              | `Pid`          |            | `fun m:f/a`  | `Export`   |
| port             | `Port`         |            | bitstring    | `BitString`|
| reference        | `Reference`    |            | `[a \\| b]`   | `ImproperList` |
| native record    | `NativeRecord` |            | LOCAL_EXT    | `LocalTerm`|

`true`, `false` and `nil` are `True`, `False` and `None`; an `Atom` of those names is never made by the decoder, and is
encoded as the same atom when a program makes one.
"""

from __future__ import annotations

from _weakref import _remove_dead_weakref  # type: ignore[attr-defined]  # what WeakValueDictionary removes with
from typing import Any, Final, Self
from weakref import KeyedRef

# Atoms are interned, as in the BEAM, so that equality is identity and hashing is free. The table holds values, no state
# of any node, and forgets what nobody uses: a peer cannot fill it. (ARCHITECTURE.md, "Module-level state".)
# No WeakValueDictionary: its `setdefault` may let two threads make the same atom twice; that of a dict may not.
_interned: Final[dict[str, KeyedRef[str, Any]]] = {}


def _forget(reference: KeyedRef[str, Any]) -> None:
    _remove_dead_weakref(_interned, reference.key)


class Atom:
    """An Erlang atom: `Atom("ok")`. The same name is the same object; an atom is never equal to a `str`.

    At most 255 characters (the encoder refuses more). Orders by its text, as OTP orders atoms.
    """

    __slots__ = ("__weakref__", "_external", "name")

    name: str
    _external: bytes  # the encoder's: the atom's bytes, once it has made them

    def __new__(cls, name: str) -> Self:
        known = _interned.get(name)
        found: Self | None = None if known is None else known()
        if found is not None:
            return found
        if not isinstance(name, str):
            raise TypeError(f"an atom is made of a str, not of {type(name).__name__}")
        atom = super().__new__(cls)
        object.__setattr__(atom, "name", str(name))
        return atom._interned_as_first()

    def _interned_as_first(self) -> Self:
        """This atom, or the one of the same name that another thread has made meanwhile."""
        reference = KeyedRef(self, _forget, self.name)
        while True:
            first: Self | None = _interned.setdefault(self.name, reference)()
            if first is not None:
                return first
            _remove_dead_weakref(_interned, self.name)

    def __setattr__(self, _name: str, _value: object) -> None:
        raise AttributeError("an atom cannot be changed")

    def __repr__(self) -> str:
        return f"Atom({self.name!r})"

    def __str__(self) -> str:
        return self.name

    def __lt__(self, other: Atom) -> bool:
        return self.name < other.name

    def __gt__(self, other: Atom) -> bool:
        return self.name > other.name

    def __reduce__(self) -> tuple[type[Atom], tuple[str]]:
        return (Atom, (self.name,))

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: object) -> Self:
        return self


def on_one_line(name: str) -> str:
    """A name for logs: as it is, or escaped where a peer would write lines of its own into them."""
    return name if name.isprintable() else ascii(name)[1:-1]


class _Atoms:
    """`a.ok` is `Atom("ok")`, `a["x@host"]` is `Atom("x@host")`; the dotted form is a value pattern in `match`."""

    def __getattr__(self, name: str) -> Atom:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)  # probes of inspect, copy, pickle, ...
        atom = Atom(name)
        self.__dict__[name] = atom  # the names that a program writes in its source
        return atom

    def __getitem__(self, name: str) -> Atom:
        return Atom(name)

    def __repr__(self) -> str:
        return "a"


a: Final = _Atoms()


class Pid:
    """A process identifier: `node`, `id` (28 bits and more with V4_NC: 32), `serial` (32), `creation` of its node."""

    __slots__ = ("creation", "id", "node", "serial")

    def __init__(self, node: Atom, id: int, serial: int, creation: int) -> None:
        self.node = node
        self.id = id
        self.serial = serial
        self.creation = creation

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(other) is not Pid:
            return NotImplemented
        return (
            self.id == other.id
            and self.serial == other.serial
            and self.node is other.node
            and self.creation == other.creation
        )

    def __hash__(self) -> int:
        return hash((self.id, self.serial, self.creation, self.node))

    def __repr__(self) -> str:
        return f"Pid<{on_one_line(self.node.name)}.{self.id}.{self.serial}>"


class Port:
    """A port identifier: `node`, `id` (up to 64 bits), `creation`."""

    __slots__ = ("creation", "id", "node")

    def __init__(self, node: Atom, id: int, creation: int) -> None:
        self.node = node
        self.id = id
        self.creation = creation

    def __eq__(self, other: object) -> bool:
        if type(other) is not Port:
            return NotImplemented
        return self.id == other.id and self.node is other.node and self.creation == other.creation

    def __hash__(self) -> int:
        return hash((self.id, self.creation, self.node))

    def __repr__(self) -> str:
        return f"Port<{on_one_line(self.node.name)}.{self.id}>"


class Reference:
    """A reference: `node`, `creation` and one to five 32-bit `words` (OTP 27's alias references have five)."""

    __slots__ = ("creation", "node", "words")

    def __init__(self, node: Atom, creation: int, words: tuple[int, ...]) -> None:
        self.node = node
        self.creation = creation
        self.words = words

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(other) is not Reference:
            return NotImplemented
        return self.words == other.words and self.node is other.node and self.creation == other.creation

    def __hash__(self) -> int:
        return hash((self.words, self.creation, self.node))  # all of it: peers choose what is in theirs

    def __repr__(self) -> str:
        return f"Reference<{on_one_line(self.node.name)}.{'.'.join(str(word) for word in reversed(self.words))}>"


class _Value:
    """Equality, hash and repr from `__slots__`, for the rarer terms."""

    __slots__: tuple[str, ...] = ("_hash",)

    _hash: int

    def _fields(self) -> tuple[Any, ...]:
        return tuple([getattr(self, name) for name in self.__slots__])

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._fields() == other._fields()

    def __hash__(self) -> int:
        try:
            return self._hash
        except AttributeError:  # taken once: the decoder makes keys from the inside out, and so never hashes deep
            self._hash = hash((type(self), self._fields()))
            return self._hash

    def __getstate__(self) -> tuple[None, dict[str, Any]]:  # without the hash, which is one Python process's own
        return None, {name: getattr(self, name) for name in self.__slots__}

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({fields})"


class Export(_Value):
    """`fun module:function/arity`, in Elixir `&Mod.fun/arity` (EXPORT_EXT)."""

    __slots__ = ("arity", "function", "module")

    def __init__(self, module: Atom, function: Atom, arity: int) -> None:
        self.module = module
        self.function = function
        self.arity = arity


class Fun(_Value):
    """A local fun of some module (NEW_FUN_EXT): its code is not in the term, only what it closes over (`free`)."""

    __slots__ = ("arity", "free", "index", "module", "old_index", "old_uniq", "pid", "uniq")

    def __init__(
        self,
        module: Atom,
        arity: int,
        uniq: bytes,
        index: int,
        old_index: int,
        old_uniq: int,
        pid: Pid,
        free: tuple[Any, ...],
    ) -> None:
        self.module = module
        self.arity = arity
        self.uniq = uniq
        self.index = index
        self.old_index = old_index
        self.old_uniq = old_uniq
        self.pid = pid
        self.free = free


class BitString(_Value):
    """A bitstring of an odd length: of the last byte of `data` the upper `bits` (1 to 7) count, the others are 0."""

    __slots__ = ("bits", "data")

    def __init__(self, data: bytes, bits: int) -> None:
        self.data = data
        self.bits = bits


class ImproperList(_Value):
    """A list that does not end in `[]`: `elements` (one or more), then `tail` (anything but a list)."""

    __slots__ = ("elements", "tail")

    def __init__(self, elements: tuple[Any, ...], tail: Any) -> None:
        self.elements = elements
        self.tail = tail


class NativeRecord(_Value):
    """A native record of OTP 29 (EEP 79): `module`, `name`, ordered `fields` of (name, value), `exported`."""

    __slots__ = ("exported", "fields", "module", "name")

    def __init__(self, module: Atom, name: Atom, fields: tuple[tuple[Atom, Any], ...], exported: bool) -> None:
        self.module = module
        self.name = name
        self.fields = fields
        self.exported = exported


class LocalTerm(_Value):
    """LOCAL_EXT: a term that only the node which made it understands; `data` is kept as opaque bytes and sent back."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data
