"""No cookie and no digest of one is seen: in logs, in what `repr` shows, in errors with the variables of their frames.

Handshakes succeed and fail in every way, with everything logged; then all that can be reached is shown in every way
that tools show things.
"""

from __future__ import annotations

import asyncio
import copy
import gc
import hashlib
import logging
import pickle
import pprint
import socket
import sys
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_python_nodes_cluster import HOST, Cluster, play, until

from beamnode import CookieError, Node, UsageError, a, sync
from beamnode.cli.main import main as command
from beamnode.node import cookie as cookies
from beamnode.node.cookie import Cookie
from beamnode.wire.flags import DEFAULT, Flag
from beamnode.wire.handshake import Accept, Acceptor, Initiator
from beamnode.wire.handshake_machine import Secret
from beamnode.wire.handshake_messages import ChallengeAck, ChallengeReply, SendName, build

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.one_python]

COOKIE = "TELLNOBODYTHISCOOKIE"
OTHER = "NORTHISONETOANYBODY"
OWN = "ANDTHATOFONESINGLENODE"


class Digests:
    """The digests that were made while it was installed: of whatever cookie and challenge."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: set[bytes] = set()
        real = Secret.digest

        def digest(secret: Secret, challenge: int) -> bytes:
            made = real(secret, challenge)
            self.made.add(made)
            return made

        monkeypatch.setattr(Secret, "digest", digest)

    def forms(self) -> Iterator[str]:
        """All secrets, as text that shows them."""
        for cookie in (COOKIE, OTHER, OWN):
            for raw in (cookie.encode(), hashlib.md5(cookie.encode()).digest()):
                yield from forms_of(raw)
        for made in self.made:
            yield from forms_of(made)

    def check(self, text: str, where: str) -> None:
        for form in self.forms():
            assert form not in text, f"{where} shows {form}: ...{text[max(0, text.find(form) - 300) :][:700]}"


def forms_of(raw: bytes) -> Iterator[str]:
    """Of some of it, too: what is quoted may be cut."""
    for part in (raw[:10], raw[6:16]):
        yield repr(part)[2:-1]
        yield part.hex()
        yield ", ".join(map(str, part))
        yield part.decode("latin-1")
    yield b64encode(raw).decode().rstrip("=")
    yield str(int.from_bytes(raw, "big"))


@pytest.fixture
def digests(monkeypatch: pytest.MonkeyPatch) -> Digests:
    return Digests(monkeypatch)


class Log(logging.Handler):
    """Everything, as a tool that looks at the variables of frames would keep it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.text: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.text.append(f"{record.name} {record.getMessage()} {record.__dict__!r}")
        if record.exc_info and record.exc_info[1] is not None:
            self.text.append(shown_error(record.exc_info[1]))


@pytest.fixture
def log() -> Iterator[Log]:
    handler, root = Log(), logging.getLogger()
    before = root.level
    root.setLevel(logging.DEBUG)
    root.addHandler(handler)
    yield handler
    root.removeHandler(handler)
    root.setLevel(before)


def shown_error(error: BaseException) -> str:
    """With the variables of every frame, of its causes as well."""
    lines = traceback.TracebackException.from_exception(error, capture_locals=True).format()
    return f"{error!r} {error.args!r} {vars(error)!r} {''.join(lines)}"


def shown_reachable(*roots: Any) -> str:
    """`repr` and `vars` of all that the collector can reach from there, and of all coroutines' variables."""
    seen: dict[int, Any] = {}
    waiting = list(roots)
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type | type(sys) | Digests | Log):
            continue
        if isinstance(one, dict) and "__builtins__" in one:  # the globals of a module: this one has the cookies
            continue
        seen[id(one)] = one
        if not isinstance(one, Cookie | Secret):  # these two hold them
            waiting += gc.get_referents(one)
    parts = []
    for one in list(seen.values()):
        parts.append(repr(one))
        if hasattr(one, "__dict__"):
            parts.append(repr(vars(one)))
        if isinstance(one, BaseException):
            parts.append(shown_error(one))
        frame = getattr(one, "cr_frame", None) or getattr(one, "gi_frame", None)
        if frame is not None:
            parts.append(repr(frame.f_locals))
    assert len(seen) > 1000
    return "\n".join(parts)


