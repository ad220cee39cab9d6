"""Collector: resources as kubelet sees them, registrations, and how requests for shares went."""

from collections.abc import Iterator, Mapping

from mortalgpu import errors
from mortalgpu.exporter import names
from mortalgpu.exporter.family import Distribution, Family, family
from mortalgpu.model.counts import LATENCY_BUCKETS_SECONDS, Histogram, PluginCounts
from mortalgpu.model.share import Inventory
from mortalgpu.model.usage import Usage

REASONS = tuple(
    sorted(
        kind.reason
        for kind in (
            *(errors.AllocationError, errors.NotEnoughShares, errors.WouldSplit, errors.UnknownMetaDevice),
            *(errors.DeviceUnhealthy, errors.ExternalAllocatorError),
        )
    )
)
"""Every reason has its row from the start, so that its first refusal is seen as an increase."""


def collect_resources(inventory: Inventory, usage: Usage) -> Iterator[Family]:
    """Yield the shares of each resource by their state."""
    of = {resource: inventory.of_resource(resource) for resource in inventory.resources}
    taken = {use.uuid: use.shares_taken for use in usage.devices}
    sums = (
        (names.RESOURCE_META_DEVICES, lambda shared: shared.shares),
        (names.RESOURCE_ADVERTISED, lambda shared: shared.advertised),
        (names.RESOURCE_HEALTHY, lambda shared: shared.advertised if inventory.health_of(shared.uuid).healthy else 0),
        (names.RESOURCE_RESERVED, lambda shared: shared.reserved),
        (names.RESOURCE_DEVICES, lambda _: 1),
    )
    for metric, figure in sums:
        yield family(metric, (((resource,), sum(map(figure, devices))) for resource, devices in of.items()))
    held = {resource: [taken.get(shared.uuid) for shared in devices] for resource, devices in of.items()}
    yield family(
        names.RESOURCE_ALLOCATED,
        (((resource,), None if None in each else sum(filter(None, each))) for resource, each in held.items()),
    )


def collect(inventory: Inventory, plugins: Mapping[str, PluginCounts]) -> Iterator[Family]:
    """Yield registrations and requests of each resource that the node has at present."""
    mine = {resource: plugins.get(resource, PluginCounts()) for resource in inventory.resources}
    yield family(names.PLUGIN_REGISTERED, (((one,), float(counts.registered)) for one, counts in mine.items()))
    yield family(names.PLUGIN_REGISTRATIONS, (((one,), counts.registrations) for one, counts in mine.items()))
    yield family(names.PLUGIN_FAILED_REGISTRATIONS, (((one,), counts.failed_registrations) for one, counts in mine.items()))
    yield family(names.ALLOCATION_GRANTS, (((one,), counts.allocations) for one, counts in mine.items()))
    yield family(
        names.ALLOCATION_REFUSALS,
        (((one, reason), counts.refusals[reason]) for one, counts in mine.items() for reason in REASONS),
    )
    yield family(names.ALLOCATION_DURATION, (((one,), _distribution(counts.allocate)) for one, counts in mine.items()))
    yield family(names.PREFERENCE_DURATION, (((one,), _distribution(counts.preferred)) for one, counts in mine.items()))


def _distribution(histogram: Histogram) -> Distribution:
    return Distribution(LATENCY_BUCKETS_SECONDS, tuple(histogram.buckets), histogram.sum_seconds)
