"""`beamnode epmd`: runs our own epmd, in the foreground or detached; or commands the one that runs."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from beamnode.cli.main import port_number

if TYPE_CHECKING:
    from beamnode.cli.main import Subparsers
    from beamnode.limits import Limits
    from beamnode.node.epmd_server import EpmdServer

_SPARE_FILES = 64  # descriptors for what is no connection


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "epmd",
        help="run a port mapper, which tells nodes where other nodes listen",
        description="Run an epmd, Erlang's port mapper, which works for Erlang and Elixir nodes too. It serves "
        "until Ctrl-C, SIGTERM or `beamnode epmd --kill`.",
    )
    parser.add_argument("--port", type=port_number, help="default: ERL_EPMD_PORT, or 4369")
    parser.add_argument(
        "--address",
        metavar="A[,B]",
        help="listen only there and on loopback (default: ERL_EPMD_ADDRESS, or all interfaces)",
    )
    parser.add_argument("--daemon", action="store_true", help="detach once it listens; fine if an epmd runs already")
    parser.add_argument(
        "--auto", action="store_true", help="as a node starts it: --daemon, and --leave-after 30 if not given"
    )
    parser.add_argument(
        "--leave-after", type=_seconds, metavar="S", help="end S seconds after the last node has gone (default: stay)"
    )
    parser.add_argument(
        "--relaxed-command-check", action="store_true", help="allow --kill while nodes live, and --stop at all"
    )
    commands = parser.add_mutually_exclusive_group()
    commands.add_argument("--kill", action="store_true", help="end the epmd of this host")
    commands.add_argument("--stop", metavar="NAME", help="unregister a node at the epmd of this host")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve, or command the epmd that serves."""
    import asyncio

    from beamnode.node.epmd import Epmd
    from beamnode.node.epmd_ask import addresses_of_text

    epmd = Epmd.from_environment()
    epmd.port = arguments.port or epmd.port
    if arguments.kill:
        asyncio.run(epmd.kill())
        print("Killed")
        return 0
    if arguments.stop is not None:
        asyncio.run(epmd.stop(arguments.stop))
        print("STOPPED")
        return 0
    addresses = epmd.addresses if arguments.address is None else tuple(addresses_of_text(arguments.address))
    return _serve(arguments, epmd.port, addresses)


def _serve(arguments: argparse.Namespace, port: int, addresses: tuple[str, ...]) -> int:
    import asyncio

    from beamnode.node.epmd_server import EpmdRunsAlready, EpmdServer, open_listeners
    from beamnode.node.epmd_start import LEAVE_AFTER_SECONDS

    detached = arguments.daemon or arguments.auto
    leave_after_seconds = arguments.leave_after
    if leave_after_seconds is None and arguments.auto:
        leave_after_seconds = LEAVE_AFTER_SECONDS
    try:
        listeners = open_listeners(port, addresses)
    except EpmdRunsAlready:
        if detached:
            return 0  # as `epmd -daemon`: what was wanted is there
        raise

    async def serve() -> None:
        server = EpmdServer(
            listeners,
            leave_after_seconds=leave_after_seconds,
            relaxed_command_check=arguments.relaxed_command_check,
            limits=_limits_within_file_limit(),
        )
        await _serve_until_told(server)

    if not detached:
        print(f"epmd: up and running on port {port}", flush=True)
        asyncio.run(serve())
    elif _is_detached_child():
        try:
            asyncio.run(serve())
        finally:
            os._exit(0)
    return 0


async def _serve_until_told(server: EpmdServer) -> None:
    import asyncio
    import signal

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.close)
    async with server:
        await server.wait_closed()


def _is_detached_child() -> bool:
    """Fork; True in the child, which has left the terminal, the directory and the standard files of its parent.

    The sockets listen before this: who waited for the parent finds the child reachable.
    """
    if os.fork() != 0:
        return False
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    return True


def _limits_within_file_limit() -> Limits:
    """Raise the number of files this process may open to what the limit on connections needs, or lower that limit."""
    import resource
    from dataclasses import replace

    from beamnode.limits import DEFAULT_LIMITS

    wanted = DEFAULT_LIMITS.epmd_connections_max + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < wanted:
            return replace(DEFAULT_LIMITS, epmd_connections_max=max(_SPARE_FILES, soft - _SPARE_FILES))
    return DEFAULT_LIMITS


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError("must be 0 or more seconds")
    return seconds
