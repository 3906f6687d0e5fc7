"""What every benchmark stands on: an epmd, Erlang nodes that know `bench_peer`, measured nodes, a process's clock.

All of it is on loopback, with an epmd, a cookie and homes of its own. Leaving the setting ends what it started, by pid.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from beamnode.testing.peers import Epmd, ErlNode, Otp, PeerMissing, find_otp

ROOT: Final = Path(__file__).resolve().parent.parent
SOURCES: Final = (ROOT / "bench/bench_peer.erl", ROOT / "bench/bench_scale.erl")
START_SECONDS: Final = 30.0


class BenchError(Exception):
    """What keeps a benchmark from running, in words for who runs it."""


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def loops(wanted: str | None) -> list[str]:
    """The event loops to measure: the one that was asked for, or all that are installed."""
    installed = ["asyncio", *(["uvloop"] if find_spec("uvloop") else [])]
    if wanted is None:
        return installed
    if wanted not in installed:
        raise BenchError(f"{wanted} is not installed: .venv/bin/python -m pip install {wanted}")
    return [wanted]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, all its threads, ended ones too (clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)


def rss_bytes(pid: int) -> int:
    """What of a process is in memory now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise BenchError(f"process {pid} has no memory any more")


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """What is started meanwhile runs on this core only, and sees no other; None: wherever the system puts it."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cores(placement: str) -> tuple[int | None, int | None]:
    """Where the peer and the measured node run."""
    all_of_them = sorted(os.sched_getaffinity(0))
    if placement == "free":
        return None, None
    if placement == "one":
        return all_of_them[0], all_of_them[0]
    if len(all_of_them) < 2:
        raise BenchError("there is one core only: use --cores one")
    return all_of_them[0], all_of_them[1]


class PythonNode:
    """A process of `bench.measured`."""

    def __init__(self, setting: Setting, name: str, loop: str, ticktime: float) -> None:
        self.name, self.loop = name, loop
        arguments = [name, setting.cookie, str(setting.epmd.port), loop, str(ticktime)]
        arguments += [] if setting.optfile is None else [str(setting.optfile)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.measured", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self.codec = self._process.stdout.readline().strip()
        if not self.codec:
            self.kill()
            raise BenchError(f"the Python node {name} did not come up: its error is above")

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self) -> None:
        """Let it end, without waiting: nodes that end together do not miss each other."""
        self._process.kill()

    def kill(self) -> None:
        """End it at once. May be called again."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.kill()


class Setting:
    """Use it as a context manager; nodes that it starts may be used as such, too, to end them sooner."""

    def __init__(self, release: int, busy_wait: bool = True, tls: bool = False) -> None:
        try:
            self.otp: Otp = find_otp(release)
            self.otp.command("erlc")
        except PeerMissing as error:
            raise BenchError(f"{error}\n(the yardstick is Erlang itself: without it nothing can be measured)") from None
        self.cookie = secrets.token_hex(8)
        self.busy_wait = busy_wait
        self._tls = tls
        self.optfile: Path | None = None  # of TLS, as a Python node reads it
        self._tls_flags: list[str] = []
        self._ending = ExitStack()
        self._pythons: list[PythonNode] = []
        self._names = 0

    def __enter__(self) -> Self:
        try:
            self._directory = self.otp.make_directory()
            self._ending.callback(shutil.rmtree, self._directory, ignore_errors=True)
            self._compile()
            if self._tls:
                self._make_certificates()
            self.epmd = self._ending.enter_context(Epmd(self.otp))
        except BaseException:
            self._ending.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for python in self._pythons:
            python.signal()
        self._ending.close()

    def _compile(self) -> None:
        inside = self.otp.inside(self._directory)
        command = [*self.otp.command("erlc"), "-o", inside]
        for source in SOURCES:
            shutil.copy(source, self._directory)
            command.append(f"{inside}/{source.name}")
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode:
            raise BenchError(f"erlc of OTP {self.otp.release} failed:\n{done.stdout}{done.stderr}")

    def _make_certificates(self) -> None:
        from beamnode.cli.certs import Authority, optfile_text

        directory, authority = self._directory, Authority.new()
        names = ("node.pem", "node-key.pem", "ca.pem")
        for name, pem in zip(names, [*authority.issue("127.0.0.1", "bench"), authority.pem], strict=True):
            (directory / name).write_bytes(pem)
        self.optfile, theirs = directory / "python.conf", directory / "erlang.conf"
        inside = [Path(self.otp.inside(directory / name)) for name in names]
        theirs.write_text(optfile_text(*inside))
        self.optfile.write_text(optfile_text(*(directory / name for name in names)))
        self._tls_flags = ["-proto_dist", "inet_tls", "-ssl_dist_optfile", self.otp.inside(theirs)]

    def new_name(self, kind: str) -> str:
        self._names += 1
        return f"{kind}{self._names}@127.0.0.1"

    def erlang(self, kind: str, *extra: str) -> ErlNode:
        """An Erlang node that knows `bench_peer`, with the defaults of `erl` (tests let it spin less)."""
        spin = ["+sbwt", "medium", "+sbwtdcpu", "short", "+sbwtdio", "short"] if self.busy_wait else []
        node = ErlNode.start(
            self.otp,
            self.new_name(kind),
            cookie=self.cookie,
            epmd_port=self.epmd.port,
            extra_args=["-pa", self.otp.inside(self._directory), *spin, *self._tls_flags, *extra],
        )
        return self._ending.enter_context(node)

    def run_erlang(self, expression: str, *extra: str) -> str:
        """What `erl` prints while it evaluates an expression; a node it is not."""
        inside = self.otp.inside(self._directory)
        command = [*self.otp.command("erl"), "-noshell", "-pa", inside, *extra]
        done = subprocess.run(
            [*command, "-eval", f"{expression}, halt()."], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise BenchError(f"{expression} in OTP {self.otp.release} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def measured_erlang(self) -> ErlNode:
        node = self.erlang("beam")
        node.eval("bench_peer:serve()")
        return node

    def python(self, loop: str = "asyncio", ticktime: float = 60.0) -> PythonNode:
        node = self._ending.enter_context(PythonNode(self, self.new_name("py"), loop, ticktime))
        self._pythons.append(node)
        return node
