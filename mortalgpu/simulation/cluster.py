"""TWIN of the cluster port: pods that the simulation makes and ends, a source that can fail, and the notes it was given."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import NamedTuple

from mortalgpu.cluster.base import NO_PODS, SOURCE_KUBERNETES, ClusterCounts, PodsView
from mortalgpu.latest import Latest
from mortalgpu.model.pod import Pod, PodNote


class TakenNote(NamedTuple):
    """A note as it was given; `pod` is None for one on the node."""

    pod: Pod | None
    note: PodNote


class SimulatedCluster:
    """See `mortalgpu.cluster.base.Cluster`. Pods may change at any time, open or not; during an outage nobody sees it.

    `now` is the simulation's wall clock. At most `notes_kept` notes are kept, the newest.
    """

    def __init__(self, now: Callable[[], float], *, source: str = SOURCE_KUBERNETES, notes_kept: int = 1000) -> None:
        self._now = now
        self._source = source
        self._notes_kept = notes_kept
        self._pods: dict[str, Pod] = {}
        self._view = Latest(NO_PODS)
        self._open = False
        self._trouble = ""
        self._counts = ClusterCounts()
        self.notes: list[TakenNote] = []
        self.refreshes = 0

    def put(self, *pods: Pod) -> None:
        """Create pods, or replace those of the same uid."""
        self._pods |= {pod.uid: pod for pod in pods}
        self._tell()

    def remove(self, uid: str) -> None:
        """Delete a pod; one that does not exist is a KeyError, because the scenario is wrong then."""
        del self._pods[uid]
        self._tell()

    def fail(self, trouble: str) -> None:
        """Begin an outage."""
        self._trouble = trouble
        self._counts = replace(self._counts, failures=self._counts.failures + 1)
        self._tell()

    def recover(self) -> None:
        """End the outage."""
        self._trouble = ""
        self._tell()

    @asynccontextmanager
    async def pods(self) -> AsyncIterator[AsyncIterator[PodsView]]:
        """Watch; see the port."""
        self._view.publish(replace(self._view.value, synced=False))
        self._open = True
        self._tell()
        try:
            yield self._view.changes()
        finally:
            self._open = False

    def refresh(self) -> None:
        """Count that somebody asked."""
        self.refreshes += 1

    def note(self, pod: Pod, note: PodNote) -> None:
        """Keep it."""
        self._take(TakenNote(pod, note))

    def node_note(self, note: PodNote) -> None:
        """Keep it."""
        self._take(TakenNote(None, note))

    def counts(self) -> ClusterCounts:
        """Return the figures so far."""
        return self._counts

    def _take(self, taken: TakenNote) -> None:
        self.notes.append(taken)
        del self.notes[: -self._notes_kept]
        self._counts = replace(self._counts, notes_sent=self._counts.notes_sent + 1)

    def _tell(self) -> None:
        """Publish what a reader may know now."""
        seen = self._view.value
        if not self._open:
            return
        if self._trouble:
            true_at = self._now() if seen.synced else seen.as_of
            self._view.publish(replace(seen, synced=False, as_of=true_at, source=self._source, trouble=self._trouble))
        elif not seen.synced or seen.pods != self._pods:
            self._counts = replace(self._counts, lists=self._counts.lists + (not seen.synced))
            self._view.publish(PodsView(dict(self._pods), True, self._now(), self._source))
