"""The twin of the GPU driver: devices in memory, changed by a simulation or a test while a daemon reads them.

Answers at once and without threads, so it may run under a virtual clock. The contract suite holds it to the behaviour of
the real adapter: what one device's trouble looks like, what a lost driver raises, that a hung verb ends in a timeout.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import trio

from mortalgpu.driver.base import GpuDriver
from mortalgpu.errors import DriverError, DriverLost, DriverTimeout
from mortalgpu.model.device import Device, DriverInfo, Fault, GpuProcess, HealthEvent, Memory, MigPlacement, Utilization
from mortalgpu.units import from_mib

_T = TypeVar("_T")

V100 = "Tesla V100-PCIE-32GB"
A100 = "NVIDIA A100 80GB PCIe"
A100_UUID = "GPU-a1000000-5eed-4a10-8000-000000000080"
MAX_UNREAD_EVENTS = 1000

_PARTITIONS = ((2, 40192, "3g.40gb"), (3, 19968, "2g.20gb"), (9, 9728, "1g.10gb"), (10, 9728, "1g.10gb"))
"""GPU instance, MiB, profile: the A100 of the worked example."""


def v100_uuid(number: int) -> str:
    """Return the UUID of the worked example's V100 of this number, from 0."""
    return f"GPU-10000000-5eed-4100-8000-{number:012d}"


def partition_uuid(gi_id: int) -> str:
    """Return the UUID of the worked example's partition in this GPU instance."""
    return f"MIG-a1000000-5eed-4a10-8000-{gi_id:012d}"


def worked_example(v100s: int = 2) -> tuple[Device, ...]:
    """Return V100s of 32768 MiB, then one A100 80GB in MIG mode with GPU instances 2, 3, 9 and 10."""
    plain = tuple(_gpu(v100_uuid(index), index, V100, 32768) for index in range(v100s))
    a100 = _gpu(A100_UUID, v100s, A100, 81920, mig_mode=True)
    return (*plain, a100, *(_partition(a100, *shape) for shape in _PARTITIONS))


def _gpu(uuid: str, index: int, model: str, size_mib: int, *, mig_mode: bool = False) -> Device:
    bus_id = f"00000000:{0x3B + index:02X}:00.0"
    return Device(uuid, index, model, from_mib(size_mib), index, index % 2, bus_id, None, mig_mode)


def _partition(gpu: Device, gi_id: int, size_mib: int, profile: str) -> Device:
    placement = MigPlacement(gpu.uuid, gi_id, 0, profile)
    return Device(
        partition_uuid(gi_id), gpu.index, gpu.model, from_mib(size_mib), gpu.minor, gpu.numa_node, gpu.pci_bus_id, placement
    )


@dataclass(slots=True)
class _Figures:
    """What one simulated device would answer."""

    utilization: Utilization
    used_bytes: int = 0
    processes: tuple[GpuProcess, ...] = ()
    lost: bool = False


