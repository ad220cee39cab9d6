"""What the driver stand-in is told: typed records, their text, and a file that tests change while a daemon runs.

The format of the text is documented at the top of `src/state.c`. Sizes are bytes.
"""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from mortalgpu.model.device import Device

STATE_VARIABLE = "MORTALGPU_NVML_STATE"

XID_AND_ECC = 11
"""Event types: single-bit ECC, double-bit ECC and XID."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A physical GPU. -1 and an empty `bus` mean that the driver does not support the question."""

    uuid: str
    name: str
    total: int
    minor: int = 0
    bus: str = ""
    numa: int = -1
    reserved: int = 0
    used: int = 0
    util: int = -1
    memutil: int = -1
    mig: int = -1
    """-1 MIG is not supported, 0 off, 1 on."""
    lost: int = 0
    events: int = XID_AND_ECC
    """Mask of the event types that the GPU supports; 0 for a driver without events."""


@dataclass(frozen=True, slots=True)
class Partition:
    """A MIG device in slot `slot` of the GPU with UUID `gpu`."""

    gpu: str
    uuid: str
    name: str
    total: int
    slot: int
    gi: int
    ci: int = 0
    reserved: int = 0
    used: int = 0


@dataclass(frozen=True, slots=True)
class Process:
    """A process on a device. `used` None is the driver's "not available"; `util` -1 its silence."""

    device: str
    pid: int
    used: int | None = 0
    kind: str = "C"
    """Letters: C compute, G graphics, M multi-process service."""
    util: int = -1


@dataclass(frozen=True, slots=True)
class Event:
    """Something the driver reports by itself: `type` is xid, ecc_double or ecc_single; `data` the XID."""

    seq: int
    gpu: str
    type: str = "xid"
    data: int = 0
    gi: int | None = None
    ci: int | None = None


@dataclass(frozen=True, slots=True)
class FaultRule:
    """A call fails with NVML's error code, hangs, or both; `*` means any call, or any device and none.

    `hang` is in milliseconds; 0 hangs until the rule leaves the file; None does not hang.
    """

    call: str = "*"
    device: str = "*"
    error: int = 0
    hang: int | None = None


@dataclass(frozen=True, slots=True)
class Driver:
    """The driver as a whole. A new `generation` is a reloaded driver: sessions of the old one are uninitialised.

    `build` is the only build of the library (see `variant`) that the driver talks to; 0 is any.
    """

    version: str = "570.86.15"
    nvml: str = "12.570.86.15"
    cuda: int = 12080
    loaded: int = 1
    generation: int = 0
    build: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """Everything the stand-in answers from."""

    driver: Driver = Driver()
    gpus: tuple[Gpu, ...] = ()
    partitions: tuple[Partition, ...] = ()
    processes: tuple[Process, ...] = ()
    events: tuple[Event, ...] = ()
    faults: tuple[FaultRule, ...] = field(default=())

    def text(self) -> str:
        """Return the state file's text."""
        records: list[tuple[str, object]] = [("driver", self.driver)]
        records += [("gpu", gpu) for gpu in self.gpus]
        records += [("mig", partition) for partition in self.partitions]
        records += [("process", process) for process in self.processes]
        records += [("event", event) for event in self.events]
        records += [("fault", fault) for fault in self.faults]
        return "".join(_line(word, record) for word, record in records)


def _line(word: str, record: object) -> str:
    values = {name: getattr(record, name) for name in record.__slots__}  # type: ignore[attr-defined]
    if word == "process" and values["used"] is None:
        values["used"] = "none"
    fields = [f"{name}={value}" for name, value in values.items() if value is not None]
    return "\t".join([word, *fields]) + "\n"


def state_of(devices: Iterable[Device]) -> State:
    """Return a state in which the driver reports these devices, with nothing used and nothing wrong."""
    known = list(devices)
    gpus = tuple(_gpu(device) for device in sorted(known, key=lambda device: device.index) if device.mig is None)
    partitions: list[Partition] = []
    for device in known:
        if device.mig is not None:
            slot = sum(other.gpu == device.mig.parent_uuid for other in partitions)
            partitions.append(_partition(device, slot))
    return State(gpus=gpus, partitions=tuple(partitions))


def _gpu(device: Device) -> Gpu:
    return Gpu(
        uuid=device.uuid,
        name=device.model,
        total=device.memory_bytes,
        minor=-1 if device.minor is None else device.minor,
        bus=device.pci_bus_id,
        numa=-1 if device.numa_node is None else device.numa_node,
        util=-1 if device.mig_mode else 0,
        memutil=-1 if device.mig_mode else 0,
        mig=int(device.mig_mode),
    )


