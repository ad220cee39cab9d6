"""Collector: how the GPU driver answered. Reads counts; the driver itself is never asked."""

from collections.abc import Iterator

from mortalgpu.exporter import names
from mortalgpu.exporter.family import Family, family, single
from mortalgpu.model.counts import DriverCounts

KINDS = ("failed", "lost", "timeout")


def collect(counts: DriverCounts) -> Iterator[Family]:
    """Yield failed calls by kind, calls that were abandoned, and reopenings."""
    yield family(names.DRIVER_ERRORS, (((kind,), counts.errors[kind]) for kind in KINDS))
    yield single(names.DRIVER_ABANDONED, counts.errors["timeout"])
    yield single(names.DRIVER_REOPENED, counts.reopened)
