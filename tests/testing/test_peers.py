"""The launcher of real peers, on every release."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from beamnode.etf import Atom, Pid, a
from beamnode.testing import peers
from beamnode.testing.peers import (
    Epmd,
    ErlNode,
    EvalError,
    EvalTimeout,
    Otp,
    PeerDied,
    PeerMissing,
    find_otp,
    free_port,
    wait_for,
)

StartPeer = Callable[..., ErlNode]


@pytest.fixture
def node(epmd: Epmd, start_peer: StartPeer) -> ErlNode:
    return start_peer("a@127.0.0.1")


# --- evaluating -------------------------------------------------------------------------------------------------------


def test_a_node_is_alive_under_its_name_and_is_the_process_we_started(node: ErlNode) -> None:
    assert node.name == "a@127.0.0.1"
    assert node.eval("{node(), is_alive(), list_to_integer(os:getpid())}") == (Atom(node.name), True, node.pid)


def test_the_release_is_the_one_asked_for(node: ErlNode, otp: Otp) -> None:
    assert node.eval("list_to_integer(erlang:system_info(otp_release))") == otp.release


def test_values_come_back_as_terms(node: ErlNode) -> None:
    assert node.eval('{ok, 1, 2.5, <<"bytes">>, [x, [1 bsl 80]], #{k => true}}.') == (
        a.ok,
        1,
        2.5,
        b"bytes",
        [a.x, [1 << 80]],
        {a.k: True},
    )


def test_variables_live_from_call_to_call(node: ErlNode) -> None:
    node.eval("P = spawn(fun () -> receive stop -> ok end end)")
    assert node.eval("is_process_alive(P)") is True
    pid = node.eval("P")
    assert isinstance(pid, Pid)
    node.eval("Q ! stop", Q=pid)
    node.wait_until("not is_process_alive(P)")


def test_messages_reach_the_process_called_shell(node: ErlNode) -> None:
    node.eval("spawn(fun () -> {shell, node()} ! {hello, self()} end)")
    match node.eval("receive X -> X after 1000 -> timeout end"):
        case (a.hello, Pid()):
            pass
        case other:
            raise AssertionError(other)
    assert node.eval("receive Y -> Y after 0 -> none end") == a.none


@pytest.mark.parametrize(
    ("source", "kind", "reason"),
    [
        ("error(badarg)", "error", a.badarg),
        ("exit({shutdown, now})", "exit", (a.shutdown, a.now)),
        ("throw(ball)", "throw", a.ball),
        ("exit(self(), kill), receive after infinity -> ok end", "exit", a.killed),
    ],
)
def test_what_an_expression_raises(node: ErlNode, source: str, kind: str, reason: object) -> None:
    with pytest.raises(EvalError) as caught:
        node.eval(f"Before = 1, {source}")
    assert (caught.value.kind, caught.value.reason) == (kind, reason)
    assert node.eval("whereis(shell) =:= self()") is True


@pytest.mark.parametrize("source", ["1 +", "'unended"])
def test_a_syntax_error_says_so(node: ErlNode, source: str) -> None:
    with pytest.raises(EvalError, match="syntax"):
        node.eval(source)


def test_variables_outlive_the_process_that_evaluates(node: ErlNode) -> None:
    node.eval("Kept = 7")
    with pytest.raises(EvalError):
        node.eval("exit(self(), kill), receive after infinity -> ok end")
    assert node.eval("Kept") == 7


def test_an_answer_that_comes_too_late_is_dropped(node: ErlNode) -> None:
    with pytest.raises(EvalTimeout, match=r"timer:sleep\(300\)"):
        node.eval("timer:sleep(300), late", timeout=0.05)
    assert node.eval("next") == a.next


def test_wait_until_gives_up_with_the_last_value(node: ErlNode) -> None:
    with pytest.raises(TimeoutError, match="'no'"):
        node.wait_until("no", timeout=0.1)


def test_a_large_term_goes_both_ways(node: ErlNode) -> None:
    payload = bytes(3_000_000)
    assert node.eval("Big", Big=payload) == payload


def test_output_and_log_go_to_the_log(node: ErlNode) -> None:
    node.eval('io:format("printed~n"), logger:error("logged")')
    wait_for(lambda: "printed" in node.log() and "logged" in node.log())


# --- Elixir -----------------------------------------------------------------------------------------------------------


def test_elixir(epmd: Epmd, start_peer: StartPeer) -> None:
    node = start_peer("e@127.0.0.1", boot="elixir")
    assert node.elixir("self = Node.self()") == Atom("e@127.0.0.1")
    assert node.elixir("[self | Node.list()]") == [Atom("e@127.0.0.1")]
    assert node.elixir("Enum.map(given, & &1 * 2)", given=[1, 2]) == [2, 4]
    assert node.eval("'Elixir.String':upcase(<<\"x\">>)") == b"X"
    with pytest.raises(EvalError, match=r"\(RuntimeError\) oops"):
        node.elixir('raise "oops"')


# --- names and connections --------------------------------------------------------------------------------------------


def test_two_nodes_connect_and_notice_a_kill(node: ErlNode, start_peer: StartPeer) -> None:
    other = start_peer("b@127.0.0.1")
    assert other.eval("net_kernel:connect_node('a@127.0.0.1')") is True
    node.wait_until("nodes() =:= ['b@127.0.0.1']")
    node.eval("monitor_node('b@127.0.0.1', true)")
    other.kill()
    assert not other.running
    assert node.eval("receive M -> M after 5000 -> timeout end") == (a.nodedown, Atom("b@127.0.0.1"))


def test_a_hidden_node(node: ErlNode, start_peer: StartPeer) -> None:
    start_peer("h@127.0.0.1", hidden=True).eval("net_kernel:connect_node('a@127.0.0.1')")
    node.wait_until("nodes(hidden) =:= ['h@127.0.0.1']")
    assert node.eval("nodes()") == []


def test_a_short_name(epmd: Epmd, start_peer: StartPeer) -> None:
    node = start_peer("s@localhost")
    assert node.name == "s@localhost"
    assert node.eval("net_kernel:longnames()") is False


def test_without_a_name_there_is_no_distribution(otp: Otp) -> None:
    with ErlNode.start(otp) as node:
        assert node.eval("is_alive()") is False


def test_without_a_cookie_the_home_folder_has_it(otp: Otp, epmd: Epmd) -> None:
    home = otp.make_directory()
    try:
        with ErlNode.start(otp, "c@127.0.0.1", epmd_port=epmd.port, home=home) as node:
            assert node.eval("atom_to_binary(erlang:get_cookie())") == (home / ".erlang.cookie").read_bytes()
    finally:
        (home / ".erlang.cookie").unlink()
        home.rmdir()


def test_it_listens_on_loopback_only(node: ErlNode, epmd: Epmd) -> None:
    port = node.eval('{port, Port, _} = erl_epmd:port_please("a", {127,0,0,1}), Port')
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if line.split()[3] == "0A"]
    for mine in (port, epmd.port):
        assert f"0100007F:{mine:04X}" in listening
        assert f"00000000:{mine:04X}" not in listening


# --- life and death ---------------------------------------------------------------------------------------------------


def test_suspend_and_resume(node: ErlNode) -> None:
    node.suspend()
    with pytest.raises(EvalTimeout):
        node.eval("1", timeout=0.2)
    node.resume()
    assert node.eval("2") == 2


def test_a_suspended_node_can_be_killed(node: ErlNode) -> None:
    node.suspend()
    node.kill()
    assert not Path(f"/proc/{node.pid}").exists()


def test_stop_is_graceful(node: ErlNode, start_peer: StartPeer) -> None:
    other = start_peer("b@127.0.0.1")
    other.eval("net_kernel:connect_node('a@127.0.0.1')")
    other.eval('logger:error("last words")')
    other.stop()
    assert not other.running
    assert "last words" in other.log()
    node.wait_until("nodes() =:= []")


def test_asking_a_dead_node(node: ErlNode) -> None:
    with pytest.raises(PeerDied, match="status 3"):
        node.eval("erlang:halt(3)")
    node.kill()
    with pytest.raises(PeerDied, match="has ended"):
        node.eval("1")


def test_a_node_that_cannot_start_shows_its_log(otp: Otp) -> None:
    with pytest.raises(PeerDied, match="econnrefused"):
        ErlNode.start(otp, "x@127.0.0.1", cookie="c", epmd_port=free_port())


def test_a_home_folder_is_removed_with_its_node(node: ErlNode, otp: Otp) -> None:
    folder = otp.root / node.eval('list_to_binary(os:getenv("HOME"))').decode().removeprefix("/")
    assert folder.is_dir()
    node.kill()
    assert not folder.exists()


_PROGRAM = """
import sys, time
from beamnode.testing.peers import Epmd, ErlNode, find_otp
otp = find_otp(int(sys.argv[1]))
epmd = Epmd(otp)
nodes = [ErlNode.start(otp, f"{n}@127.0.0.1", cookie="c", epmd_port=epmd.port) for n in "ab"]
if sys.argv[2] == "exit":
    nodes[0].suspend()