# --- Handshakes -------------------------------------------------------------------------------------------------------


def frame(message: Any) -> bytes:
    body = message if isinstance(message, bytes) else build(message)
    return len(body).to_bytes(2, "big") + body


def name(alive: str) -> bytes:
    return frame(SendName(DEFAULT | Flag.PUBLISHED, 77, f"{alive}@{HOST}"))


DIGEST = hashlib.md5(COOKIE.encode() + b"1").digest()

SAID: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "garbage": lambda: b"GET / HTTP/1.1\r\n\r\n",
    "a length": lambda: b"\xff\xff",
    "a wrong digest": lambda: name("stranger") + frame(ChallengeReply(1, DIGEST)),
    "a short digest": lambda: name("stranger") + frame(build(ChallengeReply(1, DIGEST))[:-1]),
    "a long digest": lambda: name("stranger") + frame(build(ChallengeReply(1, DIGEST)) + b"x"),
    "too early a digest": lambda: frame(ChallengeReply(1, DIGEST)),
    "another's frame": lambda: name("stranger") + frame(ChallengeAck(DIGEST)),
    "a status": lambda: name("stranger") + frame(b"s" + DIGEST),
    "too much": lambda: name("stranger") + frame(ChallengeReply(1, DIGEST))[:-1] + DIGEST * 200,
    "half a reply": lambda: name("stranger") + frame(ChallengeReply(1, DIGEST))[:-4],
    "no name": lambda: frame(SendName(DEFAULT, 77, "x\ny@z")),
    "few flags": lambda: frame(SendName(Flag(0), 77, f"weak@{HOST}")),
}


def test_nothing_shows_them(digests: Digests, log: Log) -> None:
    async def main(cluster: Cluster) -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        loop.slow_callback_duration = 0.0  # every callback is logged, with its arguments
        errors: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: errors.append(context))
        async with (
            cluster.node(cookie=COOKIE, cookies={f"n3@{HOST}": OTHER}, net_setuptime=0.5) as one,
            cluster.node(cookie=COOKIE) as two,
            cluster.node(cookie=OWN) as three,
            cluster.node(cookie=OTHER) as four,
            cluster.node(cookie=COOKIE, allowed=["nobody@nowhere"]) as five,
        ):
            one.set_cookie(OWN, three.name)
            assert await two.connect(one.name)
            assert await three.connect(one.name)
            assert not await four.connect(one.name)
            assert not await one.connect(four.name)
            assert not await one.connect(five.name)
            assert not await one.connect(f"nobody@{HOST}")
            assert await two.rpc(one.name, "erlang", "node", []) is one.name
            assert one.listen_address is not None
            sockets = []
            for say in SAID.values():
                dialled = socket.create_connection((HOST, one.listen_address[1]), timeout=5)
                dialled.sendall(say())
                sockets.append(dialled)
            await until(lambda: one.network._accepting)
            digests.check(shown_reachable(one, four.network), "the middle of it")
            for dialled in sockets[::2]:
                dialled.close()
            await until(lambda: not one.network._accepting)
            for dialled in sockets:
                dialled.close()
            await asyncio.to_thread(four.connect_error, one.name)
            for node, other in ((four, one), (one, four), (one, five)):
                error = node.connect_error(other.name)
                assert error is not None
                digests.check(shown_error(error), "an error")
            digests.check(shown_reachable(one, two, three, four, five, loop, asyncio.all_tasks()), "what is left")
            digests.check(pprint.pformat([vars(one), vars(one.network), one.connections()]), "vars")
        assert len(digests.made) > 10
        digests.check(repr(errors), "the exception handler")

    play(main)
    assert len(log.text) > 500
    assert any("Executing" in text for text in log.text)  # asyncio's debug mode was on
    digests.check("\n".join(log.text), "the log")


