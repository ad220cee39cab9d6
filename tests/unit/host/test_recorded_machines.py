"""Recorded process trees of every runtime, cgroup version and driver, read by the real adapter."""

from pathlib import Path

import pytest

from mortalgpu.host.base import HostProcess
from mortalgpu.host.table import ProcfsTable
from tests.standin.proctree import Recorded, machines, write_machine

MACHINES = machines()
PROCESSES = [
    pytest.param(name, process, id=f"{name}: {process.what}") for name, processes in MACHINES.items() for process in processes
]


def table_over(root: Path) -> ProcfsTable:
    return ProcfsTable(str(root), passwd=[str(root / "passwd")])


@pytest.mark.parametrize(("machine", "process"), PROCESSES)
async def test_a_recorded_process_is_attributed_as_recorded(machine: str, process: Recorded, tmp_path: Path) -> None:
    write_machine(tmp_path, MACHINES[machine])
    with table_over(tmp_path) as table:
        found = await table.inspect([process.pid])
    assert found == {process.pid: HostProcess(process.pid, process.start_ticks, process.container)}


@pytest.mark.parametrize("machine", MACHINES)
async def test_a_recorded_machine_is_described_as_recorded(machine: str, tmp_path: Path) -> None:
    write_machine(tmp_path, MACHINES[machine])
    with table_over(tmp_path) as table:
        found = await table.inspect([process.pid for process in MACHINES[machine]])
        details = await table.describe(tuple(found.values()))
    for process in MACHINES[machine]:
        shown = details[process.pid]
        assert (shown.user, shown.command, shown.pid_inside) == (process.user, process.shown_command, process.pid_inside)


def test_the_recordings_span_what_they_must() -> None:
    names = " ".join(MACHINES)
    for word in ("cgroupfs", "systemd", "docker", "containerd", "crio", "kind", "v1", "v2", "look-alikes"):
        assert word in names
    told = [process.what for processes in MACHINES.values() for process in processes]
    for word in ("guaranteed", "burstable", "besteffort", "static", "init container", "ephemeral", "monitor", "forged"):
        assert any(word in what for what in told), word