class SimulatedDriver:
    """Simulated devices; `open` is the port's OpenDriver, and the verbs are the port's.

    The methods that change something take effect at the next verb. A verb told to hang raises DriverTimeout after
    `call_seconds` of the clock in force.
    """

    def __init__(self, devices: Iterable[Device] = (), *, call_seconds: float = 2.0) -> None:
        self._call_seconds = call_seconds
        self._devices: dict[str, Device] = {}
        self._figures: dict[str, _Figures] = {}
        self._failing: dict[str, DriverError] = {}
        self._hanging: dict[str, trio.Event] = {}
        self._loaded = True
        self._generation = 0
        self._opened = -1
        self._events_in, self._events = trio.open_memory_channel[HealthEvent | None](MAX_UNREAD_EVENTS)
        for device in devices:
            self.add(device)

    # What a simulation does to it.

    def add(self, device: Device) -> None:
        """Plug in a device, with nothing used."""
        self._devices[device.uuid] = device
        nothing = None if device.mig or device.mig_mode else 0
        self._figures[device.uuid] = _Figures(Utilization(nothing, nothing))

    def remove(self, uuid: str) -> None:
        """Take a device away, a GPU with its partitions."""
        for gone in [device.uuid for device in self._devices.values() if uuid in (device.uuid, device.gpu_uuid)]:
            del self._devices[gone], self._figures[gone]

    def set_used(self, uuid: str, used_bytes: int) -> None:
        """Set the memory in use on a device."""
        self._figures[uuid].used_bytes = used_bytes

    def set_processes(self, uuid: str, *processes: GpuProcess) -> None:
        """Replace a device's processes, and set its memory in use to their sum."""
        self._figures[uuid].processes = processes
        self._figures[uuid].used_bytes = sum(process.used_bytes or 0 for process in processes)

    def lose(self, uuid: str) -> None:
        """Let a physical GPU fall off the bus, its partitions with it; who waits for events is told."""
        self._figures[uuid].lost = True
        self.push_event(HealthEvent("lost", uuid))

    def restore(self, uuid: str) -> None:
        """Bring a lost GPU back."""
        self._figures[uuid].lost = False

    def push_event(self, event: HealthEvent) -> None:
        """Let the driver report an event."""
        self._events_in.send_nowait(event)

    def fail(self, verb: str, error: DriverError) -> None:
        """Let a verb (`memory`, `devices` …) raise this error until `heal`."""
        self._failing[verb] = error

    def hang(self, verb: str) -> None:
        """Let a verb hang until `heal`."""
        self._hanging[verb] = trio.Event()

    def heal(self) -> None:
        """End all failing and hanging."""
        self._failing.clear()
        for hanging in self._hanging.values():
            hanging.set()
        self._hanging.clear()

    def unload(self) -> None:
        """Take the driver away: opened ones raise DriverLost, and it cannot be opened."""
        self._loaded = False
        self._wake_waiter()

    def reload(self) -> None:
        """Load the driver, anew if it was there: ones opened before stay lost."""
        self._loaded = True
        self._generation += 1
        self._wake_waiter()

    def _wake_waiter(self) -> None:
        """Let who waits for an event look again whether the driver is still there."""
        self._events_in.send_nowait(None)

    # The port.

    @asynccontextmanager
    async def open(self) -> AsyncIterator[GpuDriver]:
        """Open the simulated driver."""
        await trio.lowlevel.checkpoint()
        if not self._loaded:
            raise DriverError("the simulated driver is not loaded")
        self._opened = self._generation
        yield self

    async def info(self) -> DriverInfo:
        """Return the versions of a driver that does not exist."""
        await self._enter("info")
        return DriverInfo("570.86.15", "12.570.86.15", "12.8")

    async def devices(self) -> tuple[Device, ...]:
        """Enumerate the devices that are not lost."""
        await self._enter("devices")
        there = (device for device in self._devices.values() if not self._is_lost(device))
        return tuple(sorted(there, key=lambda device: device.place))

    async def memory(self, uuids: Sequence[str]) -> Mapping[str, Memory | Fault]:
        """Read the memory of each device."""
        await self._enter("memory")
        return self._each(uuids, self._memory_of)

    async def watch_memory(
        self, uuids: Sequence[str], moved: Callable[[Mapping[str, Memory | Fault]], bool], every_seconds: float, looks: int
    ) -> tuple[Mapping[str, Memory | Fault], int]:
        """Read the memory of each device so often, or until it moved."""
        await self._enter("watch_memory")
        found: Mapping[str, Memory | Fault] = {}
        made = 0
        while made < looks and not (made and moved(found)):
            await trio.sleep(every_seconds)
            found, made = await self.memory(uuids), made + 1
        return found, made

    async def utilization(self, uuids: Sequence[str]) -> Mapping[str, Utilization | Fault]:
        """Read how busy each device is."""
        await self._enter("utilization")
        return self._each(uuids, lambda uuid: self._figures[uuid].utilization)

    async def processes(self, uuids: Sequence[str]) -> Mapping[str, tuple[GpuProcess, ...] | Fault]:
        """List the processes of each device, ordered by pid."""
        await self._enter("processes")
        return self._each(uuids, lambda uuid: tuple(sorted(self._figures[uuid].processes, key=lambda process: process.pid)))

    async def probe(self, uuids: Sequence[str]) -> Mapping[str, Fault | None]:
        """Ask each device whether it still answers."""
        await self._enter("probe")
        readings = self._each(uuids, self._memory_of)
        return {uuid: reading if isinstance(reading, Fault) else None for uuid, reading in readings.items()}

    async def health_event(self) -> HealthEvent:
        """Wait for the next event pushed."""
        event = None
        while event is None:
            await self._enter("health_event")
            event = await self._events.receive()
        return event

    async def _enter(self, verb: str) -> None:
        await trio.lowlevel.checkpoint()
        if verb in self._hanging:
            with trio.move_on_after(self._call_seconds) as deadline:
                await self._hanging[verb].wait()
            if deadline.cancelled_caught:
                raise DriverTimeout(f"{verb} did not return within {self._call_seconds:g} s")
        if verb in self._failing:
            raise self._failing[verb]
        if not self._loaded or self._opened != self._generation:
            raise DriverLost("the simulated driver is gone")

    def _each(self, uuids: Iterable[str], read: Callable[[str], _T]) -> dict[str, _T | Fault]:
        return {uuid: self._fault(uuid) or read(uuid) for uuid in uuids}

    def _fault(self, uuid: str) -> Fault | None:
        device = self._devices.get(uuid)
        if device is None:
            return Fault("not found", lost=True)
        return Fault("gpu is lost", lost=True) if self._is_lost(device) else None

    def _is_lost(self, device: Device) -> bool:
        gpu = self._figures.get(device.gpu_uuid)
        return gpu is None or gpu.lost

    def _memory_of(self, uuid: str) -> Memory:
        total, used = self._devices[uuid].memory_bytes, self._figures[uuid].used_bytes
        return Memory(total, used, max(0, total - used))
