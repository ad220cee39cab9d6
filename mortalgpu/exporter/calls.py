"""Collector: what became of the calls that the device API got."""

from collections.abc import Iterator

from mortalgpu.exporter import names
from mortalgpu.exporter.family import Family, family
from mortalgpu.model.counts import CallCounts

EXPECTED = ("OK", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED")
"""Codes that are shown from the beginning, so that the first attack is an increase; the others appear when they were seen."""


def collect(counts: CallCounts) -> Iterator[Family]:
    """Yield the calls by code."""
    yield family(names.API_CALLS, (((code,), counts[code]) for code in sorted({*EXPECTED, *counts})))
