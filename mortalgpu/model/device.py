"""What the driver says of the hardware: devices, their memory, their processes, their faults.

`None` always means that the driver did not say; it is never replaced by a number.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class MigPlacement:
    """Where a MIG partition lives: its parent GPU, and NVIDIA's GPU-instance and compute-instance ids."""

    parent_uuid: str
    gi_id: int
    ci_id: int
    profile: str = ""
    """NVIDIA's name for the shape, e.g. `3g.40gb`; empty when the driver does not say."""


@dataclass(frozen=True, slots=True)
class Device:
    """A physical GPU or a MIG partition, by UUID.

    `index` is the driver's number of the physical GPU (for a partition: its parent's), `model` the physical GPU's name
    as `nvidia-smi -L` prints it, `minor` the number N of /dev/nvidiaN. `mig_mode` is true for a physical GPU that is cut
    into partitions: such a GPU is never offered whole.
    """

    uuid: str
    index: int
    model: str
    memory_bytes: int
    minor: int | None = None
    numa_node: int | None = None
    pci_bus_id: str = ""
    mig: MigPlacement | None = None
    mig_mode: bool = False

    @property
    def place(self) -> tuple[int, int, int]:
        """GPU index, GPU instance, compute instance (-1 for a physical GPU): devices are listed in this order everywhere."""
        return (self.index, self.mig.gi_id, self.mig.ci_id) if self.mig else (self.index, -1, -1)

    @property
    def gpu_uuid(self) -> str:
        """UUID of the physical GPU: its own, or its parent's."""
        return self.mig.parent_uuid if self.mig else self.uuid


@dataclass(frozen=True, slots=True)
class Memory:
    """A device's memory at one moment, in bytes."""

    total_bytes: int
    used_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Utilization:
    """Per cent of the last sample period in which the device's engines and its memory were busy."""

    gpu_percent: int | None
    memory_percent: int | None


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process with a context on a device, by its pid on the host."""

    pid: int
    used_bytes: int | None
    """Device memory it holds; None where the driver says "not available"."""
    gpu_percent: int | None = None
    """Per cent of the device it kept busy lately; None where the driver does not say (always so on MIG)."""


@dataclass(frozen=True, slots=True)
class DriverInfo:
    """Versions, as the driver prints them; empty when unknown."""

    driver_version: str
    nvml_version: str
    cuda_version: str


@dataclass(frozen=True, slots=True)
class HealthEvent:
    """Something the driver reported by itself about a device.

    `kind` is `xid`, `ecc_double`, `ecc_single` or `lost`; `code` is the XID number for `xid`, else 0. `uuid` is the physical
    GPU's, or the partition's when the driver named a GPU instance; None means that every device is concerned.
    """

    kind: str
    uuid: str | None
    code: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """Why one device gave no reading: the driver's own word for it, and whether the device is gone for good."""

    text: str
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Health:
    """A device's state as MortalGPU judges it. `reason` is for people and empty while healthy."""

    healthy: bool
    reason: str = ""
    since: float = 0.0
    """Wall-clock seconds since the epoch at which this state began; 0 when it has never changed."""


HEALTHY = Health(True)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One reading of many devices at once, by UUID; a device that could not be read has a Fault in its place."""

    memory: Mapping[str, Memory | Fault] = field(default_factory=dict)
    processes: Mapping[str, tuple[GpuProcess, ...] | Fault] = field(default_factory=dict)
    utilization: Mapping[str, Utilization | Fault] = field(default_factory=dict)
