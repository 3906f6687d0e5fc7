"""Real peers for tests: OTP's own `erl` and `epmd`, started on loopback, asked in Erlang or Elixir, ended by pid.

    otp = find_otp(27)
    with Epmd(otp) as epmd, ErlNode.start(otp, "a@127.0.0.1", cookie="secret", epmd_port=epmd.port) as node:
        node.eval("P = spawn(fun () -> receive stop -> ok end end)")
        node.eval("is_process_alive(P)")  # True

All of it blocks: in a test with an event loop call it through `asyncio.to_thread`. A peer lives in a session of its own
(Ctrl-C does not reach it) and ends with this Python process; when that is killed, a node notices and halts, but an epmd
or a suspended node cannot, and stays.

A release that is missing is an error (`PeerMissing`), never a reason to skip a test. `scripts/make-peers` makes them.
"""

from __future__ import annotations

import atexit
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import SystemRandom
from types import TracebackType
from typing import IO, Any, Final, Literal, Self
from weakref import WeakSet

from beamnode.etf import Atom, a, decode, encode
from beamnode.testing.control import control_program

OTPS: Final = (25, 27, 29)
"""The releases that beamnode is tested against."""

SYSTEM: Final = Path("/")

START_TIMEOUT_SECONDS: Final = 60.0  # Elixir on a busy machine of two cores; a second where nothing else runs
STOP_TIMEOUT_SECONDS: Final = 20.0

_PORTS: Final = range(10_000, 32_768)  # Linux gives out those from 32768, other systems from 49152

_RELEASE_QUERY: Final = 'io:format("~s", [erlang:system_info(otp_release)]), halt().'


class PeerMissing(RuntimeError):
    """No installation of that OTP release, or not the program in it. Tests fail with it: they do not skip."""


class PeerDied(RuntimeError):
    """The peer ended, or its control channel closed, before it answered; the text has the end of its log."""


class EvalTimeout(TimeoutError):
    """No answer in time. The expression goes on in the peer, and the next one waits until it has ended."""


class EvalError(Exception):
    """The expression raised: `kind` is `error`, `exit` or `throw`, `reason` and `stack` are terms."""

    def __init__(self, text: str, kind: str, reason: Any, stack: Any) -> None:
        super().__init__(text)
        self.kind = kind
        self.reason = reason
        self.stack = stack


def wait_for(predicate: Callable[[], object], timeout: float = 10.0, interval: float = 0.02) -> None:
    """Call `predicate` every `interval` seconds until it is true; TimeoutError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() >= deadline:
            raise TimeoutError(f"not true within {timeout} s: {predicate!r}")
        time.sleep(interval)


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port of `host` that nothing listens on at the moment.

    By chance, among those that the system does not give out by itself: it stays free until it is used, also while other
    tests listen, dial and ask for free ports.
    """
    for port in SystemRandom().sample(_PORTS, 100):
        with suppress(OSError), socket.create_server((host, port)):
            return port
    raise OSError(f"none of 100 ports of {host} is free; is it an address of this machine?")


def _assert_free(port: int) -> None:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise PeerDied(f"epmd cannot listen: port {port} is taken") from error


# --- Installations ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Otp:
    """An installation of OTP: `release` (25) and the `root` that it lives in, `/` or a directory to chroot into."""

    release: int
    root: Path

    def command(self, program: str) -> list[str]:
        """The argument list that runs `erl`, `elixir`, `iex`, `erl_call` or `epmd`; PeerMissing where it has none."""
        if self.root == SYSTEM:
            path = shutil.which(program)
            if path is not None:
                return [path]
        elif os.access(self.root / "usr/bin" / program, os.X_OK):
            return ["chroot", str(self.root), f"/usr/bin/{program}"]
        raise PeerMissing(f"OTP {self.release} in {self.root} has no {program}: run scripts/make-peers")

    def make_directory(self) -> Path:
        """A new temporary directory that exists inside `root` too. The caller removes it."""
        temporary = Path(tempfile.gettempdir()) if self.root == SYSTEM else self.root / "tmp"
        return Path(tempfile.mkdtemp(prefix="beamnode-", dir=temporary))

    def inside(self, path: Path) -> str:
        """`path` as a program of this installation sees it; ValueError where it cannot see it."""
        return str(SYSTEM / path.resolve().relative_to(self.root.resolve()))


