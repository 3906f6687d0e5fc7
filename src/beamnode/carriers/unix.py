"""Unix domain sockets: nodes of one machine, each found by the socket file that has its name, `<directory>/<node>`.

No port and no epmd. Who may connect is who may write to the file and search its directory; the cookie still counts.
A file that a dead node has left is taken over by the next one of that name, that of a living node never.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from functools import partial
from time import monotonic

from beamnode.carriers.base import Receiver, ReceiverFactory, Stream
from beamnode.carriers.socket_listener import BACKLOG, SocketListener
from beamnode.carriers.socket_stream import SocketStream
from beamnode.carriers.texts import cause_of
from beamnode.errors import NameTakenError, NetworkError, NodeNotFound, SetupTimeout, UsageError
from beamnode.spells import Spells

log = logging.getLogger("beamnode.connection")

PATH_BYTES_MAX = 107  # sun_path of unix(7) has 108 bytes, of which one is its end

# What the system is asked to hold of what a peer has not read yet. It gives twice that, if net.core.wmem_max lets it;
# with what it has by itself, a fifth, 1 MiB there and back takes 1.5 times as long. (TCP's buffers grow by themselves.)
SEND_BUFFER_BYTES = 512 * 1024

# A unix socket whose backlog is full says EAGAIN, and nothing tells when there is room.
FIRST_WAIT_SECONDS = 0.001
LONGEST_WAIT_SECONDS = 0.05

LOCK_WAIT_SECONDS = 5.0  # for other nodes that start in the same directory; each takes a moment

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


class Unix:
    """The carrier "unix". Options only; share it between nodes as you like.

    - `directory`: where the socket files are; it must exist. Who cannot search it cannot connect.
    - `mode`: of the socket file; who may write to it may connect. 0o600: this user (and root); 0o660: also the group
      that the file gets, which is that of the directory where its set-group-ID bit is set.
    - `allow_uids`: besides, only processes of these users are accepted (Linux: SO_PEERCRED); None: no such condition.
    """

    name = "unix"
    handshake_length_bytes = 2
    by_name = True

    def __init__(
        self, directory: str | os.PathLike[str], *, mode: int = 0o600, allow_uids: Collection[int] | None = None
    ) -> None:
        if allow_uids is not None and not hasattr(socket, "SO_PEERCRED"):
            raise UsageError("allow_uids: this system does not tell whose process a peer is")
        self.directory = os.path.abspath(os.fspath(directory))
        if not isinstance(mode, int) or not 0 <= mode <= 0o777:
            raise UsageError(f"mode is that of a file, as 0o600, not {mode!r}")
        self.mode = mode
        self.allow_uids = None if allow_uids is None else frozenset(allow_uids)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.directory!r}, mode=0o{self.mode:o})"

    def path(self, node: str) -> str:
        """The socket file of a node. Errors: UsageError for a name that cannot be a file's, or a path too long."""
        if not node.strip(".") or "/" in node or "\0" in node:
            raise UsageError(f"no socket file can have the name of node {node!r}")
        path = os.path.join(self.directory, node)
        path_bytes = len(os.fsencode(path))
        if path_bytes > PATH_BYTES_MAX:
            raise UsageError(
                f"{path} is no place for a unix socket: it has {path_bytes} bytes, {PATH_BYTES_MAX} is the most; "
                "choose a directory with a shorter path"
            )
        return path

    # --- Listening ----------------------------------------------------------------------------------------------------

    async def listen(self, accept: ReceiverFactory, *, node: str = "") -> UnixListener:
        """Make the socket file of `node`, or take over that of a dead node of its name.

        Errors: NameTakenError when such a node lives; NetworkError when the file cannot be made.
        """
        path = self.path(node)
        if self.allow_uids is not None:
            accept = partial(_accept_allowed, self.allow_uids, Spells(monotonic), accept)
        try:
            async with _locked(self.directory):
                _clear(path, node)
                return UnixListener(path, self.mode, accept)
        except OSError as error:
            hint = _LISTEN_HINTS.get(error.errno or 0, "")
            raise NetworkError(f"cannot listen on {path}: {cause_of(error)}{hint}") from error

    # --- Dialling -----------------------------------------------------------------------------------------------------

    async def dial(
        self, host: str, port: int, receiver_factory: ReceiverFactory, *, timeout: float, node: str = ""
    ) -> Stream:
        """Connect to the socket file of `node`; `host` and `port` say nothing. Errors: see `Carrier.dial`."""
        path = self.path(node)
        try:
            async with asyncio.timeout(timeout):
                connected = await _connect(path)
        except TimeoutError as error:
            raise SetupTimeout(
                f"cannot connect to {path}: the node accepted no connection within {timeout:g} s"
            ) from error
        except FileNotFoundError as error:
            raise NodeNotFound(
                f"cannot connect to {path}: no node has made such a file; it is not up, or goes by another carrier"
            ) from error
        except OSError as error:
            hint = _DIAL_HINTS.get(error.errno or 0, "")
            raise NetworkError(f"cannot connect to {path}: {cause_of(error)}{hint}") from error
        _set_options(connected)
        stream = SocketStream(connected, (path, 0))
        stream.open(receiver_factory)
        return stream


