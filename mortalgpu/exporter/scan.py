"""Collector: the scanner's own figures, from the last scan."""

from collections.abc import Iterator

from mortalgpu.exporter import names
from mortalgpu.exporter.family import Distribution, Family, family, single
from mortalgpu.model.usage import SCAN_BUCKETS_SECONDS, Usage

SOURCES = ("driver", "host", "kubelet")


def collect(usage: Usage) -> Iterator[Family]:
    """Yield how often, how long, and how well the node was scanned."""
    counts = usage.counts
    yield single(names.SCAN_DURATION, Distribution(SCAN_BUCKETS_SECONDS, tuple(counts.scan_buckets), counts.scan_seconds))
    yield single(names.SCAN_LOOKS, counts.looks)
    yield single(names.SCAN_OVERRUNS, counts.overruns)
    yield family(names.SCAN_FAILURES, (((source,), counts.failures.get(source, 0)) for source in SOURCES))
    yield single(names.SCAN_LAST, usage.at or None)
    yield single(names.SCAN_TROUBLES, len(usage.troubles))
