"""Map keys that Python's `dict` cannot hold as they are: lists and maps, and keys that only Erlang tells apart.

In Erlang every term is a key, and `1`, `1.0` and `true` are three of them. In a `dict` a `list` is no key at all, and
`1 == 1.0 == True` is one. So the decoder makes, inside keys only:

- `HashableList` and `HashableDict` for lists and maps. They equal the plain value and are encoded as it.
- `ExactKey` for a key that Python takes for another key of the same map. It equals exactly the same term and nothing
  else. Of such keys the integer stays plain (`{1: "a", ExactKey(1.0): "b"}`), whatever their order on the wire.

Programs may make all three, to look something up or to send it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from beamnode.errors import DecodeError
from beamnode.etf.encode_python import HANDLERS, encode_into
from beamnode.etf.leaves_python import TermLimitExceeded

# Maps that are keys of maps that are keys of maps ... : each level costs another encoding of what is below.
KEY_LEVELS_MAX: Final = 16
# Keys of one map that Python hashes to the same number. There is no secret in how it hashes numbers, so a peer can find
# such keys, and each is compared with all others: 20,000 keys, a quarter of a megabyte, would take seconds.
EQUAL_HASHES_MAX: Final = 128
# Python hashes and compares nested tuples by recursion in C: this many containers are safe on any thread's stack.
KEY_DEPTH_MAX: Final = 4096


class HashableList(list[Any]):
    """A list inside a map key. Never change it after it is made: its hash is taken then, from the inside out."""

    __slots__ = ("_hash",)

    def __init__(self, items: Any = ()) -> None:
        super().__init__(items)
        self._hash = hash((HashableList, tuple(self)))

    def __hash__(self) -> int:  # type: ignore[override]
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:  # without the hash, which another Python process would not find the same
        return (HashableList, (list(self),))


class HashableDict(dict[Any, Any]):
    """A map inside a map key. Never change it after it is made: its hash is taken then, from the inside out."""

    __slots__ = ("_hash",)

    def __init__(self, items: Any = ()) -> None:
        super().__init__(items)
        self._hash = hash((HashableDict, len(self), sum(map(hash, self.items()))))

    def __hash__(self) -> int:  # type: ignore[override]
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        return (HashableDict, (dict(self),))


class ExactKey:
    """A map key that equals only exactly the same term: `ExactKey(1.0)` is neither `1.0` nor `1` nor `True`."""

    __slots__ = ("external", "term")

    def __init__(self, term: Any) -> None:
        self.term = term
        self.external = external_form(term)

    def __eq__(self, other: object) -> bool:
        return self.external == other.external if type(other) is ExactKey else NotImplemented

    def __hash__(self) -> int:
        return hash((ExactKey, self.external))

    def __repr__(self) -> str:
        return f"ExactKey({self.term!r})"


def external_form(term: Any) -> bytes:
    """The bytes of `term`, which are the same for two keys of the decoder exactly if Erlang takes them for the same."""
    out = bytearray()
    encode_into(out, term)
    return bytes(out)


def build_map(items: list[Any], _pos: int, frozen: int) -> dict[Any, Any]:
    """A map of `items`: key, value, key, value, ...; for a map inside a key (`frozen`) a hashable one.

    A key that comes twice is a `DecodeError`, as it is a `badarg` in OTP.
    """
    keys = items[::2]
    try:
        if len(keys) > EQUAL_HASHES_MAX:
            _check_hashes(keys)
        result: dict[Any, Any] = dict(zip(keys, items[1::2], strict=True))
        if len(result) != len(keys):
            result = _tell_apart(keys, items[1::2])
        if frozen:  # one order for all that are the same, so that `external_form` is the same too
            result = HashableDict(sorted(result.items(), key=lambda item: external_form(item[0])))
    except RecursionError:
        raise DecodeError("two keys of a map are nested too deep to be compared") from None
    return result


def _check_hashes(keys: list[Any]) -> None:
    """Raise where so many keys have the same hash that the map would take long to make."""
    hashes = [hash(key) for key in keys]
    if len(keys) - len(set(hashes)) > EQUAL_HASHES_MAX and max(Counter(hashes).values()) > EQUAL_HASHES_MAX:
        raise TermLimitExceeded(
            f"a map of which more than {EQUAL_HASHES_MAX} keys have the same hash in Python", "term_elements_max"
        )


def _tell_apart(keys: list[Any], values: list[Any]) -> dict[Any, Any]:
    """The map of keys of which Python takes some for equal."""
    forms = [external_form(key) for key in keys]
    if len(set(forms)) != len(keys):
        raise DecodeError("a key comes twice in one map")
    ranks = [(type(key) is not int, form) for key, form in zip(keys, forms, strict=True)]
    plain: dict[Any, int] = {}
    for i, key in enumerate(keys):
        if key not in plain or ranks[i] < ranks[plain[key]]:
            plain[key] = i
    return {
        key if plain[key] == i else ExactKey(key): value
        for i, (key, value) in enumerate(zip(keys, values, strict=True))
    }


def _encode_exact_key(out: bytearray, key: ExactKey, _atoms: object) -> None:
    out += key.external


HANDLERS[ExactKey] = _encode_exact_key
HANDLERS[HashableDict] = HANDLERS[dict]
HANDLERS[HashableList] = HANDLERS[list]
