"""What is fuzzed, one file a target: each has `one_input(data)`, which raises what a bug raises, and `fresh(random)`.

`fresh` draws an input out of the grammar of `tests/hostile/hostile_terms.py`: right in most places and wrong in some.
The first corpus is made of such inputs, and the fuzzer's mutator puts them in now and then (`run.py`).

The Python half of everything is what coverage is taken of; where the compiled one is there, it has to do the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Final

HERE: Final = Path(__file__).parent
CORPUS: Final = HERE / "corpus"
NAMES: Final = ("codec", "channel", "initiator", "acceptor", "epmd_server", "epmd_client")

sys.path.append(str(HERE.parent / "hostile"))  # the grammar, for those who run this by hand


@dataclass(frozen=True, slots=True)
class Target:
    """One of `NAMES`."""

    name: str
    one_input: Callable[[bytes], None]
    fresh: Callable[[Random], bytes]

    def corpus(self) -> list[Path]:
        """The saved inputs."""
        return sorted((CORPUS / self.name).iterdir())


def target(name: str) -> Target:
    module = import_module(f"fuzz_{name}")
    return Target(name, module.one_input, module.fresh)


def oracle(name: str) -> ModuleType | None:
    """A compiled kernel, whatever BEAMNODE_KERNEL says: nothing to run on it, but something to compare with."""
    try:
        return import_module(name)
    except ImportError:
        return None


def in_pieces(data: bytes, way: int) -> Iterator[bytes]:
    """As a network might deliver it: whole, byte by byte, or in one of a few other sizes."""
    size = (len(data) or 1, 1, 2, 3, 7, 50, 300, 5000)[way % 8]
    for at in range(0, len(data), size):
        yield data[at : at + size]
