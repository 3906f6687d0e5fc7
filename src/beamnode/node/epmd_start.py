"""Starting our own epmd where none runs: as a detached process, once, however many nodes start at the same time."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from beamnode.errors import EpmdError
from beamnode.node.epmd_ask import DEFAULT_PORT, LOOPBACKS, NoEpmd, ask_for_names

LEAVE_AFTER_SECONDS = 30.0
START_TIMEOUT_SECONDS = 10.0

_PROBE_TIMEOUT_SECONDS = 2.0
_PROBE_INTERVAL_SECONDS = 0.05
_BY_HAND = "start one by hand with `epmd -daemon` or `beamnode epmd --daemon`"

log = logging.getLogger("beamnode.epmd")


async def epmd_answers(port: int = DEFAULT_PORT) -> bool:
    """Tell whether an epmd answers on loopback. Raises EpmdError when something else, or something mute, is there."""
    for address in LOOPBACKS:
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_SECONDS):
                await ask_for_names(address, port)
        except NoEpmd:
            continue
        except TimeoutError:
            raise EpmdError(
                f"what listens at {address} port {port} does not answer as an epmd does: end that program, or have all "
                "nodes use another port for epmd (environment variable ERL_EPMD_PORT)"
            ) from None
        return True
    return False


async def ensure_epmd(
    port: int = DEFAULT_PORT,
    addresses: Sequence[str] = (),
    *,
    leave_after_seconds: float = LEAVE_AFTER_SECONDS,
    timeout_seconds: float = START_TIMEOUT_SECONDS,
) -> bool:
    """See to it that an epmd answers on loopback at `port`; True when it had to be started.

    It is a process of its own that outlives this one and leaves `leave_after_seconds` after its last node. It listens
    on all interfaces, as OTP's does, or on `addresses` and loopback. Of several starts at once one wins; the others
    find it running. Raises EpmdError when none answers within `timeout_seconds`.
    """
    if await epmd_answers(port):
        return False
    deadline = time.monotonic() + timeout_seconds
    command = _command(port, addresses, leave_after_seconds)
    await asyncio.to_thread(_run, command, port, timeout_seconds)
    while not await epmd_answers(port):
        if time.monotonic() >= deadline:
            raise EpmdError(f"epmd was started but does not answer at port {port}: {_BY_HAND}")
        await asyncio.sleep(_PROBE_INTERVAL_SECONDS)
    log.info("started an epmd at port %d", port)
    return True


def _command(port: int, addresses: Sequence[str], leave_after_seconds: float) -> list[str]:
    if not sys.executable:
        raise EpmdError(f"no epmd answers at port {port}, and this Python cannot start one: {_BY_HAND}")
    command = [sys.executable, "-P", "-m", "beamnode", "epmd", "--auto"]
    command += ["--port", str(port), "--leave-after", f"{leave_after_seconds:g}"]
    if addresses:
        command += ["--address", ",".join(addresses)]
    return command


def _run(command: list[str], port: int, timeout_seconds: float) -> None:
    """Run the command, which returns once its child listens, or has found another epmd. Raises EpmdError."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd="/",
            env=_environment(),
            start_new_session=True,
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EpmdError(f"starting an epmd at port {port} took over {timeout_seconds:g} s: {_BY_HAND}") from None
    except OSError as error:
        raise EpmdError(f"no epmd answers at port {port}, and starting one failed ({error}): {_BY_HAND}") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise EpmdError(
            f"starting an epmd at port {port} failed ({said[-1] if said else 'no reason told'}): {_BY_HAND}"
        )


def _environment() -> dict[str, str]:
    environment = dict(os.environ)
    environment.pop("ERL_EPMD_ADDRESS", None)  # where it listens is said on the command line
    package_parent = Path(__file__).resolve().parents[2]
    if package_parent.name not in ("site-packages", "dist-packages"):  # a checkout need not be on the path of a child
        inherited = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(package_parent), inherited)))
    return environment
