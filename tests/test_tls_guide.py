"""docs/tls.md: its commands and programs work, in its order, and the messages in its table are those of the library."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import beamnode
from beamnode.testing.peers import free_port

pytestmark = pytest.mark.one_python

GUIDE = Path(__file__).parents[1] / "docs" / "tls.md"
TEXT = GUIDE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
SOURCES = Path(beamnode.__file__).parent


def run(command: list[str], folder: Path, epmd_port: int) -> str:
    environment = os.environ | {"ERL_EPMD_PORT": str(epmd_port), "HOME": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_certificates_and_two_nodes(tmp_path: Path) -> None:
    port = free_port()
    [command] = [text for language, text in BLOCKS if language == "sh"]
    program, routes = [text for language, text in BLOCKS if language == "python"]
    shown = BLOCKS[BLOCKS.index(("python", program)) + 1][1]
    words = command.split()
    assert words[0] == "beamnode"
    printed = run([sys.executable, "-m", *words], tmp_path, port)
    for line in (line for language, text in BLOCKS if language == "text" for line in text.splitlines()):
        if line.startswith(("erl", "beamnode")):
            assert line.replace("certs/", f"{tmp_path}/certs/") in printed
    epmd = subprocess.Popen([sys.executable, "-m", "beamnode", "epmd", "--port", str(port), "--address", "127.0.0.1"])
    try:
        assert run([sys.executable, "-c", program], tmp_path, port) == shown
        run([sys.executable, "-c", routes], tmp_path, port)
    finally:
        epmd.terminate()
        epmd.wait()


def test_messages_of_the_table() -> None:
    """Without the parts that differ, which are in capitals there."""
    files = [*SOURCES.glob("carriers/tls*.py"), SOURCES / "wire/handshake_machine.py"]
    sources = "".join(file.read_text(encoding="utf-8") for file in files)
    sources = re.sub(r'"\n\s+f?"', "", sources).replace("{its}", "its certificate")
    # OpenSSL's words, and the names of what differs
    sources += "certificate is not valid for ''"
    rows = re.findall(r"^\| (.*?) \|", TEXT.partition("## When it does not work")[2], re.MULTILINE)[1:]
    assert len(rows) > 10
    for row in rows:
        for part in re.split(r"HOST|FILE", row):
            assert part.strip(" '") in sources, row
