"""The command `beamnode`: finds the subcommands, runs one, turns its errors into one line and an exit status.

A subcommand is a module with `add_parser(subparsers)`, which sets `run=` to a function of the parsed arguments that
gives the exit status. It imports what it needs inside that function, so that `beamnode --help` stays quick.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from beamnode.errors import BeamnodeError

if TYPE_CHECKING:
    from beamnode.node.cookie import Cookie

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

COMMANDS = (
    "beamnode.cli.shell",
    "beamnode.cli.run",
    "beamnode.cli.epmd",
    "beamnode.cli.names",
    "beamnode.cli.ping",
    "beamnode.cli.rpc",
    "beamnode.cli.certs",
    "beamnode.cli.demo",
)

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130  # as a shell reports SIGINT


def main(argv: Sequence[str] | None = None) -> int:
    """Run `beamnode` with these arguments (`sys.argv`'s when None); give the exit status.

    What went wrong is one line on stderr and status 1; a misuse of the command line is status 2 (argparse, SystemExit).
    """
    try:
        arguments = _parser().parse_args(argv)
        run = cast(Callable[[argparse.Namespace], int], arguments.run)
        status = run(arguments)
        sys.stdout.flush()
    except BeamnodeError as error:
        print(f"beamnode: {error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the flush at the exit finds a place to go
        return EXIT_ERROR
    return status


def port_number(text: str) -> int:
    """Read a TCP port from the command line: a `type` for argparse."""
    if not (text.isascii() and text.isdigit() and 0 < int(text[:6]) < 2**16):
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 1 to 65535")
    return int(text)


def cookie(text: str) -> Cookie:
    """Read a cookie from the command line: a `type` for argparse. From here on it does not show."""
    from beamnode.node.cookie import Cookie

    return Cookie(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="beamnode", description="A Python process as a node of Erlang's and Elixir's distribution."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        import_module(name).add_parser(subparsers)
    return parser


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"beamnode {version('beamnode')}")
        except PackageNotFoundError:
            print("beamnode, not installed")
        parser.exit()
