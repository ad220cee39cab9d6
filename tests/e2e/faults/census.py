"""What a process holds open, read from /proc; and that after a disturbance it holds no more than before."""

import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.waiting import until

SETTLING_SECONDS = 20.0
"""Trio keeps idle threads for ten seconds, and connections end when the other side has noticed."""
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Census:
    """How much of each a process holds at one moment."""

    files: int
    """Open descriptors that are none of the following."""
    processes: int
    """Open files by which processes that use a device are held."""
    sockets: int
    threads: int

    def is_within(self, other: "Census") -> bool:
        """Whether it is no more of anything than the other."""
        return all(getattr(self, name) <= getattr(other, name) for name in Census.__slots__)


def census(pid: int) -> Census:
    """Count what a process holds now. Raises FileNotFoundError when it is gone."""
    kinds = Counter(map(_kind, descriptors(pid).values()))
    return Census(kinds["file"], kinds["process"], kinds["socket"], len(os.listdir(f"/proc/{pid}/task")))


def _kind(target: str) -> str:
    if target.startswith("socket:"):
        return "socket"
    return "process" if target.startswith("/proc/") and target.endswith("/cgroup") else "file"


def descriptors(pid: int) -> dict[int, str]:
    """Return what each open descriptor of a process leads to. Raises FileNotFoundError when it is gone."""
    found = {}
    for entry in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            found[int(entry)] = os.readlink(f"/proc/{pid}/fd/{entry}")
    return found


def at_rest(pid: int, *, looks: int = 20) -> Census:
    """Return the least of each that was seen in a while: what a process holds when it does nothing but its rounds."""
    seen: list[Census] = []
    until("a census", lambda: seen.append(census(pid)), lambda _: len(seen) >= looks, seconds=60)
    return Census(*(min(getattr(each, name) for each in seen) for name in Census.__slots__))


def comes_to_rest(pid: int, before: Census, *, seconds: float = SETTLING_SECONDS) -> None:
    """Wait until the process holds no more of anything than it did before; raises AssertionError with what it holds."""
    try:
        until(f"no more than {before}", lambda: census(pid), lambda now: now.is_within(before), seconds=seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}; it holds {sorted(descriptors(pid).values())}") from None


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS
