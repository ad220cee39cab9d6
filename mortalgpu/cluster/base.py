"""PORT: who the pods on this node are, and how their owners are told something.

Nothing here names a container by anything a tenant may choose: pods go by the UID of the cgroup path, containers by the
runtime's id. Assignments (who holds which meta-devices) are not known here; they come from the kubelet port.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from mortalgpu.model.pod import Container, ContainerRef, Pod, PodNote

SOURCE_NONE = "none"
SOURCE_KUBERNETES = "kubernetes"
SOURCE_CRI = "cri"

LIMIT_ANNOTATION_PREFIX = "gpu-mem-limit."
"""The only annotations that a view keeps, whatever else a pod carries: the rest of the key is a resource name."""


@dataclass(frozen=True, slots=True)
class PodsView:
    """All pods of this node at one moment, finished ones included (and flagged); never a part of them.

    `pods` is keyed by `Pod.uid`. While `synced` is false the source does not answer: `pods` is then the last known truth
    (empty if there never was any), `as_of` says from when, and `trouble` why, for people. A reader may go on using
    a stale view for containers that the kernel still shows, and for nothing else.
    """

    pods: Mapping[str, Pod] = field(default_factory=dict)
    synced: bool = False
    as_of: float = 0.0
    """Wall-clock seconds since the epoch: when `pods` became true or, in a stale view, was last known to be; 0 when never."""
    source: str = SOURCE_NONE
    """`kubernetes`, `cri`, or `none` before any source has answered."""
    trouble: str = ""

    def pod_of(self, ref: ContainerRef) -> Pod | None:
        """Return the pod whose cgroup this is, or None when it is not (yet) known."""
        return self.pods.get(ref.pod_uid) if ref.pod_uid else None

    def container_of(self, ref: ContainerRef) -> Container | None:
        """Return the container with this id inside the pod with this UID, or None. An empty id matches nothing."""
        pod = self.pod_of(ref)
        if pod is None or not ref.container_id:
            return None
        return next((found for found in pod.containers if found.container_id == ref.container_id), None)


NO_PODS = PodsView()
"""What is known before anything is known."""


@dataclass(frozen=True, slots=True)
class ClusterCounts:
    """What happened since the adapter was made; each figure only grows."""

    lists: int = 0
    """Complete lists fetched (for the runtime's socket: polls)."""
    failures: int = 0
    """Requests for pods that failed or were cut, by whatever cause."""
    notes_sent: int = 0
    notes_failed: int = 0
    """Notes given up on after their attempts."""
    notes_dropped: int = 0
    """Notes folded into an earlier one, or dropped because the queue was full."""


class Cluster(Protocol):
    """One source of pods. Making one does no I/O; everything happens while `pods()` is open."""

    def pods(self) -> AbstractAsyncContextManager[AsyncIterator[PodsView]]:
        """Open the watch: an endless iterator of complete views; a slow reader misses some, never the last.

        The first view comes at once (the last known, `NO_PODS` at first, as a rule unsynced), then one whenever something
        changed, also `synced`. Trouble with the source is a view, never an exception; what is raised is a bug. Open it once
        at a time. Notes are delivered only while it is open. Leaving the context closes every connection.
        """
        ...

    def refresh(self) -> None:
        """Hint that a pod or container was seen which no view names: look now rather than at the next turn. Never blocks."""
        ...

    def note(self, pod: Pod, note: PodNote) -> None:
        """Tell a pod's owner, by an Event where the source can do that, else by a log line only.

        Queued, folded when it repeats, rate-limited per pod, tried a few times, then logged and counted as failed. Never
        blocks, never raises: enforcement does not wait for news of itself.
        """
        ...

    def node_note(self, note: PodNote) -> None:
        """The same, on the node instead of a pod."""
        ...

    def counts(self) -> ClusterCounts:
        """Return the figures so far; never blocks."""
        ...
