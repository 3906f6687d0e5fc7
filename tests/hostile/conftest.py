"""One victim for the tests of a module; a test that spoils it gets its own by `victim_of`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support_hostile import Victim, victim_of


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    with victim_of() as running:
        yield running
