"""Collector: devices, from the inventory and the last scan. A device that left the inventory has no row."""

from collections.abc import Callable, Iterator

from mortalgpu.exporter import names
from mortalgpu.exporter.family import Family, family, ratio
from mortalgpu.exporter.names import Metric
from mortalgpu.model.share import Inventory, SharedDevice
from mortalgpu.model.usage import DeviceUsage, Usage

REASON_LENGTH = 120
"""Reasons are for people, and some quote the driver: what is longer is cut."""

_Figure = Callable[[SharedDevice, DeviceUsage], float | None]

_FIGURES: tuple[tuple[Metric, _Figure], ...] = (
    (names.DEVICE_MEMORY_SIZE, lambda shared, _: shared.device.memory_bytes),
    (names.DEVICE_MEMORY_USED, lambda _, use: use.memory.used_bytes if use.memory else None),
    (names.DEVICE_MEMORY_FREE, lambda _, use: use.memory.free_bytes if use.memory else None),
    (names.DEVICE_UTILIZATION, lambda _, use: ratio(use.utilization.gpu_percent) if use.utilization else None),
    (names.DEVICE_MEMORY_UTILIZATION, lambda _, use: ratio(use.utilization.memory_percent) if use.utilization else None),
    (names.DEVICE_SHARES, lambda shared, _: shared.shares),
    (names.DEVICE_SHARES_RESERVED, lambda shared, _: shared.reserved),
    (names.DEVICE_SHARES_ALLOCATED, lambda _, use: use.shares_taken),
    (names.DEVICE_SHARE_SIZE, lambda shared, _: shared.share_bytes),
)
_SCANNED: tuple[tuple[Metric, Callable[[DeviceUsage], float]], ...] = (
    (names.DEVICE_PROCESSES, lambda use: use.process_count),
    (names.DEVICE_STRANGERS, lambda use: use.stranger_count),
    (names.DEVICE_READABLE, lambda use: not use.fault),
)


def collect(inventory: Inventory, usage: Usage) -> Iterator[Family]:
    """Yield what is known of each device; figures of a scan only for devices that it knew."""
    scanned = {use.uuid: use for use in usage.devices}
    yield family(names.DEVICE_INFO, ((_where(shared), 1) for shared in inventory.devices))
    for metric, figure in _FIGURES:
        rows = ((labels(shared), figure(shared, scanned.get(shared.uuid, DeviceUsage(shared)))) for shared in inventory.devices)
        yield family(metric, rows)
    for metric, count in _SCANNED:
        present = (shared for shared in inventory.devices if shared.uuid in scanned)
        yield family(metric, ((labels(shared), float(count(scanned[shared.uuid]))) for shared in present))
    yield from _health(inventory)
    yield from _layout(inventory)


def labels(shared: SharedDevice) -> tuple[str, ...]:
    """Return the values of a device's labels."""
    return shared.uuid, str(shared.device.index), shared.device.model, shared.resource


def _where(shared: SharedDevice) -> tuple[str, ...]:
    device, mig = shared.device, shared.device.mig
    return (*labels(shared), device.gpu_uuid, str(mig.gi_id) if mig else "", mig.profile if mig else "", device.pci_bus_id)


def _health(inventory: Inventory) -> Iterator[Family]:
    judged = [(shared, inventory.health_of(shared.uuid)) for shared in inventory.devices]
    yield family(names.DEVICE_HEALTHY, ((labels(shared), float(health.healthy)) for shared, health in judged))
    yield family(names.DEVICE_HEALTH_CHANGED, ((labels(shared), health.since or None) for shared, health in judged))
    sick = ((shared, health.reason[:REASON_LENGTH]) for shared, health in judged if not health.healthy)
    yield family(names.DEVICE_UNHEALTHY_REASON, (((*labels(shared), reason), 1) for shared, reason in sick))


def _layout(inventory: Inventory) -> Iterator[Family]:
    waiting = {notice.uuid: notice for notice in inventory.notices}
    devices = inventory.devices
    yield family(names.DEVICE_LAYOUT_WAITING, ((labels(shared), float(shared.uuid in waiting)) for shared in devices))
    held = ((labels(shared), waiting[shared.uuid].held) for shared in devices if shared.uuid in waiting)
    yield family(names.DEVICE_LAYOUT_HELD, held)
