"""The codec tests run on every kernel of the codec that this installation has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from beamnode.etf import codec, codec_python


@pytest.fixture(params=list(codec.KERNELS), autouse=True, scope="module")
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    """The face of `codec`, with that kernel under it. Tests call `codec.encode` and the rest through the module."""
    module = codec.KERNELS[request.param]
    with pytest.MonkeyPatch.context() as patch:
        for name in codec_python.__all__:
            patch.setattr(codec, name, getattr(module, name))
        yield request.param
