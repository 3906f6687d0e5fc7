"""The floors, from below: what `etf`, `wire` and `core` load, and who imports the package root."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import beamnode

ROOT = Path(beamnode.__file__).parent
SANS_IO = ("etf", "wire", "core")
NOT_IN_SANS_IO = {"asyncio", "socket", "ssl", "threading", "time", "random", "secrets", "os"}
ALLOWED = {"etf/environment.py": {"os"}}  # one variable, read once


def _files(*floors: str) -> list[Path]:
    return sorted(path for floor in floors for path in (ROOT / floor).rglob("*.py"))


def _module_name(path: Path) -> str:
    parts = ["beamnode", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path) -> Iterator[str]:
    """The absolute names of the modules that a file imports, wherever in the file it does so."""
    package = _module_name(path) if path.name == "__init__.py" else _module_name(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield module
            if module == "beamnode":  # `from beamnode import etf` imports a floor, not only the root
                yield from (f"beamnode.{alias.name}" for alias in node.names)


def _id(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", _files(*SANS_IO), ids=_id)
def test_a_sans_io_file_imports_nothing_that_acts(path: Path) -> None:
    found = {name.partition(".")[0] for name in _imports(path)} & NOT_IN_SANS_IO
    assert found == ALLOWED.get(_id(path), set())


# The package root imports the public names, and so everything: here a bare package stands in its place.
_LOAD = """
import importlib, sys, types
sys.modules["beamnode"] = root = types.ModuleType("beamnode")
root.__path__ = [sys.argv[1]]
for name in sys.argv[2:]:
    importlib.import_module(name)
print(*sorted({"asyncio", "socket", "ssl"} & set(sys.modules)))
"""


def test_the_sans_io_floors_load_no_network() -> None:
    modules = [_module_name(path) for path in _files(*SANS_IO)]
    command = [sys.executable, "-c", _LOAD, str(ROOT), *modules]
    assert subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split() == []


@pytest.mark.parametrize("path", sorted(set(_files(".")) - set(_files("testing"))), ids=_id)
def test_no_file_imports_the_package_root(path: Path) -> None:
    assert "beamnode" not in set(_imports(path))


def test_imports_of_every_form_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "wire").mkdir()
    path = tmp_path / "wire" / "sample.py"
    path.write_text("import os.path\nfrom .flags import x\nfrom .. import etf\ndef f():\n    from time import sleep\n")
    assert set(_imports(path)) == {"os.path", "beamnode.wire.flags", "beamnode", "beamnode.etf", "time"}