def find_otp(release: int) -> Otp:
    """The installation of that OTP release; PeerMissing where there is none.

    Looked for in this order: the root that the environment variable `BEAMNODE_OTP25` (27, 29, ...) names, `/` for the
    system's own; `$BEAMNODE_PEERS/otp25` (default `~/.cache/beamnode/peers/otp25`), where `scripts/make-peers` puts it;
    the programs on PATH, if they are of that release.
    """
    override = os.environ.get(f"BEAMNODE_OTP{release}")
    if override:
        return _checked(Otp(release, Path(override)), f"BEAMNODE_OTP{release}={override}")
    root = peers_directory() / f"otp{release}"
    if root.is_dir():
        return _checked(Otp(release, root), str(root))
    if _release_of(SYSTEM) == str(release):
        return Otp(release, SYSTEM)
    raise PeerMissing(f"no {root}, and no OTP {release} on PATH: run scripts/make-peers")


def peers_directory() -> Path:
    """Where `scripts/make-peers` puts roots: `$BEAMNODE_PEERS`, or `~/.cache/beamnode/peers` of the user's own home."""
    return Path(os.environ.get("BEAMNODE_PEERS") or _HOME / ".cache/beamnode/peers")


_HOME: Final = Path.home()  # tests give themselves another HOME later


def _checked(otp: Otp, where: str) -> Otp:
    if otp.root != SYSTEM and os.geteuid() != 0:
        raise PeerMissing(f"OTP {otp.release} is in {where}, and only root may chroot: run the tests as root")
    found = _release_of(otp.root)
    if found != str(otp.release):
        raise PeerMissing(f"{where} has OTP {found or '(none that runs)'}, not {otp.release}: run scripts/make-peers")
    return otp


