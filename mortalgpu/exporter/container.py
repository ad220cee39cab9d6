"""Collector: what each container holds and uses of each device, and how often it was stopped. From the last scan only.

Containers go by names here, as everywhere in Kubernetes' metrics. Two that have the same names at one moment (a pod of a
StatefulSet beside its successor) are one row, with the sum of their figures.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from mortalgpu.exporter import names
from mortalgpu.exporter.family import Family, family
from mortalgpu.exporter.names import Metric
from mortalgpu.model.kill import KillTarget
from mortalgpu.model.share import Inventory
from mortalgpu.model.usage import DeviceClaim, Usage

_Figure = Callable[[DeviceClaim], float | None]

_FIGURES: tuple[tuple[Metric, _Figure], ...] = (
    (names.CONTAINER_SHARES, lambda claim: claim.shares),
    (names.CONTAINER_MEMORY_USED, lambda claim: claim.used_bytes),
    (names.CONTAINER_MEMORY_REQUESTED, lambda claim: claim.requested_bytes),
    (names.CONTAINER_MEMORY_LIMIT, lambda claim: claim.limit_bytes),
    (names.CONTAINER_UTILIZATION, lambda claim: None if claim.gpu_percent is None else claim.gpu_percent / 100),
    (names.CONTAINER_PROCESSES, lambda claim: len(claim.processes) if claim.readable else None),
)

Claims = Mapping[tuple[str, ...], Sequence[DeviceClaim]]
"""Claims by the values of a container's labels."""


def collect(inventory: Inventory, usage: Usage, kills: Mapping[KillTarget, int]) -> Iterator[Family]:
    """Yield a row for each container on each device of the inventory that it holds shares of, or uses."""
    claims = claims_by_labels(inventory, usage)
    for metric, figure in _FIGURES:
        yield family(metric, ((labels, _sum(map(figure, each))) for labels, each in claims.items()))
    yield family(
        names.CONTAINER_OVER_LIMIT,
        ((labels, float(any(claim.over_limit for claim in each))) for labels, each in claims.items()),
    )
    stopped = Counter[tuple[str, ...]]()
    for target, count in kills.items():
        stopped[target.pod_namespace, target.pod_name, target.container_name, target.uuid] += count
    yield family(names.CONTAINER_KILLS, ((labels, stopped[labels[:4]]) for labels in claims))


def claims_by_labels(inventory: Inventory, usage: Usage) -> Claims:
    """Return the claims on devices that are still there, by the values of a container's labels, in the scan's order."""
    index = {shared.uuid: str(shared.device.index) for shared in inventory.devices}
    claims: dict[tuple[str, ...], list[DeviceClaim]] = {}
    for holder in usage.containers:
        for claim in holder.devices:
            if claim.uuid in index:
                who = (holder.pod_namespace, holder.pod_name, holder.container_name)
                claims.setdefault((*who, claim.uuid, index[claim.uuid], claim.resource), []).append(claim)
    return claims


def _sum(figures: Iterable[float | None]) -> float | None:
    known = list(figures)
    return None if any(figure is None for figure in known) else sum(figure for figure in known if figure is not None)