def test_an_error_of_the_library_does_not_show_them(
    digests: Digests, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever breaks in the middle of a handshake, with a digest among the variables."""

    def is_proved(secret: Secret, challenge: int, digest: bytes) -> bool:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Secret, "is_proved", is_proved)

    async def main(cluster: Cluster) -> None:
        errors: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        async with cluster.node(cookie=COOKIE) as one, cluster.node(cookie=COOKIE) as two:
            assert not await two.connect(one.name)
            digests.check(shown_error(two.connect_error(one.name) or KeyError()), "an error")
            digests.check(shown_reachable(one, two), "what is left")
        digests.check(repr([shown_error(each["exception"]) for each in errors]), "the exception handler")

    play(main)
    assert digests.made
    text = "\n".join(log.text)
    assert "RuntimeError: a bug" in text  # and the frames, without variables
    digests.check(text, "the log")


def machines() -> list[Any]:
    common: dict[str, Any] = {"this_creation": 1, "flags": DEFAULT, "challenge": 5, "setup_timeout": 7.0, "now": 0.0}
    secret = Secret(COOKIE.encode())
    initiator = Initiator(this_name="a@h", peer_name="b@h", cookie=secret, **common)
    acceptor = Acceptor(this_name="b@h", **common)
    acceptor.receive_data(b"".join(initiator.data_to_send()), 0.0)
    acceptor.next_event()
    acceptor.accept(Accept.OK, cookie=secret)
    return [initiator, acceptor, secret, Cookie(COOKIE)]


def test_what_holds_them_does_not_show_them(digests: Digests) -> None:
    for one in machines():
        digests.check(f"{one!r} {one} {getattr(one, '__dict__', '')!r} {[one]!r}", type(one).__name__)
    for message in (ChallengeReply(5, DIGEST), ChallengeAck(DIGEST)):
        text = f"{message!r} {message}"
        assert not any(form in text for form in forms_of(DIGEST))


@pytest.mark.parametrize("way", [pickle.dumps, copy.copy, copy.deepcopy])
def test_they_are_not_pickled_or_copied(digests: Digests, way: Any) -> None:
    for one in (Secret(COOKIE.encode()), Cookie(COOKIE)):
        with pytest.raises(TypeError) as raised:
            way(one)
        digests.check(str(raised.value), "the error")


# --- Errors about cookies ---------------------------------------------------------------------------------------------


def library_frames(error: BaseException) -> str:
    """The traceback with variables, without the frames of this test, which has given the cookie."""
    while error.__traceback__ is not None and error.__traceback__.tb_frame.f_code.co_filename == __file__:
        error = error.with_traceback(error.__traceback__.tb_next)
    return shown_error(error)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Node("x@h", cookie=COOKIE * 20),
        lambda: Node("x@h", cookie=f"{COOKIE}\u20ac"),
        lambda: Node("x@h", cookie=COOKIE, net_ticktime=-1),
        lambda: Node("x@h", cookies={"y@h": COOKIE}, policy="none"),
        lambda: Node("x@h", cookies={"y@h": f"{COOKIE}\u20ac"}),
        lambda: Node("x@h", cookies=COOKIE),  # type: ignore[arg-type]
        lambda: sync.Node("x@h", cookies=[COOKIE]),  # type: ignore[typeddict-item]
        lambda: sync.Node("x@h", cookie=COOKIE, dist_auto_connect="perhaps"),
        lambda: sync.Node("x@h", cookie=COOKIE * 20),
        lambda: Node("x@h").set_cookie(f"{COOKIE}\u20ac"),
        lambda: Node("x@h").set_cookie(COOKIE, "y@long.host"),
    ],
)
def test_a_node_that_cannot_be_made(digests: Digests, make: Any) -> None:
    with pytest.raises((CookieError, UsageError)) as raised:
        make()
    digests.check(library_frames(raised.value), "the error")


@pytest.mark.parametrize("content", [f"{COOKIE}\nmore", COOKIE * 20, f"{COOKIE}\t"])
def test_a_file_that_cannot_be_used(digests: Digests, tmp_path: Path, content: str) -> None:
    path = tmp_path / "cookie"
    path.write_text(content)
    path.chmod(0o400)
    with pytest.raises(CookieError) as raised:
        cookies.read(path)
    digests.check(library_frames(raised.value), "the error")


def test_the_command_line(digests: Digests, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong with a cookie, or with what stands beside it, is said without it."""
    assert command(["ping", "x@h", "--cookie", COOKIE * 20]) == 1
    with pytest.raises(SystemExit):
        command(["ping", "x@h", "--cookie", COOKIE, "--timeout", "soon"])
    output = capsys.readouterr()
    assert "at most 255 characters" in output.err
    digests.check(output.out + output.err, "the output")
    assert a.x is a.x
