"""Collector: how reading the configuration again went."""

from collections.abc import Iterator

from mortalgpu.exporter import names
from mortalgpu.exporter.family import Family, family, single
from mortalgpu.model.counts import ReloadCounts

OUTCOMES = ("applied", "partly", "refused", "unchanged")


def collect(counts: ReloadCounts) -> Iterator[Family]:
    """Yield reloads by outcome, and whether what is on disk is what is in force."""
    yield family(names.CONFIG_RELOADS, (((outcome,), counts.outcomes[outcome]) for outcome in OUTCOMES))
    yield single(names.CONFIG_RELOAD_SUCCESS, float(counts.is_good))
    yield single(names.CONFIG_RELOAD_TIME, counts.taken_at or None)
