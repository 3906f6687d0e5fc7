"""Unix domain sockets: the contract, socket files that are there already, and who may connect."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support_loops import LOOPS, Run

from beamnode.carriers import unix
from beamnode.carriers.unix import PATH_BYTES_MAX, Unix
from beamnode.errors import NameTakenError, NetworkError, UsageError
from contract import CarrierContract, Joined, Recorder, Site, dial_error, errors_reported, until

NODE = "far@host"
NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short, unlike pytest's own; others may search it."""
    made = Path(tempfile.mkdtemp(prefix="bn"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


class TestUnix(CarrierContract):
    @pytest.fixture(autouse=True)
    def _in_a_directory(self, directory: Path) -> None:
        self.directory = directory

    def site(self) -> Site:
        return Site(Unix(self.directory), Unix(self.directory), "host")

    def half_close(self, stream: Any) -> bool:
        stream.raw_socket.shutdown(socket.SHUT_WR)
        return True

    @asynccontextmanager
    async def silence(self) -> AsyncIterator[tuple[Site, int]]:
        with full_backlog(self.directory / NODE):
            yield self.site(), 0


@pytest.mark.one_python
class TestUnixOnUvloop(TestUnix):
    new_loop = staticmethod(LOOPS["uvloop"])


@contextmanager
def full_backlog(path: Path) -> Iterator[socket.socket]:
    """Something that listens there and takes nobody any more."""
    with socket.socket(socket.AF_UNIX) as full, ExitStack() as waiting:
        full.bind(str(path))
        full.listen(0)
        while True:
            one = waiting.enter_context(socket.socket(socket.AF_UNIX))
            one.setblocking(False)
            if one.connect_ex(str(path)) == errno.EAGAIN:
                break
        yield full


def stale(path: Path) -> int:
    """Leave a socket as a dead node does; its inode."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    return path.stat().st_ino


# --- Files ------------------------------------------------------------------------------------------------------------


def test_the_file_has_the_name_of_the_node_and_the_mode_and_goes_with_it(run: Run, directory: Path) -> None:
    async def main() -> None:
        before = os.umask(0o077)
        try:
            for mode in (0o600, 0o660, 0o666):
                listener = await Unix(directory, mode=mode).listen(Recorder().attach, node=NODE)
                assert listener.address == (str(directory / NODE), 0)
                assert [path.name for path in directory.iterdir()] == [NODE]
                assert (directory / NODE).stat().st_mode & 0o777 == mode
                await listener.close()
                assert list(directory.iterdir()) == []
        finally:
            os.umask(before)

    run(main())


def test_addresses_tell_the_file_on_both_sides(run: Run, directory: Path) -> None:
    async def main() -> None:
        async with Joined(Site(Unix(directory), Unix(directory), "host")) as joined:
            file = (str(directory / NODE), 0)
            assert joined.near_stream.peer_address == joined.far_stream.local_address == file
            assert joined.near_stream.local_address == ("", 0)
            assert joined.far_stream.peer_address == file

    run(main())


def test_the_file_of_a_dead_node_is_taken_over(run: Run, directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        stale(directory / NODE)
        with caplog.at_level(logging.INFO):
            async with Joined(Site(Unix(directory), Unix(directory), "host")) as joined:
                joined.near_stream.write([b"hello"])
                await until(lambda: joined.far.received == b"hello")
        assert f"taking over {directory / NODE}, which a node that is gone has left" in caplog.text

    run(main())


def test_the_file_of_a_living_node_is_not(run: Run, directory: Path) -> None:
    async def main() -> None:
        listener = await Unix(directory).listen(Recorder().attach, node=NODE)
        with pytest.raises(NameTakenError, match=f"{NODE} runs already, and listens on {directory}/{NODE}: stop it"):
            await Unix(directory).listen(Recorder().attach, node=NODE)
        near = Recorder()
        (await Unix(directory).dial("host", 0, near.attach, timeout=5, node=NODE)).close()
        await listener.close()
        with full_backlog(directory / NODE), pytest.raises(NameTakenError):
            await Unix(directory).listen(Recorder().attach, node=NODE)

    run(main())


def test_of_many_that_start_at_once_one_gets_the_name(run: Run, directory: Path) -> None:
    async def main() -> None:
        for _ in range(5):
            stale(directory / NODE)
            starting = [Unix(directory).listen(Recorder().attach, node=NODE) for _ in range(8)]
            results = await asyncio.gather(*starting, return_exceptions=True)
            [listener] = [result for result in results if isinstance(result, unix.UnixListener)]
            assert sum(isinstance(result, NameTakenError) for result in results) == 7
            await Unix(directory).dial("host", 0, Recorder().attach, timeout=5, node=NODE)
            await listener.close()

    run(main())


STARTER = """
import asyncio, sys
from beamnode.carriers.unix import Unix
from beamnode.errors import NameTakenError

async def main():
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        listener = await Unix(sys.argv[1]).listen(None, node=sys.argv[2])
    except NameTakenError:
        print("taken", flush=True)
    else:
        print("listens", flush=True)
        sys.stdin.readline()
        await listener.close()

asyncio.run(main())
"""


@pytest.mark.one_python
def test_of_many_processes_that_start_at_once_one_gets_the_name(directory: Path) -> None:
    stale(directory / NODE)
    command = [sys.executable, "-c", STARTER, directory, NODE]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
            )
            for _ in range(4)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
        said = [process.stdout.readline() for process in processes if process.stdout]
        assert sorted(said) == ["listens\n", "taken\n", "taken\n", "taken\n"]
        for process in processes:
            process.communicate("stop\n")
            assert process.returncode == 0
    assert list(directory.iterdir()) == []


def test_what_is_no_socket_is_left_alone(run: Run, directory: Path) -> None:
    file = directory / NODE

    async def refused(text: str) -> None:
        with pytest.raises(NetworkError, match=f"cannot listen on {file}: it is there already{text}"):
            await Unix(directory).listen(Recorder().attach, node=NODE)

    async def main() -> None:
        file.write_text("precious")
        await refused(" and is no socket; remove it")
        assert file.read_text() == "precious"
        assert "no socket" not in str(await dial_error(dial()))
        file.unlink()
        stale(directory / "other@host")
        file.symlink_to(directory / "other@host")
        await refused(" and is a symbolic link; remove it")
        file.unlink()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.bind(str(file))
            await refused(": Protocol wrong type for socket; remove it")
            assert "it is the socket of something else" in str(await dial_error(dial()))
        file.unlink()

    def dial() -> Any:
        return Unix(directory).dial("host", 0, Recorder().attach, timeout=5, node=NODE)

    run(main())


def test_a_file_that_has_been_replaced_is_not_removed(run: Run, directory: Path) -> None:
    async def main() -> None:
        listener = await Unix(directory).listen(Recorder().attach, node=NODE)
        (directory / NODE).unlink()
        other = await Unix(directory).listen(Recorder().attach, node=NODE)
        await listener.close()
        assert (directory / NODE).is_socket()
        await Unix(directory).dial("host", 0, Recorder().attach, timeout=5, node=NODE)
        await other.close()
        assert list(directory.iterdir()) == []

    run(main())


def test_a_file_that_is_gone_already_is_no_error(run: Run, directory: Path) -> None:
    async def main() -> None:
        listener = await Unix(directory).listen(Recorder().attach, node=NODE)
        (directory / NODE).unlink()
        await listener.close()
        await listener.close()

    run(main())


def test_a_listener_that_cannot_be_made_leaves_no_file(
    run: Run, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise PermissionError(errno.EPERM, "no")

    async def main() -> None:
        with pytest.raises(NetworkError, match="Operation not permitted"):
            await Unix(directory).listen(Recorder().attach, node=NODE)

    monkeypatch.setattr(unix.os, "chmod", fail)
    run(main())
    assert list(directory.iterdir()) == []


# --- Directories ------------------------------------------------------------------------------------------------------


def test_a_directory_that_is_not_there(run: Run, directory: Path) -> None:
    async def main() -> None:
        carrier = Unix(directory / "none")
        with pytest.raises(NetworkError, match=f"{directory}/none/{NODE}: No such file or directory; make the dir"):
            await carrier.listen(Recorder().attach, node=NODE)
        error = await dial_error(carrier.dial("host", 0, Recorder().attach, timeout=5, node=NODE))
        assert "no node has made such a file; it is not up, or goes by another carrier" in str(error)
        (directory / "file").touch()
        with pytest.raises(NetworkError, match="Not a directory"):
            await Unix(directory / "file").listen(Recorder().attach, node=NODE)

    run(main())


def test_a_path_that_is_too_long(run: Run, directory: Path) -> None:
    async def main() -> None:
        room = PATH_BYTES_MAX - len(str(directory)) - 1
        longest = await Unix(directory).listen(Recorder().attach, node="n" * room)
        await longest.close()
        for act in (
            Unix(directory).listen(Recorder().attach, node="n" * (room + 1)),
            Unix(directory).dial("host", 0, Recorder().attach, timeout=5, node="n" * (room + 1)),
        ):
            with pytest.raises(UsageError, match="it has 108 bytes, 107 is the most; choose a directory with a short"):
                await act

    run(main())


@pytest.mark.parametrize("node", ["", ".", "..", "a/b@host", "../a@host", "a\0@host"])
def test_names_that_no_file_can_have(directory: Path, node: str) -> None:
    with pytest.raises(UsageError, match="no socket file can have the name"):
        Unix(directory).path(node)


def test_a_directory_that_somebody_keeps_locked(run: Run, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix, "LOCK_WAIT_SECONDS", 0.05)

    async def main() -> None:
        async with unix._locked(str(directory)):
            with pytest.raises(NetworkError, match="some process holds a lock on it"):
                await Unix(directory).listen(Recorder().attach, node=NODE)
        await (await Unix(directory).listen(Recorder().attach, node=NODE)).close()

    run(main())


def test_a_peer_that_ends_with_unread_bytes_has_a_text(run: Run, directory: Path) -> None:
    async def main() -> None:
        far = Recorder()
        listener = await Unix(directory).listen(far.attach, node=NODE)
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(directory / NODE))
            await until(lambda: far.stream is not None)
            assert far.stream is not None
            far.stream.write([b"unread"])
        await until(lambda: bool(far.lost))
        assert str(far.lost[0]) == f"connection with {directory / NODE} lost: Connection reset by peer"
        await listener.close()

    run(main())


def test_a_full_backlog_is_waited_for(run: Run, directory: Path) -> None:
    async def main() -> None:
        with full_backlog(directory / NODE) as full:
            near = Recorder()
            dialling = asyncio.create_task(Unix(directory).dial("host", 0, near.attach, timeout=5, node=NODE))
            await asyncio.sleep(0.02)
            assert not dialling.done()
            full.accept()[0].close()
            (await dialling).abort()
            await until(lambda: bool(near.lost))

    run(main())


def test_the_system_holds_more_than_it_would_by_itself(run: Run, directory: Path) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as plain:
            usual = plain.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        async with Joined(Site(Unix(directory), Unix(directory), "host")) as joined:
            streams: list[Any] = [joined.near_stream, joined.far_stream]
            for stream in streams:
                assert stream.raw_socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) > usual

    run(main())


def test_it_shows_its_directory(directory: Path) -> None:
    assert repr(Unix(directory)) == f"Unix('{directory}', mode=0o600)"
    assert Unix("run").directory == f"{os.getcwd()}/run"


# --- Who may connect --------------------------------------------------------------------------------------------------

CONNECT = """
import os, socket, sys
_, path, uid = sys.argv
os.setgroups([])
os.setgid(int(uid))
os.setuid(int(uid))
with socket.socket(socket.AF_UNIX) as dialling:
    result = dialling.connect_ex(path)
    print(result, flush=True)
    if not result:
        dialling.settimeout(5)
        try:
            print(dialling.recv(100))
        except ConnectionResetError:
            print(b"")
"""


async def connect_as(uid: int, path: Path) -> tuple[int, str]:
    """What the system says when a process of that user connects, and what comes then."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CONNECT, path, str(uid), stdout=subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    result, *text = out.decode().splitlines()
    return int(result), "".join(text)


def greet(stream: Any) -> Recorder:
    stream.write([b"hello"])
    stream.close()
    return Recorder()


@needs_root
def test_the_mode_of_the_file_and_of_the_directory_decide(run: Run, directory: Path) -> None:
    async def main() -> None:
        file = directory / NODE
        listener = await Unix(directory).listen(greet, node=NODE)
        assert await connect_as(os.geteuid(), file) == (0, "b'hello'")
        assert await connect_as(NOBODY, file) == (errno.EACCES, "")
        await listener.close()
        listener = await Unix(directory, mode=0o666).listen(greet, node=NODE)
        assert await connect_as(NOBODY, file) == (0, "b'hello'")
        directory.chmod(0o700)
        assert await connect_as(NOBODY, file) == (errno.EACCES, "")
        await listener.close()

    run(main())


@needs_root
def test_allow_uids(run: Run, directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        file, reported = directory / NODE, errors_reported()
        listener = await Unix(directory, mode=0o666, allow_uids=[os.geteuid()]).listen(greet, node=NODE)
        assert await connect_as(os.geteuid(), file) == (0, "b'hello'")
        assert await connect_as(NOBODY, file) == (0, "b''")
        assert await connect_as(NOBODY, file) == (0, "b''")
        assert caplog.text.count(f"on {file}: user {NOBODY} is none of allow_uids") == 1, "however often"
        await listener.close()
        listener = await Unix(directory, mode=0o666, allow_uids=[NOBODY]).listen(greet, node=NODE)
        assert await connect_as(NOBODY, file) == (0, "b'hello'")
        await listener.close()
        assert reported == []

    run(main())


@needs_root
def test_somebody_elses_file_has_a_clear_error(directory: Path) -> None:
    directory.chmod(0o777)
    (directory / "theirs").mkdir(mode=0o700)
    script = """
import asyncio, os, sys
from beamnode.carriers.unix import Unix
from beamnode.errors import NetworkError

async def main():
    for directory, act in ((sys.argv[1], "dial"), (sys.argv[1], "listen"), (sys.argv[1] + "/theirs", "listen")):
        try:
            if act == "dial":
                await Unix(directory).dial("host", 0, None, timeout=5, node="far@host")
            else:
                await Unix(directory).listen(None, node="far@host")
        except NetworkError as error:
            print(error)

with asyncio.Runner() as runner:
    runner.get_loop()
    os.setuid(65534)
    runner.run(main())
"""

    async def main() -> None:
        listener = await Unix(directory).listen(Recorder().attach, node=NODE)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, err = await process.communicate()
        assert err == b""
        dialled, listened, in_theirs = out.decode().splitlines()
        assert dialled == (
            f"cannot connect to {directory}/{NODE}: Permission denied; who may connect is said by the mode of the "
            "file, Unix(mode=...), and of its directory"
        )
        assert listened == f"cannot listen on {directory}/{NODE}: it is there already: Permission denied; remove it"
        assert in_theirs == (
            f"cannot listen on {directory}/theirs/{NODE}: Permission denied; this user must be allowed to read, write "
            "and search the directory"
        )
        await listener.close()

    asyncio.run(main())


def test_a_mode_is_a_number(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="mode is that of a file, as 0o600, not '0600'"):
        Unix(tmp_path, mode="0600")  # type: ignore[arg-type]
