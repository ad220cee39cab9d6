"""Short ways to ask the real process table about real processes, and to have them killed."""

import subprocess
import sys

import trio

from mortalgpu.host.base import HostProcess, KillOutcome
from mortalgpu.host.table import ProcfsTable

SLEEP = ["sleep", "60"]


def python(source: str) -> list[str]:
    return [sys.executable, "-c", source]


def first_line(process: "subprocess.Popen[bytes]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


async def only(table: ProcfsTable, pid: int) -> HostProcess:
    return (await table.inspect([pid]))[pid]


async def kill(table: ProcfsTable, expected: HostProcess, grace_seconds: float = 0.0) -> KillOutcome:
    handle = await table.open(expected.pid)
    assert handle is not None
    with handle, trio.fail_after(30):
        return await handle.kill(expected, grace_seconds=grace_seconds)
