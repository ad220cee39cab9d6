"""Collector: how the source of pods answers, and what became of Events."""

from collections.abc import Iterator

from mortalgpu.cluster.base import ClusterCounts, PodsView
from mortalgpu.exporter import names
from mortalgpu.exporter.family import Family, family, single


def collect(view: PodsView, counts: ClusterCounts) -> Iterator[Family]:
    """Yield whether the view of pods is fresh, requests that failed, and notes by outcome."""
    yield family(names.CLUSTER_SYNCED, [((view.source,), float(view.synced))])
    yield single(names.CLUSTER_LISTS, counts.lists)
    yield single(names.CLUSTER_FAILURES, counts.failures)
    notes = {"sent": counts.notes_sent, "failed": counts.notes_failed, "dropped": counts.notes_dropped}
    yield family(names.CLUSTER_NOTES, (((outcome,), count) for outcome, count in notes.items()))
