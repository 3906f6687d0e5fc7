"""What the contract suite of carriers is written with: a receiver that remembers, and two joined streams."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar
from unittest import mock

from beamnode.carriers.base import Carrier, Chunk, Listener, ReceiverFactory, Stream
from beamnode.errors import NetworkError

MIB = 1024 * 1024
NOWHERE = ("", 0)
LINGER_TESTED_SECONDS = 0.1


class Watched:
    """A stream; while it is called its receiver is not to be."""

    def __init__(self, stream: Stream, recorder: Recorder) -> None:
        self.stream = stream
        self._recorder = recorder

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, chunks: Sequence[Chunk]) -> None:
        self._call("write", chunks)

    def close(self) -> None:
        self._call("close")

    def abort(self) -> None:
        self._call("abort")

    def pause_reading(self) -> None:
        self._call("pause_reading")

    def resume_reading(self) -> None:
        self._call("resume_reading")

    def _call(self, name: str, *args: Any) -> None:
        before, self._recorder.inside = self._recorder.inside, name
        try:
            getattr(self.stream, name)(*args)
        finally:
            self._recorder.inside = before


class Recorder:
    """A receiver that remembers, and looks whether it is called as it may be.

    What is wrong goes to `faults`, since streams catch what receivers raise.
    """

    faults: ClassVar[list[str]] = []

    def __init__(self) -> None:
        self.stream: Stream | None = None
        self.received = bytearray()
        self.pieces: list[bytes] = []
        self.lost: list[NetworkError | None] = []
        self.pauses: list[str] = []
        self.on_data: Callable[[bytes], None] | None = None
        self.on_pause: Callable[[], None] | None = None
        self.on_resume: Callable[[], None] | None = None
        self.on_lost: Callable[[], None] | None = None
        self.deaf = False  # set while the stream may not bring data
        self.inside = ""  # which method of its stream
        self._thread = threading.get_ident()

    def attach(self, stream: Stream) -> Recorder:
        self.stream = stream
        return self

    def data_received(self, data: bytes | memoryview) -> None:
        self._check()
        self._expect(type(data) in (bytes, memoryview) and len(data) > 0, f"data that is {data!r}")
        self._expect(not self.deaf, "data after close, after abort or while reading is paused")
        data = bytes(data)  # valid during the call only
        self.received += data
        self.pieces.append(data)
        if self.on_data:
            self.on_data(data)

    def connection_lost(self, error: NetworkError | None) -> None:
        self._check()
        self._expect(error is None or isinstance(error, NetworkError), f"connection_lost({error!r})")
        self.lost.append(error)
        if self.on_lost:
            self.on_lost()

    def pause_writing(self) -> None:
        self._check(may_be_inside="write")
        self.pauses.append("pause")
        if self.on_pause:
            self.on_pause()

    def resume_writing(self) -> None:
        self._check()
        self.pauses.append("resume")
        if self.on_resume:
            self.on_resume()

    def _check(self, may_be_inside: str = "") -> None:
        self._expect(threading.get_ident() == self._thread, "called in another thread")
        self._expect(not self.lost, "called after the end")
        self._expect(self.inside in ("", may_be_inside), f"called from inside {self.inside}")

    def _expect(self, right: bool, fault: str) -> None:
        if not right:
            self.faults.append(fault)


class Site:
    """One carrier that listens, one that dials (often the same), the host to dial, and the name of who listens."""

    def __init__(self, listening: Carrier, dialling: Carrier, host: str, node: str = "") -> None:
        self.listening = listening
        self.dialling = dialling
        self.host = host
        self.node = node or f"far@{host}"

    async def listen(self, accept: ReceiverFactory, node: str = "") -> Listener:
        return await self.listening.listen(accept, node=node or self.node)

    async def dial(self, listener: Listener, factory: ReceiverFactory, timeout: float = 5.0, node: str = "") -> Stream:
        port = listener.port
        return await self.dialling.dial(self.host, port, factory, timeout=timeout, node=node or self.node)


class Joined:
    """Two streams, joined: `near` dialled, `far` accepted; or the other way round."""

    def __init__(self, site: Site, swapped: bool = False) -> None:
        self.site = site
        self.near = Recorder()
        self.far = Recorder()
        self.listener: Listener
        self._swapped = swapped

    async def __aenter__(self) -> Joined:
        dialled, accepted = (self.far, self.near) if self._swapped else (self.near, self.far)
        self.listener = await self.site.listen(accepted.attach)
        stream = await self.site.dial(self.listener, dialled.attach)
        assert dialled.stream is stream
        await until(lambda: accepted.stream is not None)
        assert self.near.stream is not None
        assert self.far.stream is not None
        self.near_stream = Watched(self.near.stream, self.near)
        self.far_stream = Watched(self.far.stream, self.far)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.listener.close()
        for stream in (self.near_stream, self.far_stream):
            stream.abort()
        await until(lambda: bool(self.near.lost and self.far.lost))
        await asyncio.sleep(0.01)
        assert len(self.near.lost) == 1, "connection_lost exactly once"
        assert len(self.far.lost) == 1, "connection_lost exactly once"


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "waited in vain"
        await asyncio.sleep(0.001)


async def dial_error(dialled: Awaitable[Stream]) -> NetworkError:
    """What dialling raises, which must be a NetworkError."""
    try:
        await dialled
    except NetworkError as error:
        return error
    raise AssertionError("dialling was to fail, and did not")


def errors_reported() -> list[BaseException]:
    """What the exception handler of the loop is told from now on."""
    reported: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
    return reported


@contextmanager
def nothing_left_open() -> Iterator[None]:
    """Nothing that was opened meanwhile is forgotten without being closed."""
    gc.collect()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", ResourceWarning)
        yield
        gc.collect()
    assert not [str(warning.message) for warning in seen if issubclass(warning.category, ResourceWarning)]


@contextmanager
def short_linger(stream: Stream) -> Iterator[float]:
    """Have `close` linger for a moment only, where the module of the stream has `LINGER_SECONDS` by that name."""
    modules = {sys.modules[each.__module__] for each in type(stream).__mro__}
    having = [module for module in modules if hasattr(module, "LINGER_SECONDS")]
    with ExitStack() as stack:
        for module in having:
            stack.enter_context(mock.patch.object(module, "LINGER_SECONDS", LINGER_TESTED_SECONDS))
        yield LINGER_TESTED_SECONDS if having else 5.0


def recorded(recorders: list[Recorder], stream: Stream) -> Recorder:
    recorders.append(Recorder().attach(stream))
    return recorders[-1]
