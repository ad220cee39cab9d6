"""What a process costs, read from /proc."""

import os
from pathlib import Path


def resident_mib(pid: int) -> float:
    """Return the memory a process has resident, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"process {pid} has no memory")


def cpu_seconds(pid: int) -> float:
    """Return the processor time a process has used, in its own code and in the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wake_ups(pid: int) -> dict[str, int]:
    """Return how often each thread that a process has now went to sleep and was woken, by the thread's id."""
    counts = {}
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        (line,) = [text for text in status.read_text().splitlines() if text.startswith("voluntary_ctxt_switches:")]
        counts[status.parent.name] = int(line.split()[1])
    return counts