@cache
def _release_of(root: Path) -> str:
    """What `erl` of that root says of itself, or nothing where it does not run."""
    try:
        command = [*Otp(0, root).command("erl"), "-noshell", "-eval", _RELEASE_QUERY]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, stdin=subprocess.DEVNULL)
    except (PeerMissing, OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


@cache
def _elixir_paths(otp: Otp) -> tuple[str, ...]:
    """The code path of Elixir's own applications, as `erl` of that installation sees it."""
    command = [*otp.command("elixir"), "-e", "IO.puts(:code.lib_dir(:elixir))"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, stdin=subprocess.DEVNULL)
    applications = Path(done.stdout.strip()).parent
    visible = otp.root / applications.relative_to("/")
    return tuple(str(applications / path.name / "ebin") for path in sorted(visible.iterdir()))


# --- epmd -------------------------------------------------------------------------------------------------------------


class Epmd:
    """OTP's epmd, on loopback and a port of its own, until `stop`. `relaxed` lets `erl_call` and tests command it."""

    def __init__(self, otp: Otp, port: int | None = None, relaxed: bool = True) -> None:
        self.port = free_port() if port is None else port
        _assert_free(self.port)  # another epmd there would answer in our place
        command = [*otp.command("epmd"), "-address", "127.0.0.1", "-port", str(self.port)]
        if relaxed:
            command.append("-relaxed_command_check")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"]},
            start_new_session=True,
        )
        _started.add(self)
        try:
            wait_for(self._answers)
        except BaseException:
            self.stop()
            raise

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise PeerDied(f"epmd ended with status {self._process.returncode}; was port {self.port} taken meanwhile?")
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        """End it, at once. May be called again."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        _started.discard(self)

    kill = stop

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()


# --- Nodes ------------------------------------------------------------------------------------------------------------


class ErlNode:
    """A running Erlang node. Make one with `ErlNode.start`; leaving its `with` block kills it.

    `name` is the full name that the node itself knows (`a@127.0.0.1`), `pid` is the process of the BEAM.
    Calls from several threads wait for each other.
    """

    def __init__(self, otp: Otp, process: subprocess.Popen[bytes], channel: _Channel, log: IO[bytes]) -> None:
        self.otp = otp
        self.name = ""
        self._process = process
        self._channel = channel
        self._log_file = log
        self._log_text: str | None = None  # all of it, after the end
        self._directory: Path | None = None  # to remove at the end
        _started.add(self)

    @classmethod
    def start(
        cls,
        otp: Otp,
        name: str | None = None,
        *,
        cookie: str | None = None,
        epmd_port: int | None = None,
        hidden: bool = False,
        boot: Literal["erl", "elixir"] = "erl",
        extra_args: Sequence[str] = (),
        home: Path | None = None,
        env: Mapping[str, str] | None = None,
        interface: str | None = "{127,0,0,1}",
        start_epmd: bool = False,
        timeout: float = START_TIMEOUT_SECONDS,
    ) -> Self:
        """Start a node and wait until it is up; PeerDied, with its log, where it does not come up.

        `name` with a dot or a colon in its host is a long name (`-name`), otherwise short (`-sname`); None starts no
        distribution, unless `extra_args` do. Without a `cookie` the node reads or makes `.erlang.cookie` in `home`,
        which is a new empty directory when not given (`otp.make_directory()` makes one that the peer can see).
        `interface` is what it listens on, an Erlang term; None leaves that to `extra_args`. `boot="elixir"` starts the
        application `elixir` in it, which `elixir()` needs.
        """
        directory = home or otp.make_directory()
        environment = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": otp.inside(directory),
            "ERL_CRASH_DUMP_SECONDS": "0",
        }
        if epmd_port is not None:
            environment["ERL_EPMD_PORT"] = str(epmd_port)
        arguments = _distribution_arguments(name, cookie, hidden, interface, start_epmd)
        if boot == "elixir":
            for path in _elixir_paths(otp):
                arguments += ["-pa", path]
            arguments += ["-eval", "{ok, _} = application:ensure_all_started(elixir)."]
        try:
            node = cls._launch(otp, [*arguments, *extra_args], environment | dict(env or {}), directory)
        except BaseException:
            if home is None:
                shutil.rmtree(directory)
            raise
        node._directory = directory if home is None else None
        try:
            node._wait_until_up(name, timeout)
        except BaseException:
            node.kill()
            raise
        return node

    @classmethod
    def _launch(cls, otp: Otp, arguments: list[str], environment: dict[str, str], directory: Path) -> Self:
        requests_out, requests_in = os.pipe()
        answers_out, answers_in = os.pipe()
        log = tempfile.TemporaryFile(prefix="beamnode-peer-")  # noqa: SIM115 - the node closes it
        try:
            process = subprocess.Popen(
                [*otp.command("erl"), *_BASE_ARGUMENTS, *arguments, "-eval", control_program(requests_out, answers_in)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=directory,
                pass_fds=(requests_out, answers_in),
                start_new_session=True,
            )
        except BaseException:
            for descriptor in (requests_in, answers_out):
                os.close(descriptor)
            log.close()
            raise
        finally:
            os.close(requests_out)
            os.close(answers_in)
        return cls(otp, process, _Channel(process, requests_in, answers_out), log)

    def _wait_until_up(self, name: str | None, timeout: float) -> None:
        alive, node, pid = self.eval("{is_alive(), node(), list_to_integer(os:getpid())}", timeout)
        self.name = str(node)
        if name is not None and not alive:
            raise PeerDied(f"{name} started without distribution; its log:\n{self.log()}")
        assert pid == self.pid, "not the BEAM itself was started, but something around it"

    # --- asking it

    def eval(self, source: str, timeout: float = 10.0, **bindings: Any) -> Any:
        """Evaluate a sequence of Erlang expressions and give back the value of the last, as a Python term.

        Variables keep their values between calls; a keyword argument binds one (`node.eval("P ! hi", P=pid)`). They
        run in the process registered as `shell`, whose mailbox is theirs alone: `receive X -> X after 0 -> none end`
        gives what was sent to `{shell, Node}`. Raises EvalError, EvalTimeout, PeerDied.
        """
        return self._ask("erlang", source.strip().removesuffix("."), timeout, bindings)

    def elixir(self, source: str, timeout: float = 10.0, **bindings: Any) -> Any:
        """The same in Elixir, on a node started with `boot="elixir"`; its variables are separate from Erlang's."""
        return self._ask("elixir", source.strip(), timeout, bindings)

    def _ask(self, language: str, source: str, timeout: float, bindings: dict[str, Any]) -> Any:
        try:
            answer = self._channel.ask(language, source, bindings, timeout)
        except EvalTimeout as error:
            raise EvalTimeout(f"{self._who()} did not answer within {timeout} s: {source}") from error
        except PeerDied as error:
            raise PeerDied(f"{self._who()} {error}; its log:\n{self.log()}") from error
        match answer:
            case (a.ok, value):
                return value
            case (a.error, kind, reason, stack, text):
                raise EvalError(f"{source}\n{text.decode()}", str(kind), reason, stack)
            case _:
                raise AssertionError(f"the control program answered {answer!r}")

    def wait_until(self, source: str, timeout: float = 10.0, interval: float = 0.02, **bindings: Any) -> None:
        """Evaluate `source` every `interval` seconds until it is `true`; TimeoutError if it never is."""
        deadline = time.monotonic() + timeout
        while (value := self.eval(source, timeout, **bindings)) is not True:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{self._who()}: not true within {timeout} s but {value!r}: {source}")
            time.sleep(interval)

    def log(self) -> str:
        """All that the node has printed and logged so far; also after its end."""
        if self._log_text is not None:
            return self._log_text
        descriptor = self._log_file.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")

    def _who(self) -> str:
        return self.name or f"the peer (OTP {self.otp.release}, pid {self.pid})"

    # --- its life

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def stop(self, timeout: float = STOP_TIMEOUT_SECONDS) -> None:
        """End it as OTP does, with `init:stop()`; a node that has not ended after `timeout` seconds is killed."""
        if self.running:
            with suppress(EvalTimeout, PeerDied):
                self._channel.ask("erlang", "init:stop()", {}, timeout)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """End it at once (SIGKILL), also when it is suspended. May be called again."""
        if self.running:
            self._process.kill()
        self._process.wait()
        self._channel.close()
        if self._log_text is None:
            self._log_text = self.log()
            self._log_file.close()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
        _started.discard(self)

    def suspend(self) -> None:
        """Freeze it (SIGSTOP): its sockets stay open, it answers nothing. Returns when all its threads have stopped."""
        self._process.send_signal(signal.SIGSTOP)
        if self.running:
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)  # leaves its end for Popen to see

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.kill()

    def __repr__(self) -> str:
        return f"<ErlNode {self._who()}>"


_BASE_ARGUMENTS: Final = (
    "-noshell",
    "-noinput",
    *("+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none"),  # do not spin: several nodes share few cores
)


def _distribution_arguments(
    name: str | None, cookie: str | None, hidden: bool, interface: str | None, start_epmd: bool
) -> list[str]:
    arguments = []
    if name is not None:
        _, _, host = name.partition("@")
        arguments += ["-name" if "." in host or ":" in host else "-sname", name]
    if cookie is not None:
        arguments += ["-setcookie", cookie]
    if hidden:
        arguments.append("-hidden")
    if interface is not None:
        arguments += ["-kernel", "inet_dist_use_interface", interface]
    if not start_epmd:
        arguments += ["-start_epmd", "false"]
    return arguments


class _Channel:
    """The control channel: requests and answers, each behind a length of four bytes, over a pair of pipes."""

    _POLL_MILLISECONDS: Final = 200  # how soon the end of the process is seen when a child of it holds the pipe open

    def __init__(self, process: subprocess.Popen[bytes], requests: int, answers: int) -> None:
        self._process = process
        self._requests = requests
        self._answers = answers
        os.set_blocking(requests, False)
        self._outgoing = bytearray()  # what a busy or suspended peer has not taken yet
        self._incoming = bytearray()
        self._last_id = 0
        self._closed = False
        self._lock = threading.Lock()

    def ask(self, language: str, source: str, bindings: dict[str, Any], timeout: float) -> Any:
        """Send one request and wait for its answer; answers to requests that were given up are dropped."""
        deadline = time.monotonic() + timeout
        with self._lock:
            self._last_id += 1
            given = [(Atom(name), value) for name, value in bindings.items()]
            request = encode((self._last_id, Atom(language), source, given))
            self._outgoing += struct.pack(">I", len(request)) + request
            while True:
                packet = self._next_packet(deadline)
                answered_id, answer = decode(packet)
                if answered_id == self._last_id:
                    return answer

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._requests)
                os.close(self._answers)

    def _next_packet(self, deadline: float) -> bytes:
        while True:
            if len(self._incoming) >= 4:
                (size,) = struct.unpack_from(">I", self._incoming)
                if len(self._incoming) >= 4 + size:
                    packet = bytes(self._incoming[4 : 4 + size])
                    del self._incoming[: 4 + size]
                    return packet
            self._exchange(deadline)

    def _exchange(self, deadline: float) -> None:
        """Wait until some bytes went out or came in."""
        if self._closed:
            raise PeerDied("has ended")
        remaining_seconds = deadline - time.monotonic()
        if remaining_seconds <= 0:
            raise EvalTimeout
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        if self._outgoing:
            poll.register(self._requests, select.POLLOUT)
        ready = poll.poll(min(remaining_seconds * 1000, self._POLL_MILLISECONDS))
        if not ready and self._process.poll() is not None:
            raise self._died()
        for descriptor, _ in ready:
            if descriptor == self._answers:
                self._read()
            else:
                self._write()

    def _read(self) -> None:
        data = os.read(self._answers, 1 << 20)
        if not data:
            raise self._died()
        self._incoming += data

    def _write(self) -> None:
        try:
            written = os.write(self._requests, self._outgoing)
        except BrokenPipeError:
            raise self._died() from None
        del self._outgoing[:written]

    def _died(self) -> PeerDied:
        try:
            status = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return PeerDied("closed its control channel")
        return PeerDied(f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}")


# What must not outlive this process: a peer that is suspended cannot see that its channel was closed.
_started: Final[WeakSet[Epmd | ErlNode]] = WeakSet()


@atexit.register
def _kill_all() -> None:
    for peer in list(_started):
        peer.kill()
