"""One victim for the tests of a module; a test that spoils it gets its own by `victim_of`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support_hostile import Victim, victim_of


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is here takes minutes, and hardly depends on the version of Python."""
    for item in items:
        if "hostile" in item.path.parts:
            item.add_marker("one_python")


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    with victim_of() as running:
        yield running
