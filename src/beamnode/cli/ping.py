"""`beamnode ping NODE`: does that node answer? Prints `pong`, or `pang` and why."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from beamnode.cli.carrier import add_carrier_arguments, carrier_of
from beamnode.cli.main import cookie

if TYPE_CHECKING:
    from beamnode.carriers.base import Carrier
    from beamnode.cli.main import Subparsers
    from beamnode.node.cookie import Cookie

EXIT_PANG = 1


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "ping",
        help="ask a node for a sign of life",
        description="Connect to a node as a hidden one, ask it for a sign of life, and leave. Prints pong (exit "
        "status 0), or pang and the reason (exit status 1).",
    )
    parser.add_argument("node", metavar="NODE", help="name@host, as in iex@127.0.0.1")
    parser.add_argument("--cookie", type=cookie, metavar="C", help="default: the one in ~/.erlang.cookie")
    parser.add_argument(
        "--timeout", type=_seconds, default=10.0, metavar="S", help="seconds to wait for an answer (default: 10)"
    )
    add_carrier_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ping, print, leave."""
    from beamnode.loops import run as run_loop

    answer, why = run_loop(_ping(arguments.node, arguments.cookie, arguments.timeout, carrier_of(arguments)))
    print(answer if why is None else f"{answer}: {why}")
    return 0 if why is None else EXIT_PANG


async def _ping(target: str, cookie: Cookie | None, timeout: float, carrier: Carrier | None) -> tuple[str, str | None]:
    import asyncio
    import logging

    from beamnode.etf import a
    from beamnode.node import Epmd
    from beamnode.services.node import Node

    logging.getLogger("beamnode").addHandler(logging.NullHandler())  # the reason is printed: once is enough
    logging.getLogger("beamnode").propagate = False
    discovery = Epmd.from_environment()
    name = own_name(target, "ping", carrier)
    async with Node(name, cookie=cookie, listen=False, discovery=discovery, carrier=carrier) as node:
        try:
            async with asyncio.timeout(timeout):
                if await node.ping(target) is a.pong:
                    return "pong", None
        except TimeoutError:
            return "pang", f"{target} did not answer within {timeout:g} s"
        error = node.connect_error(target)
        return "pang", str(error) if error is not None else f"{target} is connected, but its net_kernel does not answer"


def own_name(target: str, prefix: str, carrier: Carrier | None = None) -> str:
    """A name of the target's domain, short or long, that no other node has, and that fits this node's certificate."""
    import secrets

    from beamnode.errors import NodeNameError
    from beamnode.node.names import NodeName, full_host_name, is_long_host, short_host_name

    alive = f"{prefix}_{os.getpid()}_{secrets.token_hex(4)}"
    long = NodeName.parse(target).long
    for host in getattr(carrier, "own_hosts", ()):
        if is_long_host(host) is long:
            return f"{alive}@{host}"
    if not long:
        return f"{alive}@{short_host_name()}"
    try:
        return f"{alive}@{full_host_name()}"
    except NodeNameError:
        return f"{alive}@127.0.0.1"  # nobody dials it: any long name will do


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError("must be more than 0 seconds")
    return seconds
