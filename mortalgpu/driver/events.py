"""What the driver reports by itself: XIDs and ECC errors. Blocking calls, made in a worker thread by one hop at a time.

NVML takes physical GPUs only; on a GPU in MIG mode an event may name a GPU instance, which becomes the partitions of that
instance. GPUs whose driver has no events are not listened to: their health then rests on polling alone.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress

import pynvml

from mortalgpu.driver.library import address_of
from mortalgpu.driver.readings import NO_INSTANCE, Handle, reached
from mortalgpu.driver.translate import DEVICE_IS_GONE, NOT_OFFERED, NvmlError, fault_of
from mortalgpu.model.device import Device, HealthEvent

KINDS = {
    pynvml.nvmlEventTypeXidCriticalError: "xid",
    pynvml.nvmlEventTypeDoubleBitEccError: "ecc_double",
    pynvml.nvmlEventTypeSingleBitEccError: "ecc_single",
}
WANTED = sum(KINDS)


class EventSet:
    """The GPUs listened to. Not thread-safe: the caller sees to it that one hop at a time is in here."""

    def __init__(self) -> None:
        self._set: Handle = None
        self._listening: dict[str, Handle] = {}
        self._without_events: set[str] = set()
        self._ready: deque[HealthEvent] = deque()

    def listen(self, gpus: Mapping[str, Handle]) -> None:
        """Listen to these physical GPUs, by UUID, where that is not yet so."""
        for uuid, handle in gpus.items():
            if uuid not in self._listening and uuid not in self._without_events and self._register(uuid, handle):
                self._listening[uuid] = handle

    def _register(self, uuid: str, handle: Handle) -> bool:
        try:
            types = pynvml.nvmlDeviceGetSupportedEventTypes(handle) & WANTED
            if types:
                self._set = self._set or pynvml.nvmlEventSetCreate()
                pynvml.nvmlDeviceRegisterEvents(handle, types, self._set)
                return True
            self._without_events.add(uuid)
        except NvmlError as error:
            fault_of(error)
            if error.value in NOT_OFFERED:
                self._without_events.add(uuid)
        return False

    @property
    def is_deaf(self) -> bool:
        """True when no GPU is listened to: waiting would be for nothing."""
        return not self._listening and not self._ready

    @property
    def has_some(self) -> bool:
        """True when `pop` has an event to give."""
        return bool(self._ready)

    def pop(self) -> HealthEvent | None:
        """Return an event that was already waited for, if any."""
        return self._ready.popleft() if self._ready else None

    def wait(self, milliseconds: int, devices: Iterable[Device]) -> None:
        """Wait for one event and keep it for `pop`; return without one after the time given.

        A GPU that fell off the bus makes NVML refuse the whole set: it is named by events of kind `lost`, and the others
        are listened to again. Raises NVML's other errors.
        """
        try:
            data = pynvml.nvmlEventSetWait(self._set, milliseconds)
        except NvmlError as error:
            if error.value == pynvml.NVML_ERROR_TIMEOUT:
                return
            if not self._drop_lost():
                raise
            return
        uuid = reached(pynvml.nvmlDeviceGetUUID, data.device) or self._listened_as(data.device)
        self._ready += events_of(data, uuid, devices)

    def _listened_as(self, handle: Handle) -> str | None:
        """Return the UUID by which a GPU is listened to: one that fell off the bus does not say it any more."""
        address = address_of(handle)
        return next((uuid for uuid, known in self._listening.items() if address_of(known) == address), None)

    def _drop_lost(self) -> bool:
        """Report the GPUs that are gone and start a set of the others; False when every one of them answers."""
        lost = [uuid for uuid, handle in self._listening.items() if _is_gone(handle)]
        if not lost:
            return False
        self._ready += [HealthEvent("lost", uuid) for uuid in lost]
        remaining = {uuid: handle for uuid, handle in self._listening.items() if uuid not in lost}
        self.close()
        self.listen(remaining)
        return True

    def close(self) -> None:
        """Stop listening. No wait may be under way."""
        if self._set is not None:
            with suppress(NvmlError):  # a driver that left took the set with it
                pynvml.nvmlEventSetFree(self._set)
        self._set = None
        self._listening.clear()


def _is_gone(handle: Handle) -> bool:
    try:
        pynvml.nvmlDeviceGetUUID(handle)
        pynvml.nvmlDeviceGetMemoryInfo(handle)
    except NvmlError as error:
        fault_of(error)
        return error.value in DEVICE_IS_GONE
    return False


def events_of(data: Handle, gpu_uuid: str | None, devices: Iterable[Device]) -> list[HealthEvent]:
    """Return one of NVML's events in our words: about the GPU, or about each partition of the instance it names."""
    kind = KINDS.get(data.eventType)
    if kind is None:
        return []
    code = int(data.eventData) if kind == "xid" else 0
    hit = [device.uuid for device in devices if _is_hit(device, gpu_uuid, data.gpuInstanceId, data.computeInstanceId)]
    return [HealthEvent(kind, uuid, code) for uuid in hit] or [HealthEvent(kind, gpu_uuid, code)]


def _is_hit(device: Device, gpu_uuid: str | None, gi_id: int, ci_id: int) -> bool:
    if device.mig is None or device.mig.parent_uuid != gpu_uuid or device.mig.gi_id != gi_id:
        return False
    return ci_id in (NO_INSTANCE, device.mig.ci_id)
