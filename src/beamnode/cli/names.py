"""`beamnode names`: which nodes does the epmd of a host know? Prints what `epmd -names` prints."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from beamnode.cli.main import port_number

if TYPE_CHECKING:
    from beamnode.cli.main import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "names",
        help="list the nodes of a host",
        description="List the nodes that the epmd of a host knows, with their ports, as `epmd -names` does.",
    )
    parser.add_argument("host", nargs="?", default="localhost", metavar="HOST", help="default: this host")
    parser.add_argument("--port", type=port_number, help="the port of epmd (default: ERL_EPMD_PORT, or 4369)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask and print."""
    import asyncio

    from beamnode.node.epmd import Epmd

    epmd = Epmd.from_environment()
    epmd.port = arguments.port or epmd.port
    nodes = asyncio.run(epmd.names(arguments.host))
    print(f"epmd: up and running on port {epmd.port} with data:")
    for name, port in nodes:
        print(f"name {name} at port {port}")
    return 0
