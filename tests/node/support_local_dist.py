"""Real nodes whose distribution runs over unix sockets, by `local_dist.erl`."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from beamnode.testing.peers import ErlNode, Otp

SOURCE = Path(__file__).parents[1] / "carriers" / "local_dist.erl"
COMPILE = '{{ok, _}} = compile:file("{0}/local_dist", [report, warnings_as_errors, {{outdir, "{0}"}}]), halt().'


@contextmanager
def local_distribution(otp: Otp) -> Iterator[Path]:
    """A directory that peers of `otp` see too, for socket files; with the compiled module."""
    directory = otp.make_directory()
    try:
        shutil.copy(SOURCE, directory)
        command = [*otp.command("erl"), "-noshell", "-eval", COMPILE.format(otp.inside(directory))]
        subprocess.run(command, check=True, timeout=60, stdin=subprocess.DEVNULL)
        (directory / "nodes").mkdir(mode=0o700)
        yield directory / "nodes"
    finally:
        shutil.rmtree(directory)


def start_local(otp: Otp, directory: Path, name: str, cookie: str, protocols: str = "local", **options: Any) -> ErlNode:
    """A node that listens on its file in `directory`, and with `protocols="inet_tcp local"` on TCP as well."""
    arguments = ["-proto_dist", *protocols.split(), "-pa", otp.inside(directory.parent)]
    arguments += ["-local_dist_directory", otp.inside(directory)]
    if "inet_tcp" not in protocols:
        arguments += ["-start_epmd", "false"]
    extra = [*arguments, *options.pop("extra_args", ())]
    return ErlNode.start(otp, name, cookie=cookie, extra_args=extra, **options)
