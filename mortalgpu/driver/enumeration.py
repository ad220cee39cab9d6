"""Which devices there are: physical GPUs by index, then their MIG partitions. Blocking calls, made in a worker thread.

A GPU or partition that does not answer an essential question (UUID, name, memory, MIG mode) is left out, and the others
are still found: what is gone shows in its absence and in `probe`. Other questions that stay unanswered become None.

A partition's absence must be certain, for it means that an operator took it away: where the driver fails to say what lies in a
slot, the partitions that were known and not found are still there.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pynvml

from mortalgpu.driver.readings import Handle, offered, reached, read_memory
from mortalgpu.driver.translate import NvmlError, fault_of
from mortalgpu.model.device import Device, MigPlacement

EMPTY_SLOT = (pynvml.NVML_ERROR_NOT_FOUND, pynvml.NVML_ERROR_INVALID_ARGUMENT)
"""What the driver says of a slot in which no partition lies."""


@dataclass(frozen=True, slots=True)
class Found:
    """A device, and the handle under which the driver knows it now; None where it did not give one."""

    device: Device
    handle: Handle


def enumerate_devices(
    sysfs: Path, stuck: Collection[str], note: Callable[[str], None], known: Collection[Device] = ()
) -> list[Found]:
    """Find all devices, ordered by GPU index, GPU instance, compute instance.

    `stuck` are the UUIDs of GPUs not to be asked, because a call to them hangs; `note` is told the UUID asked about; `known`
    are the devices that were found before, by any enumeration of this opened driver.
    Raises NVML's error when the GPUs cannot even be counted, DriverLost when the driver leaves meanwhile.
    """
    found: list[Found] = []
    stuck_indices = {device.index for device in known if device.gpu_uuid in stuck}
    known_partitions = [device for device in known if device.mig is not None]
    for index in range(pynvml.nvmlDeviceGetCount()):
        if index not in stuck_indices:
            found += _gpu_and_partitions(index, sysfs, stuck, note, known_partitions)
    return found


def _gpu_and_partitions(
    index: int, sysfs: Path, stuck: Collection[str], note: Callable[[str], None], known_partitions: Iterable[Device]
) -> Iterator[Found]:
    handle = reached(pynvml.nvmlDeviceGetHandleByIndex, index)
    uuid = reached(pynvml.nvmlDeviceGetUUID, handle) if handle is not None else None
    # One in which a call hangs since before the driver was opened anew is known by no index yet.
    if uuid is None or uuid in stuck:
        return
    note(uuid)
    known = [device for device in known_partitions if device.gpu_uuid == uuid]
    gpu = reached(_read_gpu, handle, uuid, index, sysfs, bool(known))
    if gpu is not None:
        yield Found(gpu, handle)
        if gpu.mig_mode:
            yield from _partitions(gpu, handle, known)
    note("")


def _read_gpu(handle: Handle, uuid: str, index: int, sysfs: Path, was_cut: bool) -> Device:
    pci = reached(pynvml.nvmlDeviceGetPciInfo, handle)
    bus_id = str(pci.busId) if pci is not None else ""
    # Essential: a GPU of unknown mode could be offered whole while it is cut into partitions. One that was cut knows the word.
    mig_mode = pynvml.nvmlDeviceGetMigMode(handle) if was_cut else offered(pynvml.nvmlDeviceGetMigMode, handle)
    return Device(
        uuid=uuid,
        index=index,
        model=pynvml.nvmlDeviceGetName(handle),
        memory_bytes=read_memory(handle).total_bytes,
        minor=reached(pynvml.nvmlDeviceGetMinorNumber, handle),
        numa_node=_numa_node(handle, bus_id, sysfs),
        pci_bus_id=bus_id,
        mig_mode=mig_mode is not None and mig_mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE,
    )


def _partitions(gpu: Device, handle: Handle, known: Iterable[Device]) -> list[Found]:
    slots = reached(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle)
    found: list[Found] = []
    is_certain = slots is not None
    for slot in range(slots or 0):
        try:
            mig = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, slot)
        except NvmlError as error:
            fault_of(error)
            is_certain = is_certain and error.value in EMPTY_SLOT
            continue
        partition = reached(_read_partition, mig, gpu)
        if partition is None:
            is_certain = False
        else:
            found.append(Found(partition, mig))
    if not is_certain:
        found += _not_found(known, found)
    return sorted(found, key=lambda one: one.device.place)


def _not_found(known: Iterable[Device], found: Iterable[Found]) -> list[Found]:
    """Return the known partitions in whose place none was found."""
    # Without the GPU's index, which may be another one since.
    places = {one.device.place[1:] for one in found}
    return [Found(device, None) for device in known if device.place[1:] not in places]


def _read_partition(handle: Handle, gpu: Device) -> Device:
    placement = MigPlacement(
        parent_uuid=gpu.uuid,
        gi_id=pynvml.nvmlDeviceGetGpuInstanceId(handle),
        ci_id=pynvml.nvmlDeviceGetComputeInstanceId(handle),
        profile=profile_in(reached(pynvml.nvmlDeviceGetName, handle) or ""),
    )
    return Device(
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        index=gpu.index,
        model=gpu.model,
        memory_bytes=read_memory(handle).total_bytes,
        minor=gpu.minor,
        numa_node=gpu.numa_node,
        pci_bus_id=gpu.pci_bus_id,
        mig=placement,
    )


def profile_in(mig_name: str) -> str:
    """Return the shape in a MIG device's name: `3g.40gb` in `NVIDIA A100 80GB PCIe MIG 3g.40gb`; empty without one."""
    _, marker, profile = mig_name.rpartition(" MIG ")
    return profile.strip() if marker else ""


def _numa_node(handle: Handle, bus_id: str, sysfs: Path) -> int | None:
    """Return the host's NUMA node that the GPU's bus hangs on; None when unknown (the kernel says -1).

    The kernel is asked first: NVML's own figure exists only where the GPU's memory is a NUMA node of its own, and then
    names that one. (NVML API reference, nvmlDeviceGetNumaNodeId.)
    """
    try:
        node = int((sysfs / "bus/pci/devices" / sysfs_name(bus_id) / "numa_node").read_text(encoding="ascii"))
    except (OSError, ValueError):
        answer: int | None = reached(pynvml.nvmlDeviceGetNumaNodeId, handle)
        node = -1 if answer is None else answer
    return node if node >= 0 else None


def sysfs_name(bus_id: str) -> str:
    """Return a PCI address as sysfs writes it (`0000:3b:00.0`) from NVML's form (`00000000:3B:00.0`)."""
    domain, _, rest = bus_id.lower().partition(":")
    return f"{int(domain, 16):04x}:{rest}" if domain and rest else bus_id.lower()
