"""Collector: how the GPU driver answered. Reads counts; the driver itself is never asked."""

from collections.abc import Iterator

from mortalgpu.exporter import names
from mortalgpu.exporter.family import Family, family, single
from mortalgpu.model.counts import DriverCounts, EventCounts

KINDS = ("failed", "lost", "timeout")


def collect(counts: DriverCounts, events: EventCounts) -> Iterator[Family]:
    """Yield failed calls by kind, calls that were abandoned, reopenings, and what the driver reported by itself."""
    yield family(names.DRIVER_ERRORS, (((kind,), counts.errors[kind]) for kind in KINDS))
    yield single(names.DRIVER_ABANDONED, counts.errors["timeout"])
    yield single(names.DRIVER_REOPENED, counts.reopened)
    rows = (((uuid, kind, str(code) if kind == "xid" else ""), count) for (uuid, kind, code), count in sorted(events.items()))
    yield family(names.DRIVER_EVENTS, rows)
