"""`i()`, `pinfo(pid)` and `tree()` of the shell, for its own node and for nodes of Erlang and Elixir."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import beamnode.sync as sync
from beamnode import Epmd, FixedPort, GenServer, StaticPorts, a, receive
from beamnode.carriers.tcp import Tcp
from beamnode.node import INITIAL_CALL, process_dictionary
from beamnode.otp import proc_lib
from beamnode.otp.supervisor import Supervisor
from beamnode.shell import listing
from beamnode.shell.session import Session
from beamnode.testing import peers
from beamnode.testing.peers import ErlNode, free_port

NAME = "lists@127.0.0.1"
PEER = "peer@127.0.0.1"

Type = Callable[[str], list[str]]


def typing(session: Session, capsys: pytest.CaptureFixture[str]) -> Type:
    """What types a line and gives back the lines that it printed, with P for each pid of this node."""

    def type_line(line: str) -> list[str]:
        capsys.readouterr()
        session.evaluate(line)
        return [re.sub(r"<\d+\.\d+\.\d+>", "P", text) for text in capsys.readouterr().out.splitlines()]

    return type_line


@pytest.fixture
def session(home: Path) -> Iterator[Session]:
    node = sync.Node(NAME, cookie="secret", policy="everything", discovery=FixedPort(free_port()))
    with Session(node) as session:
        session.evaluator.names |= {"Counter": Counter, "Inner": Inner, "Odd": Odd, "waits": waits}
        session.evaluator.names |= {"Supervisor": Supervisor, "proc_lib": proc_lib}
        yield session


@pytest.fixture
def enter(session: Session, capsys: pytest.CaptureFixture[str]) -> Type:
    return typing(session, capsys)


class Counter(GenServer):
    def init(self, number: int = 0) -> None:
        if number:
            proc_lib.set_label(f"number {number}")


class Inner(Supervisor):
    def init(self) -> object:
        one, two = (Supervisor.child_spec((Counter, number), id=(a.counter, number)) for number in (1, 2))
        return Supervisor.init([one, two], strategy="one_for_one")


class Odd(GenServer):
    """Says that it is a supervisor, and what it is told to say of its children."""

    def init(self, told: object) -> None:
        process_dictionary()[INITIAL_CALL] = (a.supervisor, a.Odd, 1)
        self.told = told

    def handle_call(self, request: object, sender: object) -> object:
        assert request is a.which_children
        return self.told


async def waits() -> None:
    await receive(lambda message: message is a.never)  # here


START = 'top = await Supervisor.start_link([Counter, Inner], strategy="one_for_one", name="top")'


# --- The own node -----------------------------------------------------------------------------------------------------


def test_a_tree(enter: Type) -> None:
    assert enter("tree()") == [f"there is no supervisor on {NAME}"]
    enter(START)
    tree = [
        "top P supervisor Supervisor",
        "├── Counter P Counter.init/1",
        "└── Inner P supervisor Inner",
        "    ├── (Atom('counter'), 1) P number 1",
        "    └── (Atom('counter'), 2) P number 2",
    ]
    assert enter("tree()") == enter("tree(top)") == enter("tree('top')") == enter(f"tree('{NAME}')") == tree
    assert enter("tree(('top', node.name))") == tree
    enter("await Supervisor.terminate_child(top, Counter)")
    assert enter("tree()")[1] == "├── Counter (not running)"
    enter("other = await Supervisor.start_link([], strategy='one_for_one')")
    assert enter("tree()")[-1] == "P supervisor Supervisor"


def test_what_is_no_tree(enter: Type) -> None:
    enter("pid = spawn(waits)")
    assert enter("tree(pid)") == ["P test_shell_listing.waits/0", "└── (it is no supervisor)"]
    assert enter("Process.alive(pid)") == ["True"]
    enter("exit(pid, a.kill)")
    assert enter("tree(pid)") == enter("pinfo(pid)") == ["P has ended"]
    assert enter("tree('nobody')")[-1].endswith("UsageError: no process is registered as 'nobody'")


def test_what_an_odd_supervisor_tells(enter: Type) -> None:
    enter("from beamnode import sync; start = lambda told: sync.GenServer.start(Odd, told)")
    children = "[(a.undefined, a.restarting, a.worker, [a.Mod]), (1, a.undefined, a.worker, []), 3]"
    assert enter(f"tree(start({children}))") == [
        "P supervisor Odd",
        "├── 1 (not running)",
        "└── Mod (restarting)",
    ]
    assert enter("tree(start(a.nonsense))") == ["P supervisor Odd"]
    enter("loop = start([])")
    enter("sys.replace_state(loop, lambda state: {'told': [(1, loop, a.supervisor, [])]})")
    assert enter("tree(loop)") == ["P supervisor Odd", "└── 1 P supervisor Odd"]


def test_a_tree_of_each_kind_of_supervisor(enter: Type) -> None:
    enter("from beamnode.otp.dynamic_supervisor import DynamicSupervisor")
    enter("from beamnode.otp.partition_supervisor import PartitionSupervisor")
    enter("top = await Supervisor.start_link([], strategy='one_for_one', name='top')")
    enter("await Supervisor.start_child(top, Supervisor.child_spec(DynamicSupervisor, id='dynamic'))")
    enter("start = lambda: PartitionSupervisor.start_link(Counter, name='parts', partitions=2)")
    enter("await Supervisor.start_child(top, {'id': 'parts', 'start': (start, ()), 'type': 'supervisor'})")
    enter("[(_, dynamic, _, _)] = [child for child in await Supervisor.which_children(top) if child[0] == 'dynamic']")
    for number in (1, 2):
        enter(f"await DynamicSupervisor.start_child(dynamic, (Counter, {number}))")
    assert enter("tree(dynamic)") == [
        "P supervisor DynamicSupervisor",
        "├── P number 1",
        "└── P number 2",
    ]
    assert enter("tree(top)") == [
        "top P supervisor Supervisor",
        "├── dynamic P supervisor DynamicSupervisor",
        "│   ├── P number 1",
        "│   └── P number 2",
        "└── parts P supervisor PartitionSupervisor",
        "    ├── 0 P Counter.init/1",
        "    └── 1 P Counter.init/1",
    ]


def test_many_children(enter: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "CHILDREN_MAX", 2)
    enter("specs = [Supervisor.child_spec(Counter, id=number) for number in range(5)]")
    enter("await Supervisor.start_link(specs, strategy='one_for_one', name='many')")
    assert enter("tree('many')") == [
        "many P supervisor Supervisor",
        "├── 0 P Counter.init/1",
        "├── 1 P Counter.init/1",
        "└── and 3 more",
    ]


def test_the_list_of_processes(enter: Type) -> None:
    enter("register('waits', spawn(waits)); send('waits', 1); proc = await Counter.start(5)")
    head, *rows, foot = enter("i()")
    assert head.split() == ["Pid", "Label", "or", "initial", "call", "Name", "Messages", "Status", "At"]
    [row] = [row for row in rows if " waits " in row]
    lines, first = inspect.getsourcelines(waits)
    place = f"test_shell_listing.py:{first + len(lines) - 1} in waits"
    assert row.split(maxsplit=5) == ["P", "test_shell_listing.waits/0", "waits", "1", "waiting", place]
    assert [row.split()[1:3] for row in rows if "number 5" in row] == [["number", "5"]]
    [running] = [row.split() for row in rows if " running " in row]
    assert running[-3:] == ["2>:1", "in", "<module>"]
    assert foot == f"processes: {len(rows)}; messages waiting: 1"
    _, *rows, foot = enter("i(limit=2)")
    assert len(rows) == 2
    assert "of them not shown: i(limit=None) shows all; " in foot
    assert len(enter("i(limit=None)")) > 5


def test_one_process(enter: Type) -> None:
    enter("register('waits', spawn(waits)); send('waits', [1, 'two'])")
    lines = enter("pinfo('waits')")
    assert "registered_name: Atom('waits')" in lines
    assert "messages: [[1, 'two']]" in lines
    begin = lines.index("current_stacktrace: ")
    assert lines[begin + 1].startswith(f"    {__file__}:")
    assert lines[begin + 1].endswith("in test_shell_listing.waits")
    assert enter("pinfo(whereis('waits'))") == lines


def test_names_of_process(enter: Type) -> None:
    enter("Process.set_label('me')")
    assert enter("Process.get(a['$process_label'])") == ["'me'"]
    assert enter("Process.put('key', 1), Process.put('key', 2), Process.get('none', 3)") == ["(None, 1, 3)"]
    assert enter("Process.delete('key')") == ["2"]
    assert enter("Process.get()") == ["{Atom('$process_label'): 'me'}"]
    assert enter("self() in Process.list(), a.rex in Process.registered()") == ["(True, True)"]
    assert enter("Process.info(self(), 'label')") == ["'me'"]


# --- Other nodes ------------------------------------------------------------------------------------------------------


ELIXIR = """
{:ok, top} =
  Supervisor.start_link(
    [{Agent, fn -> 1 end}, {DynamicSupervisor, name: Demo.Dynamic}, {Registry, keys: :unique, name: Demo.Registry}],
    strategy: :one_for_one, name: Demo.Top
  )
