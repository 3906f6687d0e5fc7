"""`beamnode rpc NODE MODULE FUNCTION [ARG...]`: call a function of another node, and print what it gives."""

from __future__ import annotations

import argparse
import ast
from typing import TYPE_CHECKING, Any

from beamnode.cli.carrier import add_carrier_arguments, carrier_of
from beamnode.cli.main import cookie
from beamnode.errors import NetworkError, UsageError

if TYPE_CHECKING:
    from beamnode.cli.main import Subparsers

EXIT_FAILED = 1  # the function raised, exited or threw there, or is not there
EXIT_UNREACHED = 3  # no such node, a wrong cookie, or no answer in time


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "rpc",
        help="call a function of a node",
        description="Connect to a node as a hidden one, call MODULE:FUNCTION(ARG, ...) there, print the result, and "
        "leave.",
        epilog="An ARG is a Python literal: 1, 2.5, '\"text\"' (a binary), '[1, 2]', '(1, 2)', '{\"key\": 1}', True, "
        "None (nil). An atom is a:ok or a:'with space', inside of other literals a.ok or a[\"with space\"]. A module "
        "of Elixir is Elixir.Enum. Exit status: 0, or 1 when the function failed or is not there, 2 for a misuse of "
        "the command line, 3 when the node could not be reached or did not answer in time.",
    )
    parser.add_argument("node", metavar="NODE", help="name@host, as in iex@127.0.0.1")
    parser.add_argument("module", metavar="MODULE", help="lists, Elixir.Enum")
    parser.add_argument("function", metavar="FUNCTION", help="reverse, sum")
    parser.add_argument("args", metavar="ARG", nargs="*", type=term, help="a Python literal, or a:atom")
    parser.add_argument("--cookie", type=cookie, metavar="C", help="default: the one in ~/.erlang.cookie")
    parser.add_argument(
        "--timeout", type=_seconds, default=10.0, metavar="S", help="seconds to wait for the result (default: 10)"
    )
    add_carrier_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Call, print, leave."""
    import sys

    from beamnode.loops import run as run_loop
    from beamnode.services.remote_errors import RemoteCallError, RpcFailed

    try:
        print(repr(run_loop(_rpc(arguments))))
    except (RemoteCallError, TimeoutError, NetworkError) as error:
        print(f"beamnode: {str(error).partition(chr(10))[0]}", file=sys.stderr)
        return (
            EXIT_FAILED if isinstance(error, RemoteCallError) and not isinstance(error, RpcFailed) else EXIT_UNREACHED
        )
    return 0


async def _rpc(arguments: argparse.Namespace) -> Any:
    import logging

    from beamnode.cli.ping import own_name
    from beamnode.node import Epmd
    from beamnode.services.node import Node

    logging.getLogger("beamnode").addHandler(logging.NullHandler())  # the reason is printed: once is enough
    logging.getLogger("beamnode").propagate = False
    carrier = carrier_of(arguments)
    node = Node(
        own_name(arguments.node, "rpc", carrier),
        cookie=arguments.cookie,
        listen=False,
        carrier=carrier,
        discovery=Epmd.from_environment(),
        policy="nothing",
        strings=True,
    )
    async with node:
        return await node.rpc(
            arguments.node, arguments.module, arguments.function, arguments.args, timeout=arguments.timeout
        )


def term(text: str) -> Any:
    """A term as it is written on the command line: a `type` for argparse."""
    from beamnode.etf import Atom, encode

    try:
        if text.startswith("a:"):
            name = text[2:]
            quoted = len(name) > 1 and name[0] == name[-1] == "'"
            value: Any = Atom(name[1:-1] if quoted else name)
        else:
            value = ast.literal_eval(_Atoms().visit(ast.parse(text.strip(), mode="eval")))
        encode(value)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError, UsageError) as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no Python literal that can be sent; a text is '\"text\"', an atom a:name ({error})"
        ) from None
    return value


class _Atoms(ast.NodeTransformer):
    """`a.name` and `a["name"]` become constants."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        return _atom(node.attr) if _is_a(node.value) else node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        if _is_a(node.value) and isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
            return _atom(node.slice.value)
        return node


def _is_a(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "a"


def _atom(name: str) -> ast.Constant:
    from beamnode.etf import Atom

    constant: Any = Atom(name)  # not one of Python's, but literal_eval takes any
    return ast.Constant(value=constant)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError("must be more than 0 seconds")
    return seconds
