"""A node of its own for tests: it runs what peers ask for in one OS process, until its standard input ends.

A program, because what multiprocessing starts for a program only ends with that.
"""

from __future__ import annotations

import asyncio
import sys

import task_functions

from beamnode import Epmd, Node
from beamnode.otp.task_supervisor import TaskSupervisor


async def main() -> None:
    name, cookie, port = sys.argv[1:]
    async with Node(name, cookie=cookie, discovery=Epmd(int(port)), call_processes=1) as node:
        for function in (task_functions.cube, task_functions.leave_file, task_functions.boom_blocking):
            node.expose(function, module="py", run="process")
        await TaskSupervisor.start_link(name="tasks")
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)


if __name__ == "__main__":
    asyncio.run(main())