print(*[node.pid for node in nodes], *[epmd.pid][: sys.argv[2] == "exit"], flush=True)
if sys.argv[2] == "sleep":
    print("epmd", epmd.pid, flush=True)
    time.sleep(60)
"""


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def test_peers_end_with_a_program_that_forgets_them(otp: Otp) -> None:
    program = [sys.executable, "-c", _PROGRAM, str(otp.release), "exit"]
    pids = subprocess.run(program, stdout=subprocess.PIPE, check=True, timeout=60).stdout.split()
    assert len(pids) == 3
    assert not [pid for pid in pids if _alive(int(pid))]


def test_nodes_halt_when_the_program_is_killed(otp: Otp) -> None:
    program = [sys.executable, "-c", _PROGRAM, str(otp.release), "sleep"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        epmd_pid = int(process.stdout.readline().split()[1])
        process.kill()
    try:
        wait_for(lambda: not any(_alive(pid) for pid in pids), timeout=5)
    finally:
        os.kill(epmd_pid, signal.SIGKILL)  # epmd has no channel: nothing tells it


# --- installations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["erl", "elixir", "iex", "erl_call", "epmd"])
def test_every_program_is_there(otp: Otp, program: str) -> None:
    assert otp.command(program)


def test_a_missing_program(otp: Otp) -> None:
    with pytest.raises(PeerMissing, match="has no nosuch"):
        otp.command("nosuch")


def test_a_path_seen_from_inside(otp: Otp) -> None:
    folder = otp.make_directory()
    try:
        assert otp.inside(folder) == f"/tmp/{folder.name}"
    finally:
        folder.rmdir()


def test_a_missing_release_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEAMNODE_PEERS", str(tmp_path))
    with pytest.raises(PeerMissing, match="no OTP 17 on PATH: run scripts/make-peers"):
        find_otp(17)


@pytest.mark.otp
def test_a_root_with_another_release_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = find_otp(27)
    monkeypatch.setenv("BEAMNODE_OTP29", str(other.root))
    with pytest.raises(PeerMissing, match="has OTP 27, not 29"):
        find_otp(29)


def test_a_root_without_erlang_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEAMNODE_OTP27", str(tmp_path))
    with pytest.raises(PeerMissing):
        find_otp(27)


def test_a_home_other_than_the_users_does_not_move_the_roots(home: Path) -> None:
    assert home not in peers.peers_directory().parents


def test_wait_for_gives_up() -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        wait_for(lambda: False, timeout=0.1)
    assert time.monotonic() - started < 1


def test_epmd_on_a_taken_port(otp: Otp) -> None:
    with Epmd(otp) as epmd, pytest.raises(PeerDied, match=f"port {epmd.port} is taken"):
        Epmd(otp, epmd.port)
