"""Collector: MetaGPU's metrics under MetaGPU's names, for dashboards that exist; behind exporter.metagpuNames.

Rules:
1. Names, labels and units (MiB, per cent) are MetaGPU's. Where it gave a number for "unknown", there is no row here.
2. A process has the shares of its container on its device: what they stand for is `max_allowed`, and `relative` is against it.
3. Requests and limits are the pod's, over all its containers and devices, by resource; the limit in shares, rounded down.
"""

from collections import Counter
from collections.abc import Callable, Iterator

from mortalgpu.exporter import names
from mortalgpu.exporter.family import Family, family
from mortalgpu.exporter.names import Metric
from mortalgpu.exporter.process import COMMAND_LENGTH, USER_LENGTH, text
from mortalgpu.model.share import Inventory, SharedDevice
from mortalgpu.model.usage import DeviceClaim, DeviceUsage, ProcessUsage, Usage
from mortalgpu.units import mib_floor

_OfDevice = Callable[[SharedDevice, DeviceUsage], float | None]
_OfProcess = Callable[[SharedDevice, DeviceClaim, ProcessUsage], float | None]


def _mib(size_bytes: int | None) -> int | None:
    return None if size_bytes is None else mib_floor(size_bytes)


def _part(part: float | None, whole: float) -> float | None:
    """Return per cent of `whole`; unknown where there is nothing to compare with."""
    return 100 * part / whole if part is not None and whole else None


def _granted_percent(shared: SharedDevice, claim: DeviceClaim) -> float:
    return 100 * claim.shares / shared.shares


_DEVICES: tuple[tuple[Metric, _OfDevice], ...] = (
    (names.METAGPU_SHARES, lambda shared, _: shared.shares),
    (names.METAGPU_MEMORY_TOTAL, lambda shared, _: _mib(shared.device.memory_bytes)),
    (names.METAGPU_MEMORY_FREE, lambda _, use: _mib(use.memory.free_bytes if use.memory else None)),
    (names.METAGPU_MEMORY_USED, lambda _, use: _mib(use.memory.used_bytes if use.memory else None)),
    (names.METAGPU_SHARE_SIZE, lambda shared, _: _mib(shared.share_bytes)),
)
_PROCESSES: tuple[tuple[Metric, _OfProcess], ...] = (
    (names.METAGPU_GPU, lambda _shared, _claim, one: one.gpu_percent),
    (names.METAGPU_MEMORY, lambda _shared, _claim, one: _mib(one.used_bytes)),
    (names.METAGPU_MAX_GPU, lambda shared, claim, _: _granted_percent(shared, claim)),
    (names.METAGPU_RELATIVE_GPU, lambda shared, claim, one: _part(one.gpu_percent, _granted_percent(shared, claim))),
    (names.METAGPU_MAX_MEMORY, lambda _shared, claim, _one: _mib(claim.requested_bytes)),
    (names.METAGPU_RELATIVE_MEMORY, lambda _shared, claim, one: _part(one.used_bytes, claim.requested_bytes)),
)


def collect(inventory: Inventory, usage: Usage) -> Iterator[Family]:
    """Yield MetaGPU's metrics of devices, processes and pods."""
    scanned = {use.uuid: use for use in usage.devices}
    for of_device, figure in _DEVICES:
        yield family(
            of_device,
            ((_labels(shared), figure(shared, scanned.get(shared.uuid, DeviceUsage(shared)))) for shared in inventory.devices),
        )
    found = _processes(inventory, usage)
    for of_process, share_of in _PROCESSES:
        yield family(of_process, ((labels, share_of(*subject)) for labels, subject in found))
    yield from _pods(inventory, usage)


def _labels(shared: SharedDevice) -> tuple[str, ...]:
    return shared.uuid, str(shared.device.index), shared.resource


def _processes(
    inventory: Inventory, usage: Usage
) -> list[tuple[tuple[str, ...], tuple[SharedDevice, DeviceClaim, ProcessUsage]]]:
    present = inventory.by_uuid()
    return [
        (
            (
                *(one.uuid, str(one.pid), text(one.command, COMMAND_LENGTH), text(one.user, USER_LENGTH)),
                *(holder.pod_name, holder.pod_namespace, claim.resource),
            ),
            (present[claim.uuid], claim, one),
        )
        for holder in usage.containers
        for claim in holder.devices
        if claim.uuid in present
        for one in claim.processes
    ]


def _pods(inventory: Inventory, usage: Usage) -> Iterator[Family]:
    present = inventory.by_uuid()
    requests, limits = Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
    for holder in usage.containers:
        for claim in holder.devices:
            shared = present.get(claim.uuid)
            if shared is None or not claim.shares:
                continue
            pod = (holder.pod_name, holder.pod_namespace, claim.resource)
            requests[pod] += claim.shares
            limit_bytes = claim.requested_bytes if claim.limit_bytes is None else claim.limit_bytes
            limits[pod] += max(claim.shares, limit_bytes * shared.shares // shared.device.memory_bytes)
    yield family(names.METAGPU_REQUESTS, requests.items())
    yield family(names.METAGPU_LIMITS, limits.items())
