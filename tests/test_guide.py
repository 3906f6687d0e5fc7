"""docs/otp.md: its programs are run as a reader would, and print what the guide says.

A ```python block with a ```text block after it is a program and what the terminal shows of it: what it prints and what
it logs. One that waits for ever, `asyncio.Event().wait()`, is a server: it runs until its section ends. In such a
section lines after `iex> ` are run by a real Elixir node, those after a prompt of `beamnode shell` by that. In what is
expected `...` stands for what differs from run to run, within a line.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Final, Self

import pytest

from beamnode.testing.peers import Epmd, ErlNode, Otp, free_port, wait_for

GUIDE: Final = Path(__file__).parents[1] / "docs" / "otp.md"
SECONDS: Final = 60  # for one program, on a busy machine
AT_ONCE: Final = 3
SHELL_PROMPT: Final = re.compile(r"\((\S+@\S+)\)\d+> (.*)")


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int  # of the guide

    @property
    def is_server(self) -> bool:
        return self.language == "python" and "asyncio.Event().wait()" in self.text

    @property
    def is_shell(self) -> bool:
        return SHELL_PROMPT.match(self.text) is not None


@dataclass(frozen=True)
class Section:
    title: str
    blocks: list[Block]

    @property
    def needs_elixir(self) -> bool:
        return any(block.language == "elixir" for block in self.blocks)

    @property
    def is_story(self) -> bool:
        """Whether its blocks are parts of one thing, to be run in their order."""
        return self.needs_elixir or any(block.is_shell for block in self.blocks)

    def output_of(self, index: int) -> Block | None:
        """What the program at that place of the section prints."""
        after = self.blocks[index + 1 : index + 2]
        return after[0] if after and after[0].language == "text" and not after[0].is_shell else None


def sections(text: str) -> list[Section]:
    """A section begins with a heading, of any level."""
    found = [Section("", [])]
    block: Block | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if block is None and line.startswith("#"):
            found.append(Section(line.lstrip("# "), []))
        elif block is None and line.startswith("```"):
            block = Block(line[3:], "", number)
        elif block is not None and line == "```":
            found[-1].blocks.append(block)
            block = None
        elif block is not None:
            block = Block(block.language, f"{block.text}{line}\n", block.line)
    assert block is None, f"the block of line {block and block.line} has no end"
    return found


SECTIONS: Final = sections(GUIDE.read_text(encoding="utf-8"))
PYTHON: Final = [block for section in SECTIONS for block in section.blocks if block.language == "python"]
EXAMPLES: Final = [
    pytest.param(block, output, id=f"{section.title}-{block.line}")
    for section in SECTIONS
    for index, block in enumerate(section.blocks)
    if block.language == "python" and not section.is_story and (output := section.output_of(index)) is not None
]
STORIES: Final = [pytest.param(section, id=section.title) for section in SECTIONS if section.is_story]


def assert_shown(shown: str, expected: str, where: str) -> None:
    """`...` stands for anything but the end of the line."""
    pairs = zip_longest(shown.splitlines(), expected.splitlines())
    differing = [(line, wanted) for line, wanted in pairs if not _is_shown(line, wanted)]
    assert not differing, f"{where}: {differing[0][0]!r}, where the guide says {differing[0][1]!r}, in:\n{shown}"


def _is_shown(line: str | None, wanted: str | None) -> bool:
    if line is None or wanted is None:
        return False
    return re.fullmatch(".*".join(map(re.escape, wanted.split("..."))), line) is not None


# --- Programs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Terminal:
    """Where a reader runs programs."""

    folder: Path
    epmd_port: int

    def start(self, arguments: list[str], typed: bool = False) -> subprocess.Popen[str]:
        environment = {
            "HOME": str(self.folder),
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(self.epmd_port),
            "PYTHONPATH": os.pathsep.join(sys.path),
            "PYTHONUNBUFFERED": "1",  # what is printed and what is logged come through one pipe
        }
        kernel = {name: value for name, value in os.environ.items() if name == "BEAMNODE_KERNEL"}
        return subprocess.Popen(
            [sys.executable, "-W", "error", *arguments],
            env=environment | kernel,
            cwd=self.folder,
            stdin=subprocess.PIPE if typed else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def program(self, block: Block) -> subprocess.Popen[str]:
        file = self.folder / f"line{block.line}.py"
        file.write_text(block.text, encoding="utf-8")
        return self.start([file.name])

    def shown(self, block: Block) -> str:
        """What a program that ends prints and logs."""
        return output_of(self.program(block))

    def shell(self, node: str, lines: list[str]) -> str:
        command = ["-m", "beamnode", "shell", "--name", node, "--cookie", "secret"]
        return output_of(self.start(command, typed=True), "".join(f"{line}\n" for line in lines))


def output_of(process: subprocess.Popen[str], typed: str | None = None) -> str:
    with process:
        try:
            shown, _ = process.communicate(typed, timeout=SECONDS)
        finally:
            process.kill()
    assert process.returncode == 0, shown
    return shown


class Server:
    """A program that runs until it is stopped. It has started when it has printed the first line."""

    def __init__(self, terminal: Terminal, block: Block) -> None:
        self._process = terminal.program(block)
        self._begun = threading.Event()
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line)
            self._begun.set()
        self._begun.set()

    def __enter__(self) -> Self:
        return self

    def wait_until_started(self) -> None:
        assert self._begun.wait(SECONDS)
        assert self._process.poll() is None, "".join(self._lines)

    def check(self, expected: str, where: str) -> None:
        """What it prints may be under way."""
        wait_for(lambda: len(self._lines) >= expected.count("\n"), SECONDS)
        assert_shown("".join(self._lines), expected, where)

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._reader.join()
        with self._process:
            pass


# --- Elixir -----------------------------------------------------------------------------------------------------------


IEX: Final = """
Enum.map_reduce(lines, [], fn line, bindings ->
  try do
    {value, bindings} = Code.eval_string(line, bindings)
    {inspect(value), bindings}
  catch
    kind, reason -> {Exception.format_banner(kind, reason, __STACKTRACE__), bindings}
  end
end)
|> elem(0)
"""


def typed_and_shown(text: str, prompt: re.Pattern[str]) -> list[tuple[str, str]]:
    """The lines of a session, each with what is shown after it. The last group of `prompt` is what is typed."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        at_prompt = prompt.match(line)
        if at_prompt:
            found.append((at_prompt[at_prompt.re.groups], ""))
        else:
            typed, shown = found[-1]
            found[-1] = (typed, f"{shown}{line}\n")
    return found


