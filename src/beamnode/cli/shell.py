"""`beamnode shell`: a node with a prompt."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from beamnode.cli.carrier import add_carrier_arguments, carrier_of
from beamnode.cli.main import cookie

if TYPE_CHECKING:
    from beamnode.cli.main import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "shell",
        help="a node with a prompt",
        description="Start a node and type Python into it. It trusts whoever has the cookie, as iex does. Lines can "
        "come from a pipe as well: then there are no prompts.",
        epilog="Names: Node, Process and sys as in iex; self, send, receive, spawn, link, ... of beamnode.sync. "
        "flush() shows what the shell was sent, i() the processes, pinfo(pid) one of them, tree() the supervisors; "
        "i(node) and tree(node) those of another node. Ctrl-C ends a wait or forgets a line, Ctrl-D leaves. "
        "Exit status: 0, or 1 when the node could not start or CODE raised, or 143 after SIGTERM.",
    )
    add_node_arguments(parser)
    parser.add_argument("-c", dest="code", metavar="CODE", help="run CODE and leave")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Start, serve, stop."""
    from beamnode.shell.run import run_shell

    return run_shell(**node_options(arguments, "shell"), policy="everything", code=arguments.code)


def add_node_arguments(parser: argparse.ArgumentParser) -> None:
    """What says which node to start."""
    names = parser.add_mutually_exclusive_group()
    names.add_argument("--name", metavar="N@HOST", help="a long name: HOST has a dot or is an address")
    names.add_argument("--sname", metavar="N", help="a short name, N or N@HOST without a dot (default: some name)")
    parser.add_argument("--cookie", type=cookie, metavar="C", help="default: the one in ~/.erlang.cookie")
    parser.add_argument("--hidden", action="store_true", help="connect without becoming part of the mesh")
    add_carrier_arguments(parser)


def node_options(arguments: argparse.Namespace, prefix: str) -> dict[str, Any]:
    """The options of `Node` for them; `prefix` begins a name when none is given. Errors: NodeNameError."""
    import secrets

    from beamnode.node.names import NodeName

    if arguments.name:
        name = NodeName.parse(arguments.name, long=True)
    else:
        name = NodeName.parse(arguments.sname or f"{prefix}_{secrets.token_hex(3)}", long=False)
    if arguments.name or arguments.sname:
        _check_resolvable(name.host, str(name))
    options = {"name": name.atom, "cookie": arguments.cookie, "hidden": arguments.hidden}
    carrier = carrier_of(arguments)
    return options if carrier is None else options | {"carrier": carrier}


def _check_resolvable(host: str, name: str) -> None:
    """Other nodes dial the host that is in the name. Errors: NodeNameError."""
    import socket

    from beamnode.errors import NodeNameError

    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError) as error:
        alive = name.partition("@")[0]
        raise NodeNameError(
            f"the host of {name} cannot be resolved, so no node could connect to it ({error}): use the name of this "
            f"machine, or an address (--name {alive}@127.0.0.1), or add {host} to /etc/hosts"
        ) from None
