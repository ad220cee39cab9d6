"""Going ahead of whatever else runs on the machine, so that figures are the daemon's own and not its neighbours'.

Where the kernel groups processes by session (autogroup), the priority of one process counts only within its session; so the
session's counts too, and is given back at the end. What init starts without a session of its own is in no such group: its file
is there and empty, and the priority of the process is all there is to set (kernel/sched/autogroup.c).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NICENESS = -15
_GROUP = Path("/proc/self/autogroup")


@contextmanager
def ahead(group: Path = _GROUP) -> Iterator[None]:
    """Let this process and what it starts go first for the length of a block. Raises PermissionError without the right to.

    group: the kernel's file of this process's session.
    """
    before = os.nice(0)
    os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    try:
        with _session_ahead(group):
            yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)


@contextmanager
def _session_ahead(group: Path) -> Iterator[None]:
    before = group.read_text().split() if group.exists() else []
    if not before:
        yield
        return
    group.write_text(f"{NICENESS}\n")
    try:
        yield
    finally:
        with suppress(OSError):
            group.write_text(f"{before[-1]}\n")
