#!/usr/bin/env python3
"""Coverage-guided fuzzing with atheris; `scripts/fuzz` is the way to run it.

    scripts/fuzz TARGET SECONDS [OPTION...]     options are libFuzzer's, "-help=1" lists them
    scripts/fuzz all SECONDS FOLDER              every target from the saved corpus only; findings go to FOLDER
    scripts/fuzz TARGET minimise                 the corpus anew, from itself and from what was found
    scripts/fuzz TARGET replay FILE...           without atheris, on any Python

TARGET is one of those of `targets.py`. It starts from the saved corpus, `tests/fuzz/corpus/TARGET`, and from what
earlier runs found, which goes to `.fuzz/TARGET` (not part of the repository). An input that fails is written to
`.fuzz/TARGET-crash-...`, and the exit status is not 0: repair it, and keep the input as
`tests/fuzz/corpus/TARGET/found-...`, which the suite runs for ever. `minimise` keeps few inputs that together make
every step from line to line that all of them make.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from targets import CORPUS, HERE, NAMES, Target, target

FOUND = HERE.parents[1] / ".fuzz"
INPUT_BYTES_MAX = 4096  # of the fuzzer's inputs
SAVED_BYTES_MAX = 3000  # of those in the repository
FRESH = 300  # drawn from the grammar when a corpus is made
INSTRUMENTED = ("beamnode.etf", "beamnode.wire")

Step = tuple[int, int, int]


def instrumented(names: Iterable[str]) -> list[Target]:
    """Those targets, watched by atheris."""
    os.environ["BEAMNODE_KERNEL"] = "off"  # what Python does is what is watched; the kernels are there to compare
    import atheris

    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        return [target(name) for name in names]


def fuzz(chosen: Target, seconds: str, found: Path, options: Sequence[str] = ()) -> None:
    """Run libFuzzer, which ends this Python process."""
    import atheris

    def mutate(data: bytes, size_max: int, seed: int) -> bytes:
        random = Random(seed)
        kind = random.randrange(12)
        if kind == 0:
            return chosen.fresh(random)[:size_max]
        if kind == 1:  # in the middle of something else
            other, at = chosen.fresh(random), random.randrange(len(data) + 1)
            return (data[:at] + other[2:])[:size_max]
        return bytes(atheris.Mutate(data, size_max))

    found.mkdir(parents=True, exist_ok=True)
    saved = CORPUS / chosen.name
    arguments = [
        sys.argv[0],
        str(found),
        *([str(saved)] if saved.is_dir() else []),
        f"-max_total_time={seconds}",
        f"-max_len={INPUT_BYTES_MAX}",
        f"-artifact_prefix={found}-",
        "-print_final_stats=1",
        "-timeout=20",
        "-rss_limit_mb=2048",
        *options,
    ]
    atheris.Setup(arguments, chosen.one_input, custom_mutator=mutate)
    atheris.Fuzz()


def fuzz_all(seconds: str, folder: Path) -> int:
    """Every target for a while, two at a time, each in a process of its own; how many failed."""
    failed = 0
    running: list[tuple[str, int]] = []

    def finish() -> int:
        name, pid = running.pop(0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(f"{name}: {'nothing found' if status == 0 else f'FAILED with status {status}'}", flush=True)
        return status != 0

    for chosen in instrumented(NAMES):
        if len(running) == 2:
            failed += finish()
        pid = os.fork()
        if pid == 0:
            fuzz(chosen, seconds, folder / chosen.name)
        running.append((chosen.name, pid))
    while running:
        failed += finish()
    return failed


def minimise(name: str) -> None:
    """Draw some more, then keep few and small inputs that together reach all that all of them do."""
    os.environ["BEAMNODE_KERNEL"] = "off"
    chosen = target(name)
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    kept_anyhow = [path for path in folder.iterdir() if path.name.startswith("found-")]
    files = [*folder.iterdir(), *((FOUND / name).iterdir() if (FOUND / name).is_dir() else ())]
    inputs = {path.read_bytes() for path in files} | {chosen.fresh(Random(seed)) for seed in range(FRESH)}
    tracer = Tracer()
    seen = set[Step]().union(*(tracer.steps(chosen, path.read_bytes()) for path in kept_anyhow))
    reached = {data: tracer.steps(chosen, data) - seen for data in inputs if len(data) <= SAVED_BYTES_MAX}
    kept = []
    while reached:
        best = max(reached, key=lambda data: (len(reached[data]), -len(data), data))
        kept.append(best)
        seen |= reached[best]
        reached = {data: new for data, steps in reached.items() if (new := steps - seen)}
    for path in set(folder.iterdir()) - set(kept_anyhow):
        path.unlink()
    for data in kept:
        (folder / hashlib.sha1(data).hexdigest()[:12]).write_bytes(data)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{name}: {len(list(folder.iterdir()))} of {len(inputs)} inputs, {size} bytes, {len(seen)} steps")


class Tracer:
    """Which steps from line to line of the instrumented packages an input makes."""

    def __init__(self) -> None:
        self._now: set[Step] = set()
        self._places = tuple(f"/{name.replace('.', '/')}/" for name in INSTRUMENTED)

    def steps(self, chosen: Target, data: bytes) -> set[Step]:
        self._now = set()
        sys.settrace(self._call)
        try:
            chosen.one_input(data)
        finally:
            sys.settrace(None)
        return self._now

    def _call(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        code = id(frame.f_code)  # which lives as long as its module
        if not any(place in frame.f_code.co_filename for place in self._places):
            return None
        before = 0

        def line(frame: FrameType, _event: str, _argument: Any) -> Any:
            nonlocal before
            self._now.add((code, before, frame.f_lineno))
            before = frame.f_lineno
            return line

        return line


def main() -> None:
    match sys.argv[1:]:
        case [name, "minimise"] if name in NAMES:
            minimise(name)
        case [name, "replay", *files] if name in NAMES:
            chosen = target(name)
            for file in files:
                chosen.one_input(Path(file).read_bytes())
        case ["all", seconds, folder] if seconds.isdigit():
            sys.exit(fuzz_all(seconds, Path(folder)))
        case [name, seconds, *options] if name in NAMES and seconds.isdigit():
            fuzz(*instrumented([name]), seconds, FOUND / name, options)
        case _:
            sys.exit(f"{__doc__}\nTARGET: {', '.join(NAMES)}")


if __name__ == "__main__":
    main()
