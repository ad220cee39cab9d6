"""The adapter: the GPU driver over NVML.

Opens the library and answers the port's verbs, each with one hop to a worker thread. Keeps what makes the quick look
cheap: the handles by UUID, thrown away on error and on enumeration. Knows nothing of shares, pods or policy.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pynvml
import trio

from mortalgpu import threads
from mortalgpu.driver import library
from mortalgpu.driver.base import GpuDriver, OpenDriver
from mortalgpu.driver.enumeration import enumerate_devices
from mortalgpu.driver.events import EventSet
from mortalgpu.driver.readings import Handle, offered, read_memory, read_processes, read_utilization
from mortalgpu.driver.translate import STALE_HANDLE, NvmlError, fault_of
from mortalgpu.driver.worker import Hop, Worker
from mortalgpu.errors import DriverError, DriverTimeout, HostError
from mortalgpu.model.device import Device, DriverInfo, Fault, GpuProcess, HealthEvent, Memory, Utilization

_T = TypeVar("_T")

CLOSE_SECONDS = 2.0
EVENT_WAITS_PER_HOP = 8
DEAF_PAUSE_SECONDS = 1.0
"""How often to look for GPUs with events where none has any."""


@dataclass(frozen=True, slots=True)
class NvmlSettings:
    """Where the driver is and how long it may take. An empty `library` searches the usual places.

    Opening and enumerating have their own deadlines: without persistence mode each GPU is powered up for them.
    `event_wait_seconds` bounds how long an ending program waits for the driver's event call to return.
    """

    library: str = ""
    sysfs: Path = Path("/sys")
    call_seconds: float = 2.0
    probe_seconds: float = 0.25
    """For a probe: the list of devices must tell of a silent one within a second, and a healthy one answers in microseconds."""
    second_probe_seconds: float = 0.1
    """For the probe of the others, once one was silent."""
    enumerate_seconds: float = 10.0
    open_seconds: float = 60.0
    event_wait_seconds: float = 0.25
    max_abandoned: int = 4


def nvml_driver(settings: NvmlSettings | None = None) -> OpenDriver:
    """Return what opens the NVIDIA driver of this machine. NVML is global to a process: open one at a time."""
    chosen = settings or NvmlSettings()
    hanging: set[Hop] = set()

    @asynccontextmanager
    async def open_driver() -> AsyncIterator[GpuDriver]:
        driver = NvmlDriver(chosen, hanging)
        await driver.open()
        try:
            yield driver
        finally:
            await driver.close()

    return open_driver


class NvmlDriver:
    """An opened NVML; see the port for the verbs."""

    def __init__(self, settings: NvmlSettings, hanging: set[Hop] | None = None) -> None:
        self._settings = settings
        hanging = set() if hanging is None else hanging
        self._worker = Worker(settings.max_abandoned, hanging=hanging)
        self._event_worker = Worker(settings.max_abandoned, threads=1, hanging=hanging)
        self._handles: dict[str, Handle] = {}
        self._devices: tuple[Device, ...] = ()
        self._known: tuple[Device, ...] = ()
        """The newest devices of every GPU, also of those that did not answer since."""
        self._events = EventSet()
        self._is_waiting = False
        self._last_wait_failed = False

    @property
    def abandoned_calls(self) -> int:
        """How many calls hang in the driver at present."""
        return self._worker.abandoned_calls

    async def open(self) -> None:
        """Load the library and initialise NVML. Raises DriverError with what was tried when there is no usable driver."""

        def work(_: Hop) -> None:
            library.load(self._settings.library)
            library.initialise()

        try:
            await self._worker.run("opening the NVIDIA driver", work, self._settings.open_seconds, tries=1)
        except DriverTimeout:
            library.owe_shutdown()
            raise

    async def close(self) -> None:
        """Let go of NVML, or leave it when calls still hang in it. Returns within seconds, also when cancelled.

        Whoever still asks is told that the driver is lost.
        """
        self._worker.close()
        self._event_worker.close()
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            if not self.abandoned_calls:
                await self._worker.drain()
                await self._event_worker.drain()
                with suppress(HostError):  # no thread for it: NVML is left as it is
                    await threads.run(self._let_go, abandon_on_cancel=True, patience_seconds=CLOSE_SECONDS / 2)
                    return
        library.owe_shutdown()

    def _let_go(self) -> None:
        self._events.close()
        library.shut_down()

    async def info(self) -> DriverInfo:
        """Return the driver's versions."""

        def work(_: Hop) -> DriverInfo:
            cuda = offered(pynvml.nvmlSystemGetCudaDriverVersion_v2)
            return DriverInfo(
                driver_version=offered(pynvml.nvmlSystemGetDriverVersion) or "",
                nvml_version=offered(pynvml.nvmlSystemGetNVMLVersion) or "",
                cuda_version=f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else "",
            )

        return await self._worker.run("reading the driver's versions", work, self._settings.call_seconds)

    async def devices(self) -> tuple[Device, ...]:
        """Enumerate physical GPUs and MIG partitions; also learns their handles and listens to their events."""
        stuck = self._stuck_gpus()

        def work(hop: Hop) -> tuple[dict[str, Handle], tuple[Device, ...]]:
            def note(uuid: str) -> None:
                hop.uuid = uuid

            found = enumerate_devices(self._settings.sysfs, stuck, note, self._known)
            return {one.device.uuid: one.handle for one in found if one.handle is not None}, tuple(one.device for one in found)

        handles, devices = await self._worker.run("enumerating devices", work, self._settings.enumerate_seconds)
        self._handles, self._devices = handles, devices
        present = {device.gpu_uuid for device in devices}
        self._known = (*devices, *(device for device in self._known if device.gpu_uuid not in present))
        return devices

    async def memory(self, uuids: Sequence[str]) -> Mapping[str, Memory | Fault]:
        """Read the memory of each device: one call a device."""
        return await self._each("reading the memory", uuids, read_memory)

    async def watch_memory(
        self, uuids: Sequence[str], moved: Callable[[Mapping[str, Memory | Fault]], bool], every_seconds: float, looks: int
    ) -> tuple[Mapping[str, Memory | Fault], int]:
        """Read the memory of each device again and again in one hop, which the event loop sleeps through.

        All of it has the deadline of one call: makes so few readings that at least half of that is left for the last one.
        """
        action, call_seconds = "watching the memory", self._settings.call_seconds
        most = min(looks, int(call_seconds / 2 / every_seconds))
        read_all = self._reader(uuids, read_memory)

        def work(hop: Hop) -> tuple[Mapping[str, Memory | Fault], int]:
            found: Mapping[str, Memory | Fault] = {}
            made = 0
            while made < most and not (made and moved(found)) and not hop.rest(every_seconds):
                found, made = read_all(hop), made + 1
            return found, made

        return await self._worker.run(action, work, call_seconds)

    async def utilization(self, uuids: Sequence[str]) -> Mapping[str, Utilization | Fault]:
        """Read how busy each device was; None on MIG."""
        return await self._each("reading the utilisation", uuids, read_utilization)

    async def processes(self, uuids: Sequence[str]) -> Mapping[str, tuple[GpuProcess, ...] | Fault]:
        """List the processes of each device, graphics and multi-process-service contexts included."""
        return await self._each("listing the processes", uuids, read_processes)

    async def probe(self, uuids: Sequence[str]) -> Mapping[str, Fault | None]:
        """Ask each device for its memory: a call that reaches the hardware's side of the driver.

        A device that does not answer in time is left behind with a Fault, and the others are asked without it; when yet
        another one is silent, the driver is.
        """
        action, settings = "probing", self._settings
        try:
            readings = await self._each(action, uuids, read_memory, min(settings.probe_seconds, settings.call_seconds))
        except DriverTimeout:
            readings = await self._each(action, uuids, read_memory, settings.second_probe_seconds)
        return {uuid: reading if isinstance(reading, Fault) else None for uuid, reading in readings.items()}

    async def _each(
        self, action: str, uuids: Iterable[str], read: Callable[[Handle], _T], seconds: float = 0.0
    ) -> dict[str, _T | Fault]:
        return await self._worker.run(action, self._reader(uuids, read), seconds or self._settings.call_seconds)

    def _reader(self, uuids: Iterable[str], read: Callable[[Handle], _T]) -> Callable[[Hop], dict[str, _T | Fault]]:
        """Return the work that reads each device, but for those in which a call hangs already."""
        wanted = tuple(uuids)
        stuck = self._stuck_gpus()

        def work(hop: Hop) -> dict[str, _T | Fault]:
            answers: dict[str, _T | Fault] = {}
            for uuid in wanted:
                if stuck and (gpu := self._gpu_of(uuid)) in stuck:
                    answers[uuid] = Fault(f"does not answer: {stuck[gpu]} has not returned")
                else:
                    hop.uuid = uuid
                    answers[uuid] = self._read(uuid, read)
            hop.uuid = ""
            return answers

        return work

    def _read(self, uuid: str, read: Callable[[Handle], _T]) -> _T | Fault:
        """Read one device. A handle that may have outlived its device is looked up anew, once."""
        try:
            handle = self._handles.get(uuid)
            if handle is not None:
                try:
                    return read(handle)
                except NvmlError as error:
                    if error.value not in STALE_HANDLE:
                        raise
            return read(self._look_up(uuid))
        except NvmlError as error:
            self._handles.pop(uuid, None)
            return fault_of(error)

    def _look_up(self, uuid: str) -> Handle:
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        self._handles[uuid] = handle
        return handle

    def _gpu_of(self, uuid: str) -> str:
        return next((device.gpu_uuid for device in self._known if device.uuid == uuid), uuid)

    def _stuck_gpus(self) -> dict[str, str]:
        """Return the GPUs in which a call hangs; their partitions share their lot."""
        return {self._gpu_of(uuid): action for uuid, action in self._worker.stuck_on().items()}

    async def health_event(self) -> HealthEvent:
        """Wait for the next XID or ECC error, or for a GPU to fall off the bus.

        Listens to the GPUs that `devices` found; waits for ever where the driver has no events. An event that comes
        between two calls is kept for the next. After an error the next call pauses first, for NVML refuses at once as
        long as the cause lasts. Raises trio.BusyResourceError when another task waits already.
        """
        if self._is_waiting:
            raise trio.BusyResourceError("another task waits for the driver's events already")
        self._is_waiting = True
        try:
            while (event := self._events.pop()) is None:
                await self._wait_for_events()
            return event
        finally:
            self._is_waiting = False

    async def _wait_for_events(self) -> None:
        """Make one wait of the driver. An earlier one that was cancelled is sat out first: it may bring an event."""
        if self._last_wait_failed:
            await trio.sleep(self._settings.event_wait_seconds)
        patience = EVENT_WAITS_PER_HOP * self._settings.event_wait_seconds + self._settings.call_seconds
        try:
            is_deaf = await self._event_worker.run("waiting for events", self._wait_in_thread, patience, tries=1)
        except DriverError:
            # Not so when it is cancelled: who waits again must not be deaf meanwhile.
            self._last_wait_failed = True
            raise
        self._last_wait_failed = False
        if is_deaf:
            await trio.sleep(DEAF_PAUSE_SECONDS)

    def _wait_in_thread(self, hop: Hop) -> bool:
        """Wait some times over, so that the event loop rests meanwhile; return whether there is nothing to listen to."""
        milliseconds = round(self._settings.event_wait_seconds * 1000)
        for _ in range(EVENT_WAITS_PER_HOP):
            gpus = [device.uuid for device in self._devices if device.mig is None]
            self._events.listen({uuid: handle for uuid in gpus if (handle := self._handles.get(uuid)) is not None})
            if self._events.is_deaf:
                return True
            self._events.wait(milliseconds, self._devices)
            if self._events.has_some or hop.rest(0):
                break
        return False
