"""How fast the codec is, beside marshal and msgspec's MessagePack on the same Python values, in one run.

    .venv/bin/python -m pip install '.[bench]'
    .venv/bin/python bench/codec.py [ROUNDS]

Each round measures every (terms, codec, direction) once, in random order; the table has the medians. Atoms are `str`
for the other two, which have no such type. Times are of the processor, and machines drift all the same: compare the
columns of one run, never two runs.
"""

from __future__ import annotations

import marshal
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import msgspec

from beamnode import etf
from beamnode.etf import Atom

CODECS = ("beamnode", "marshal", "msgspec")
SECONDS = 0.02  # about how long one measurement takes
BLOB = bytes(range(256)) * 4096  # the same object for all: how fast it is copied depends on where it lies


def pairs(_atom: Callable[[str], Any]) -> Any:
    return [(i, 2 * i) for i in range(1000)]


def maps(atom: Callable[[str], Any]) -> Any:
    keys = [atom(name) for name in ("id", "name", "email", "active", "score")]
    return [
        dict(
            zip(keys, (b"id-%06d" % i, b"somebody %d" % i, b"user%d@example.org" % i, i % 2 == 0, i * 1.5), strict=True)
        )
        for i in range(200)
    ]


def blob(atom: Callable[[str], Any]) -> Any:
    return (atom("blob"), BLOB)


def nested(atom: Callable[[str], Any]) -> Any:
    term: Any = atom("leaf")
    for i in range(50):
        term = (atom(("ok", "error", "reply", "node", "tree")[i % 5]), term)
    return term


TERMS: dict[str, Callable[[Callable[[str], Any]], Any]] = {
    "1,000 tuples {I, 2*I}": pairs,
    "200 maps of five atom keys": maps,
    "1 MiB binary in a tuple": blob,
    "50 nested tuples with atoms": nested,
}


def runs() -> dict[tuple[str, str, str], Callable[[], Any]]:
    packer, unpacker = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder()
    found: dict[tuple[str, str, str], Callable[[], Any]] = {}
    for name, make in TERMS.items():
        codecs: dict[str, tuple[Any, Callable[[Any], bytes], Callable[[bytes], Any]]] = {
            "beamnode": (make(Atom), etf.encode, etf.decode),
            "marshal": (make(str), marshal.dumps, marshal.loads),
            "msgspec": (make(str), packer.encode, unpacker.decode),
        }
        for codec, (value, encode, decode) in codecs.items():
            data = encode(value)
            assert codec != "beamnode" or decode(data) == value
            found[name, codec, "encode"] = lambda encode=encode, value=value: encode(value)
            found[name, codec, "decode"] = lambda decode=decode, data=data: decode(data)
    return found


def ops_per_second(run: Callable[[], Any]) -> float:
    started = time.process_time()
    run()
    count = max(1, int(SECONDS / (time.process_time() - started)))
    started = time.process_time()
    for _ in range(count):
        run()
    return count / (time.process_time() - started)


def main(rounds: int) -> None:
    everything = runs()
    measured: defaultdict[tuple[str, str, str], list[float]] = defaultdict(list)
    for run in everything.values():  # warm
        run()
    for _ in range(rounds):
        for key in random.sample(list(everything), len(everything)):
            measured[key].append(ops_per_second(everything[key]))
    python = sys.version.split()[0]
    print(f"{etf.implementation} kernel, Python {python}, {rounds} rounds, medians of operations a second\n")
    print("| terms | | beamnode | marshal | msgspec | beamnode / better of the two |")
    print("|---|---|--:|--:|--:|--:|")
    for name in TERMS:
        for direction in ("decode", "encode"):
            of = {codec: statistics.median(measured[name, codec, direction]) for codec in CODECS}
            ratio = of["beamnode"] / max(of["marshal"], of["msgspec"])
            print(
                f"| {name} | {direction} | " + " | ".join(f"{of[codec]:,.0f}" for codec in CODECS) + f" | {ratio:.2f} |"
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 21)