_LISTEN_HINTS = {
    errno.ENOENT: "; make the directory first, with the permissions of those who may connect",
    errno.EACCES: "; this user must be allowed to read, write and search the directory",
}
_DIAL_HINTS = {
    errno.ECONNREFUSED: "; the node that made it is gone",
    errno.EACCES: "; who may connect is said by the mode of the file, Unix(mode=...), and of its directory",
    errno.EPROTOTYPE: "; it is the socket of something else",
}


class UnixListener(SocketListener):
    """Listens on a new socket file, which it removes when it closes, if it is still there."""

    def __init__(self, path: str, mode: int, accept: ReceiverFactory) -> None:
        self._path = path
        self._identity: tuple[int, int] | None = None
        listening = socket.socket(socket.AF_UNIX)
        try:
            listening.bind(path)
            self._identity = _identity(path)
            os.chmod(path, mode)  # before anybody can connect, which takes `listen`
            listening.listen(BACKLOG)
            listening.setblocking(False)
            super().__init__(listening, accept, _set_options)
        except BaseException:
            self._remove()
            listening.close()
            raise

    async def close(self) -> None:
        """Accept no more, and remove the file; not one that somebody has put in its place."""
        self._remove()
        await super().close()  # only now: until then nobody takes the file for that of a dead node

    def _remove(self) -> None:
        if self._identity is not None and _identity(self._path) == self._identity:
            with suppress(OSError):  # the directory has become read-only: then the next of this name takes it over
                os.unlink(self._path)
        self._identity = None


def _set_options(connected: socket.socket) -> None:
    with suppress(OSError):
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


def _identity(path: str) -> tuple[int, int] | None:
    """Which file it is; None: there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


@asynccontextmanager
async def _locked(directory: str) -> AsyncIterator[None]:
    """One node at a time looks at the files here and replaces what is stale. Errors: OSError, NetworkError."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LOCK_WAIT_SECONDS
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if loop.time() > deadline:
                    raise NetworkError(f"cannot listen in {directory}: some process holds a lock on it") from None
                await asyncio.sleep(LONGEST_WAIT_SECONDS / 5)
        yield
    finally:
        os.close(descriptor)


def _clear(path: str, node: str) -> None:
    """Remove the socket that a dead node has left. Errors: NameTakenError, NetworkError, OSError."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        kind = "a symbolic link" if stat.S_ISLNK(mode) else "no socket"
        raise NetworkError(f"cannot listen on {path}: it is there already and is {kind}; remove it")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        result = probe.connect_ex(path)
    if result in (0, errno.EAGAIN):
        raise NameTakenError(f"{node} runs already, and listens on {path}: stop it or choose another name")
    if result == errno.ECONNREFUSED:
        log.info("taking over %s, which a node that is gone has left", path)
    elif result != errno.ENOENT:
        raise NetworkError(f"cannot listen on {path}: it is there already: {os.strerror(result)}; remove it")
    with suppress(FileNotFoundError):
        os.unlink(path)


async def _connect(path: str) -> socket.socket:
    """A connected socket. Errors: OSError. (`loop.sock_connect` takes EAGAIN for a connection that is under way.)"""
    connected = socket.socket(socket.AF_UNIX)
    wait = FIRST_WAIT_SECONDS
    try:
        connected.setblocking(False)
        while (result := connected.connect_ex(path)) != 0:
            if result not in (errno.EAGAIN, errno.EINTR):
                raise OSError(result, os.strerror(result))
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)
    except BaseException:
        connected.close()
        raise
    return connected


# --- Whose process a peer is ------------------------------------------------------------------------------------------


def _accept_allowed(allowed: frozenset[int], spells: Spells, accept: ReceiverFactory, stream: Stream) -> Receiver:
    assert isinstance(stream, SocketStream)
    assert stream.raw_socket is not None
    pid, uid, _ = _CREDENTIALS.unpack(
        stream.raw_socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    if uid in allowed:
        return accept(stream)
    unsaid = spells.worth_a_line("refused", str(uid))
    if unsaid is not None:
        more = f" ({unsaid} more were refused since the last line)" if unsaid else ""
        log.warning(
            "refused process %d on %s: user %d is none of allow_uids%s", pid, stream.local_address[0], uid, more
        )
    stream.abort()
    return _Refused()


class _Refused:
    """The receiver of a stream that ends at once."""

    def data_received(self, data: bytes | memoryview) -> None: ...

    def connection_lost(self, error: NetworkError | None) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...
