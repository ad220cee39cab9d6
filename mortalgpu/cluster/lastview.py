"""What one source of pods has said last: published when it changed, and marked stale while the source does not answer."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from mortalgpu.cluster.base import NO_PODS, SOURCE_CRI, SOURCE_KUBERNETES, PodsView
from mortalgpu.errors import ClusterError
from mortalgpu.latest import Changes, Latest
from mortalgpu.model.pod import Pod

log = logging.getLogger(__name__)

_KNOWN = {
    SOURCE_KUBERNETES: "pods known from the Kubernetes API",
    SOURCE_CRI: "pods known from the container runtime",
}
_NOT_KNOWN = {
    SOURCE_KUBERNETES: "pods not known from the Kubernetes API",
    SOURCE_CRI: "pods not known from the container runtime",
}


class LastView:
    """The newest view of one source. `now` is the wall clock."""

    def __init__(self, source: str, now: Callable[[], float]) -> None:
        self.failures = 0
        """How often the source did not answer; only grows."""
        self._source = source
        self._now = now
        self._view = Latest(NO_PODS)
        self._true_at = 0.0

    @property
    def value(self) -> PodsView:
        """The view as it stands."""
        return self._view.value

    def opened(self) -> Changes[PodsView]:
        """Begin to follow the source: what is known is stale until it answers. Returns the views from now on."""
        self._view.publish(replace(self._view.value, synced=False))
        return self._view.changes()

    def known(self, pods: Mapping[str, Pod]) -> None:
        """Take over what the source says now."""
        seen, self._true_at = self._view.value, self._now()
        if not seen.synced:
            log.info(_KNOWN[self._source])
        if not seen.synced or seen.pods != pods:
            self._view.publish(PodsView(pods, True, self._true_at, self._source))

    def lost(self, trouble: ClusterError) -> None:
        """Note that the source does not answer, and why; the last known pods stay."""
        seen, self.failures = self._view.value, self.failures + 1
        if seen.synced or seen.trouble != str(trouble):
            log.warning(_NOT_KNOWN[self._source], extra={"error": str(trouble)})
            stale = replace(seen, synced=False, as_of=self._true_at, source=self._source, trouble=str(trouble))
            self._view.publish(stale)
