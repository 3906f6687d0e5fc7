"""What tests of TLS share: one peer dials another, and what each is told."""

from __future__ import annotations

import pytest

from beamnode.carriers.tls import Tls
from beamnode.errors import NetworkError, TlsError
from contract import Recorder, until


class Attempt:
    """One peer dials another: what each is told."""

    def __init__(self) -> None:
        self.near = Recorder()  # who dials
        self.far = Recorder()
        self.refused: NetworkError | None = None

    @classmethod
    async def make(cls, server: Tls, client: Tls, node: str = "far@127.0.0.1") -> Attempt:
        attempt = cls()
        listener = await server.listen(attempt.far.attach)
        try:
            stream = await client.dial("127.0.0.1", listener.port, attempt.near.attach, timeout=5, node=node)
        except NetworkError as error:
            attempt.refused = error
            await until(lambda: bool(attempt.far.lost))
        else:
            stream.write([b"hello"])
            await until(lambda: bool(attempt.far.lost) or attempt.far.received == b"hello")
            if attempt.far.lost:
                await until(lambda: bool(attempt.near.lost))
                attempt.refused = attempt.near.lost[0]
            stream.abort()
            await until(lambda: bool(attempt.far.lost))
        finally:
            await listener.close()
        return attempt

    @property
    def near_text(self) -> str:
        assert isinstance(self.refused, TlsError)
        return str(self.refused)

    @property
    def far_text(self) -> str:
        [error] = self.far.lost
        assert isinstance(error, TlsError)
        return str(error)


BOTH_VERSIONS = pytest.mark.parametrize("versions", [["tlsv1.2"], ["tlsv1.3"]], ids=["1.2", "1.3"])