def _partition(device: Device, slot: int) -> Partition:
    assert device.mig is not None
    name = f"{device.model} MIG {device.mig.profile}"
    return Partition(
        gpu=device.mig.parent_uuid,
        uuid=device.uuid,
        name=name,
        total=device.memory_bytes,
        slot=slot,
        gi=device.mig.gi_id,
        ci=device.mig.ci_id,
    )


class StateFile:
    """The file a stand-in reads: each method rewrites it atomically, and the next driver call sees the change."""

    def __init__(self, path: Path, state: State | None = None) -> None:
        self.path = path
        self.state = state or State()
        self.write(self.state)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to use this state."""
        return {STATE_VARIABLE: str(self.path)}

    def write(self, state: State) -> None:
        """Put this state in force."""
        self.state = state
        draft = self.path.with_name(self.path.name + ".new")
        draft.write_text(state.text(), encoding="utf-8")
        # The kernel's own stamp is coarse, and inodes are used again: a finer one keeps every change visible.
        os.utime(draft, ns=(time.time_ns(), time.time_ns()))
        os.replace(draft, self.path)

    def set_used(self, uuid: str, used_bytes: int) -> None:
        """Set the memory in use on a GPU or partition."""
        gpus = tuple(replace(gpu, used=used_bytes) if gpu.uuid == uuid else gpu for gpu in self.state.gpus)
        partitions = tuple(replace(part, used=used_bytes) if part.uuid == uuid else part for part in self.state.partitions)
        self.write(replace(self.state, gpus=gpus, partitions=partitions))

    def set_gpu(self, uuid: str, **changes: int | str) -> None:
        """Change fields of one `Gpu`."""
        gpus = tuple(replace(gpu, **changes) if gpu.uuid == uuid else gpu for gpu in self.state.gpus)  # type: ignore[arg-type]
        self.write(replace(self.state, gpus=gpus))

    def set_processes(self, uuid: str, *processes: Process) -> None:
        """Replace the processes of a device, and set the memory in use to their sum."""
        others = tuple(process for process in self.state.processes if process.device != uuid)
        self.state = replace(self.state, processes=(*others, *processes))
        self.set_used(uuid, sum(process.used or 0 for process in processes))

    def lose(self, uuid: str) -> None:
        """Let a physical GPU fall off the bus, its partitions with it."""
        self.set_gpu(uuid, lost=1)

    def restore(self, uuid: str) -> None:
        """Bring a lost GPU back."""
        self.set_gpu(uuid, lost=0)

    def remove(self, uuid: str) -> None:
        """Take a device away, as when a partition is destroyed or a GPU unplugged."""
        gpus = tuple(gpu for gpu in self.state.gpus if gpu.uuid != uuid)
        partitions = tuple(part for part in self.state.partitions if uuid not in (part.uuid, part.gpu))
        self.write(replace(self.state, gpus=gpus, partitions=partitions))

    def push_event(self, gpu: str, type_: str = "xid", data: int = 0, *, gi: int | None = None, ci: int | None = None) -> None:
        """Let the driver report an event: once to every event set that listens now."""
        seq = 1 + max((event.seq for event in self.state.events), default=0)
        event = Event(seq, gpu, type_, data, gi, ci)
        self.write(replace(self.state, events=(*self.state.events, event)))

    def add_fault(self, call: str = "*", device: str = "*", *, error: int = 0, hang: int | None = None) -> None:
        """Let a call fail or hang from now on."""
        self.write(replace(self.state, faults=(*self.state.faults, FaultRule(call, device, error, hang))))

    def met(self) -> list[str]:
        """Return the calls that met a fault, each once for each version of the state."""
        noted = self.path.with_name(f"{self.path.name}.met")
        return noted.read_text().split() if noted.exists() else []

    def clear_faults(self) -> None:
        """End all failing and hanging."""
        self.write(replace(self.state, faults=()))

    def require_build(self, number: int) -> None:
        """Let the driver talk to this build of the library only, as after an upgrade of the one and not of the other."""
        self.write(replace(self.state, driver=replace(self.state.driver, build=number)))

    def unload_driver(self) -> None:
        """Take the kernel's driver away."""
        self.write(replace(self.state, driver=replace(self.state.driver, loaded=0)))

    def reload_driver(self) -> None:
        """Load the driver, anew if it was there: sessions opened before are no longer initialised."""
        driver = replace(self.state.driver, loaded=1, generation=self.state.driver.generation + 1)
        self.write(replace(self.state, driver=driver))
