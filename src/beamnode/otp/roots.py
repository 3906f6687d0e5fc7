"""The orderly end of supervision trees when their node shuts down: in the order that their supervisors know.

Without this, all processes of the node would be ended at once, and no server below a supervisor would clean up.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from beamnode.etf import Atom, Pid, a
from beamnode.node import INITIAL_CALL, before_shut_down, process_info, processes
from beamnode.otp import proc_lib

_MASTER: Final = Atom("beamnode.otp.application_master")  # what leads the processes of an application
SECONDS_MAX: Final = 10.0  # for all trees, side by side; what is left then is ended at once


def end_with_node() -> None:
    """Let the tree of the current process, a supervisor, be ended in order before the node ends its processes."""
    before_shut_down(end_trees, SECONDS_MAX)


async def end_trees() -> None:
    """Stop the supervisors that stand below no other; those of applications are ended with them."""
    supervisors = {pid for pid in processes() if _first_call(pid) is a.supervisor}
    roots = [pid for pid in supervisors if not _is_below(pid, supervisors)]
    await asyncio.gather(*(proc_lib.stop(pid, a.shutdown) for pid in roots), return_exceptions=True)


def _is_below(pid: Pid, supervisors: set[Pid]) -> bool:
    info = process_info(pid) or {}
    leader = info.get("group_leader")
    of_application = leader is not None and _first_call(leader) is _MASTER
    return info.get("parent") in supervisors or of_application


def _first_call(pid: Pid) -> Any:
    """The module of what a process began with; None when it has ended, or lives elsewhere."""
    info = process_info(pid) or {}
    call = info.get("dictionary", {}).get(INITIAL_CALL, info.get("initial_call"))
    return call[0] if isinstance(call, tuple) and call else None
