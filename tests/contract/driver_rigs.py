"""The same driver made three ways for the contract suite: twin, stand-in under the real adapter, real GPU.

A rig opens a driver; a world is a rig whose devices a test may change. The real GPU is only ever read.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from mortalgpu.driver import library
from mortalgpu.driver.base import OpenDriver
from mortalgpu.driver.nvml import NvmlSettings, nvml_driver
from mortalgpu.errors import DriverError
from mortalgpu.model.device import GpuProcess, HealthEvent
from mortalgpu.simulation.driver import A100_UUID, SimulatedDriver, partition_uuid, worked_example
from tests.standin.nvml import Process, StateFile, build, state_of

CALL_SECONDS = 0.4

CALLS = {
    "info": "nvmlSystemGetDriverVersion",
    "devices": "nvmlDeviceGetCount_v2",
    "memory": "nvmlDeviceGetMemoryInfo_v2",
    "watch_memory": "nvmlDeviceGetMemoryInfo_v2",
    "utilization": "nvmlDeviceGetUtilizationRates",
    "processes": "nvmlDeviceGetComputeRunningProcesses_v3",
    "probe": "nvmlDeviceGetMemoryInfo_v2",
}
"""A call of NVML that each verb makes."""


class Rig(Protocol):
    """A way to open a driver."""

    open: OpenDriver


class World(Rig, Protocol):
    """A driver over the worked example's devices, and the hand that moves them."""

    def set_processes(self, uuid: str, *processes: GpuProcess) -> None:
        """Let these processes run on a device; its memory in use is their sum."""

    def lose(self, uuid: str) -> None:
        """Let a GPU fall off the bus."""

    def restore(self, uuid: str) -> None:
        """Bring it back."""

    def remove(self, uuid: str) -> None:
        """Take a device away."""

    def push_xid(self, code: int, gpu_uuid: str, gi_id: int | None = None) -> None:
        """Let the driver report an XID on a GPU, or on a GPU instance of the A100."""

    def hang(self, verb: str) -> None:
        """Let a verb hang."""

    def heal(self) -> None:
        """End the hanging."""

    def unload(self) -> None:
        """Take the driver away."""

    def reload(self) -> None:
        """Load it anew."""


class TwinWorld:
    """The simulated twin."""

    def __init__(self) -> None:
        self.driver = SimulatedDriver(worked_example(), call_seconds=CALL_SECONDS)
        self.open: OpenDriver = self.driver.open
        self.set_processes = self.driver.set_processes
        self.lose, self.restore, self.remove = self.driver.lose, self.driver.restore, self.driver.remove
        self.hang, self.heal = self.driver.hang, self.driver.heal
        self.unload, self.reload = self.driver.unload, self.driver.reload

    def push_xid(self, code: int, gpu_uuid: str, gi_id: int | None = None) -> None:
        """The twin is told of partitions by UUID at once."""
        self.driver.push_event(HealthEvent("xid", gpu_uuid if gi_id is None else partition_uuid(gi_id), code))


class StandInWorld:
    """The real adapter over the stand-in library."""

    def __init__(self, folder: Path) -> None:
        without_numa = [replace(device, numa_node=None) for device in worked_example()]
        self.file = StateFile(folder / "nvml.state", state_of(without_numa))
        for device in worked_example():
            self._write_sysfs(folder, device.pci_bus_id, device.numa_node)
        settings = NvmlSettings(library=str(build()), sysfs=folder, call_seconds=CALL_SECONDS, enumerate_seconds=CALL_SECONDS)
        self.open: OpenDriver = nvml_driver(settings)
        self.lose, self.restore, self.remove = self.file.lose, self.file.restore, self.file.remove
        self.heal, self.unload, self.reload = self.file.clear_faults, self.file.unload_driver, self.file.reload_driver

    @staticmethod
    def _write_sysfs(root: Path, bus_id: str, numa_node: int | None) -> None:
        folder = root / "bus/pci/devices" / bus_id.lower().removeprefix("0000")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "numa_node").write_text(f"{-1 if numa_node is None else numa_node}\n", encoding="ascii")

    def set_processes(self, uuid: str, *processes: GpuProcess) -> None:
        """Write the processes into the state file."""
        listed = [Process(uuid, one.pid, one.used_bytes, util=one.gpu_percent or -1) for one in processes]
        self.file.set_processes(uuid, *listed)

    def push_xid(self, code: int, gpu_uuid: str, gi_id: int | None = None) -> None:
        """NVML names partitions by GPU and instance."""
        gpu = gpu_uuid if gi_id is None else A100_UUID
        self.file.push_event(gpu, data=code, gi=gi_id, ci=None if gi_id is None else 0)

    def hang(self, verb: str) -> None:
        """Let the verb's call hang until healed."""
        self.file.add_fault(CALLS[verb], hang=0)


class GpuRig:
    """The machine's own driver."""

    def __init__(self) -> None:
        self.open: OpenDriver = nvml_driver(NvmlSettings())


def reason_without_gpu() -> str:
    """Return why the real GPU cannot be tested here; empty when it can."""
    if not Path("/dev/nvidiactl").exists():
        return "this machine has no NVIDIA driver (no /dev/nvidiactl)"
    try:
        library.load()
        library.initialise()
    except DriverError as error:
        return str(error)
    library.shut_down()
    return ""


def make_world(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Yield the world of a kind: twin or standin."""
    if kind == "twin":
        yield TwinWorld()
        return
    world = StandInWorld(folder)
    for name, value in world.file.environment.items():
        monkeypatch.setenv(name, value)
    yield world
    world.heal()


def make_rig(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """Yield the rig of a kind: twin, standin or gpu. Skips, with the reason, where there is no GPU."""
    if kind != "gpu":
        yield from make_world(kind, folder, monkeypatch)
        return
    if reason := reason_without_gpu():
        pytest.skip(reason)
    yield GpuRig()
