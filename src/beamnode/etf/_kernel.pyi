from collections.abc import Sequence
from typing import Any

from beamnode.etf.terms import Atom
from beamnode.limits import Limits

def encode(term: Any, *, compressed: bool = False) -> bytes: ...
def decode(data: bytes | bytearray | memoryview, *, strings: bool = False, limits: Limits = ...) -> Any: ...
def encode_into(out: bytearray, term: Any, atoms: dict[Atom, int] | None = None) -> None: ...
def encode_chunks(term: Any, atoms: dict[Atom, int] | None = None) -> tuple[list[bytes], int]: ...
def decode_from(
    data: bytes | bytearray | memoryview,
    offset: int,
    atoms: Sequence[Any] = (),
    *,
    strings: bool = False,
    limits: Limits = ...,
) -> tuple[Any, int]: ...