def run_iex(peer: ErlNode, block: Block) -> None:
    session = typed_and_shown(block.text, re.compile(r"iex> (.*)"))
    results = peer.elixir(IEX, SECONDS, lines=[typed for typed, _ in session])
    for (typed, expected), shown in zip(session, results, strict=True):
        assert_shown(f"{shown.decode()}\n", expected, f"line {block.line}: {typed}")


def run_shell(terminal: Terminal, block: Block) -> None:
    node = SHELL_PROMPT.match(block.text)
    assert node is not None
    session = typed_and_shown(block.text, SHELL_PROMPT)
    shown = terminal.shell(node[1], [typed for typed, _ in session])
    assert_shown(shown, "".join(expected for _, expected in session), f"line {block.line}")


def run_story(section: Section, terminal: Terminal, peer: ErlNode | None) -> None:
    """The blocks of a section, one after the other; servers run until its end."""
    with ExitStack() as stack:
        servers: list[tuple[Server, Block, Block]] = []
        for index, block in enumerate(section.blocks):
            output = section.output_of(index)
            if block.is_server:
                server = stack.enter_context(Server(terminal, block))
                server.wait_until_started()
                assert output is not None, f"line {block.line}: a server says what it prints"
                servers.append((server, block, output))
            elif block.language == "python" and output is not None:
                assert_shown(terminal.shown(block), output.text, f"line {block.line}")
            elif block.language == "elixir":
                assert peer is not None
                run_iex(peer, block)
            elif block.is_shell:
                run_shell(terminal, block)
        for server, block, output in servers:
            server.check(output.text, f"line {block.line}")


# --- Tests ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """With an epmd of ours."""
    terminal = Terminal(tmp_path_factory.mktemp("guide"), free_port())
    epmd = terminal.start(["-m", "beamnode", "epmd", "--address", "127.0.0.1"])
    try:
        wait_for(lambda: answers(terminal.epmd_port))
        yield terminal
    finally:
        epmd.terminate()
        epmd.communicate(timeout=SECONDS)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def outputs(request: pytest.FixtureRequest, terminal: Terminal) -> Iterator[dict[int, Future[str]]]:
    """What the examples that were asked for show, by the line that they begin in. They run side by side."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    wanted = [item.callspec.params["example"] for item in items if item.originalname == "test_an_example"]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        yield {example.line: threads.submit(terminal.shown, example) for example in wanted}


@pytest.mark.parametrize(("example", "output"), EXAMPLES)
def test_an_example(example: Block, output: Block, outputs: dict[int, Future[str]]) -> None:
    assert_shown(outputs[example.line].result(), output.text, f"line {example.line}")


@pytest.mark.parametrize("section", [story for story in STORIES if not story.values[0].needs_elixir])
def test_a_story(section: Section, terminal: Terminal) -> None:
    run_story(section, terminal, None)


@pytest.mark.otp
def test_stories_with_elixir(otp: Otp, tmp_path: Path) -> None:
    """One node of each release for all of them, whose sections name their nodes differently."""
    with (
        Epmd(otp, free_port()) as epmd,
        ErlNode.start(otp, "ex@127.0.0.1", cookie="secret", epmd_port=epmd.port, boot="elixir") as peer,
    ):
        for section in SECTIONS:
            if section.needs_elixir:
                run_story(section, Terminal(tmp_path, epmd.port), peer)


def test_every_block_of_python_compiles() -> None:
    for block in PYTHON:
        compile("\n" * block.line + block.text, str(GUIDE), "exec", dont_inherit=True)


@pytest.mark.one_python
def test_every_block_of_python_is_linted(tmp_path: Path) -> None:
    for block in PYTHON:
        (tmp_path / f"line{block.line}.py").write_text(block.text, encoding="utf-8")
    ignored = "T20,RET503,RUF012"  # they print; a state may be kept by returning nothing; `env` is a dict
    command = ["-m", "ruff", "check", "--no-cache", "--config", str(GUIDE.parents[1] / "pyproject.toml"), "--ignore"]
    done = subprocess.run([sys.executable, *command, ignored, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_that_looks_like_an_example_is_left_out() -> None:
    languages = {block.language for section in SECTIONS for block in section.blocks}
    assert languages <= {"python", "text", "elixir", "sh"}
    assert len(EXAMPLES) >= 13
    assert sum(section.needs_elixir for section in SECTIONS) >= 3


def test_names_of_nodes_are_unique() -> None:
    names = re.findall(r'Node\("(\S+?)"', "".join(block.text for block in PYTHON))
    assert sorted(set(names)) == sorted(names)
