"""`beamnode run FILE_OR_MODULE`: a Python program with a node around it."""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from typing import TYPE_CHECKING, Any

from beamnode.errors import UsageError

if TYPE_CHECKING:
    from beamnode.cli.main import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "run",
        usage="%(prog)s [-h] [--name N@HOST | --sname N] [--cookie C] [--hidden] [--stay] "
        "[--proto-dist PROTO] [--ssl-dist-optfile FILE] FILE_OR_MODULE [ARG ...]",
        help="run a program as a node",
        description="Start a node, run a Python program as one of its processes, and stop the node when the program "
        "ends. The program is run as __main__, as python does it; the names of beamnode.sync (send, receive, spawn, "
        "GenServer.call, ...) act for it, and `node` is the node: a beamnode.sync.Node, which other modules get from "
        "beamnode.sync.current_node(). Peers may call what it exposes: @node.expose.",
        epilog="An ARG that begins with '-' needs '--' before FILE_OR_MODULE, behind the options. Exit status: that of "
        "the program; 143 when SIGTERM ended it, but 0 where --stay waited for that; 1 when the node could not start.",
    )
    from beamnode.cli.shell import add_node_arguments

    add_node_arguments(parser)
    parser.add_argument(
        "--stay", action="store_true", help="serve on after the program has ended, until Ctrl-C or SIGTERM"
    )
    parser.add_argument(
        "program", metavar="FILE_OR_MODULE", nargs="+", help="serve.py, or a module that can be imported: app.serve"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Start, run, perhaps stay, stop."""
    import signal

    import beamnode.sync as sync
    from beamnode.cli.shell import node_options
    from beamnode.node.termination import Terminated

    argv: list[str] = arguments.program
    is_file = _prepare(argv)
    with sync.Node(**node_options(arguments, "run")) as node:
        names: dict[str, Any] = {"node": node}
        if is_file:
            runpy.run_path(argv[0], names, run_name="__main__")
        else:
            runpy.run_module(argv[0], names, run_name="__main__", alter_sys=True)
        while arguments.stay:
            try:
                signal.pause()
            except Terminated:  # what it stayed for
                return 0
    return 0


def _prepare(argv: list[str]) -> bool:
    """Let the program find its arguments and modules, as `python` does; tell if it is a file. Errors: UsageError."""
    from importlib.util import find_spec

    program = argv[0]
    is_file = program.endswith(".py") or os.path.sep in program or os.path.isfile(program)
    if is_file and not os.path.isfile(program):
        raise UsageError(f"there is no file {program}; a module is named without .py, as in app.serve")
    sys.argv[:] = argv
    sys.path.insert(0, os.path.dirname(os.path.abspath(program)) if is_file else os.getcwd())
    try:
        found = is_file or find_spec(program) is not None
    except (ImportError, ValueError):
        found = False
    if not found:
        raise UsageError(f"there is no module {program}, seen from {os.getcwd()}; a file is named with its .py")
    return is_file