Process.unlink(top)
{:ok, _} = DynamicSupervisor.start_child(Demo.Dynamic, {Agent, fn -> 2 end})
send(Demo.Registry, :unexpected)
:ok
"""


@pytest.mark.otp
def test_a_node_of_elixir(
    start_peer: Callable[..., ErlNode],
    epmd: peers.Epmd,
    cookie: str,
    home: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    peer = start_peer(PEER, boot="elixir")
    peer.elixir(ELIXIR)
    carrier = Tcp(listen_address="127.0.0.1")
    with Session(sync.Node(NAME, cookie=cookie, discovery=Epmd(epmd.port), carrier=carrier)) as session:
        enter = typing(session, capsys)
        whole = enter(f"tree('{PEER}')")
        assert [line for line in whole if line[0] not in "├└│ "] == [
            "kernel_sup P supervisor kernel",
            "elixir_sup P supervisor elixir_sup",
            "Demo.Top P supervisor Supervisor.Default",
        ]
        tree = enter(f"tree(('Elixir.Demo.Top', '{PEER}'))")
        assert tree == whole[-len(tree) :]
        agent, dynamic, started, registry, partition = tree[1:]
        assert agent.startswith("├── Agent P ")
        assert dynamic == "├── Demo.Dynamic P supervisor Supervisor.Default"
        assert started.startswith("│   └── P ")
        assert registry == "└── Demo.Registry P supervisor Registry.Supervisor"
        assert partition == "    └── Demo.Registry.PIDPartition0 P Registry.Partition.init/1"
        head, *rows, foot = enter(f"i('{PEER}', limit=None)")
        assert "Reductions" in head
        [row] = [row for row in rows if " Demo.Top " in row]
        assert int(row.split()[5]) > 100
        assert "waiting" in row
        assert foot.startswith(f"processes: {len(rows)}")
        lines = enter(f"pinfo(Node.rpc('{PEER}', 'erlang', 'whereis', [a.kernel_sup]))")
        assert "registered_name: Atom('kernel_sup')" in lines
        assert any(line.startswith("    proc_lib.erl:") for line in lines)
        assert enter("tree('nobody@127.0.0.1')")[-1].startswith("beamnode.services.remote_errors.RpcFailed:")


def test_another_node_of_python(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    discovery = StaticPorts({NAME: free_port(), "other@127.0.0.1": free_port()})
    other = sync.Node("other@127.0.0.1", cookie="secret", discovery=discovery)
    other.start()
    try:
        with other.process():
            top = sync.in_process(Inner.start_link())
            with Session(sync.Node(NAME, cookie="secret", discovery=discovery)) as session:
                enter = typing(session, capsys)
                tree = ["P supervisor Inner", *(f"{'├└'[n - 1]}── (Atom('counter'), {n}) P number {n}" for n in (1, 2))]
                assert enter(f"tree('{other.name}')") == tree
                session.evaluator.names["top"] = top
                assert enter("tree(top)") == tree
                _, *rows, _ = enter(f"i('{other.name}')")
                assert [row.split()[1:3] for row in rows if "number" in row] == [["number", "1"], ["number", "2"]]
                assert "initial_call: (Atom('supervisor'), Atom('Inner'), 1)" in enter("pinfo(top)")
    finally:
        other.stop()
