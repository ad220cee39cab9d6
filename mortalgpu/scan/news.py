"""Tells the cluster what changed about devices: an Event on the node when one falls sick, recovers, or waits for a layout.

Reads `Latest[Inventory]` and compares; decides nothing. One note for each physical GPU and cause, however many partitions it
has. A change that was undone before it was seen is not told.
"""

from collections.abc import Iterable, Mapping, Sequence

import trio

from mortalgpu.cluster.base import Cluster
from mortalgpu.latest import Latest
from mortalgpu.model.pod import PodNote
from mortalgpu.model.share import Inventory, LayoutNotice, SharedDevice

UNHEALTHY, HEALTHY = "GpuUnhealthy", "GpuHealthy"
LAYOUT_WAITS, LAYOUT_TAKEN = "GpuShareLayoutWaits", "GpuShareLayoutInForce"


async def serve(
    inventory: Latest[Inventory], cluster: Cluster, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Note every change on the node until cancelled; what is wrong at the start is news too."""
    task_status.started()
    before = Inventory()
    async for now in inventory.changes():
        for note in changes(before, now):
            cluster.node_note(note)
        before = now


def changes(before: Inventory, now: Inventory) -> list[PodNote]:
    """Return what a person should hear about the step from one inventory to the next."""
    return [*_sicknesses(before, now), *_recoveries(before, now), *_layouts(before, now)]


def _sicknesses(before: Inventory, now: Inventory) -> list[PodNote]:
    fallen = [
        shared
        for shared in now.devices
        if not now.health_of(shared.uuid).healthy and before.health_of(shared.uuid).reason != now.health_of(shared.uuid).reason
    ]
    causes = _by_gpu((shared, now.health_of(shared.uuid).reason.removeprefix("its GPU: ")) for shared in fallen)
    return [
        PodNote(UNHEALTHY, f"{_named(devices)}: {reason}. Running containers keep it; no new ones are placed there.")
        for (_, reason), devices in causes.items()
    ]


def _recoveries(before: Inventory, now: Inventory) -> list[PodNote]:
    risen = (
        (shared, "")
        for shared in now.devices
        if now.health_of(shared.uuid).healthy and not before.health_of(shared.uuid).healthy
    )
    return [PodNote(HEALTHY, f"{_named(devices)}: well again.", warning=False) for devices in _by_gpu(risen).values()]


def _layouts(before: Inventory, now: Inventory) -> list[PodNote]:
    old, new = _waiting(before), _waiting(now)
    notes = [PodNote(LAYOUT_WAITS, _wait(notice)) for uuid, notice in new.items() if uuid not in old]
    present = {shared.uuid for shared in now.devices}
    taken = (uuid for uuid in old if uuid not in new and uuid in present)
    return notes + [
        PodNote(LAYOUT_TAKEN, f"GPU {uuid}: the configured shares are in force now.", warning=False) for uuid in taken
    ]


def _waiting(inventory: Inventory) -> Mapping[str, LayoutNotice]:
    return {notice.uuid: notice for notice in inventory.notices}


def _wait(notice: LayoutNotice) -> str:
    wanted = f"{notice.shares_configured} shares are configured" if notice.shares_configured else "it is no longer to be shared"
    held = f"containers hold {notice.held}" if notice.held else "containers may hold some"
    in_force = f"{notice.shares_in_force} of {notice.resource}"
    return f"GPU {notice.uuid}: {wanted}, but it stays cut into {in_force} while {held} of them."


def _by_gpu(told: Iterable[tuple[SharedDevice, str]]) -> dict[tuple[str, str], list[SharedDevice]]:
    groups: dict[tuple[str, str], list[SharedDevice]] = {}
    for shared, reason in told:
        groups.setdefault((shared.device.gpu_uuid, reason), []).append(shared)
    return groups


def _named(devices: Sequence[SharedDevice]) -> str:
    first = devices[0].device
    where = f"GPU {first.index} ({first.model}, {first.gpu_uuid})"
    partitions = [shared.uuid for shared in devices if shared.device.mig]
    return f"{where}, partition{'s' if len(partitions) > 1 else ''} {', '.join(partitions)}" if partitions else where
