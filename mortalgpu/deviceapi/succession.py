"""Which of two tokens for the same meta-device is the later one: the earlier container is gone, and so is its token.

Kubelet hands the ids of a container that ended to the next one. The first container's token still names them, so it would
open the second container. Therefore, of two genuine tokens for one id, the one minted later is believed and the other not.

A pod's init container and its containers may share ids and get tokens at the same moment: these live side by side. kubelet
admits a pod as a whole, before any of its containers runs. So tokens for an id are siblings only if they were minted within
SIBLING_SECONDS of each other, and no container was seen running with that id between them.
"""

import time
from collections.abc import Callable, Iterable, Sequence

from mortalgpu.errors import Unauthenticated
from mortalgpu.model.usage import ContainerUsage

SIBLING_SECONDS = 10.0
"""The longest that the admission of one pod is taken to last."""
GRAIN_SECONDS = 0.01
"""Tokens tell the time of their minting to a millisecond."""


class Succession:
    """Remembers, for each id, from when on a token must be to be believed. One object serves the mint and every door.

    `monotonic` is the clock of the scans.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._granted_at: dict[str, float] = {}
        self._newest: dict[str, float] = {}
        self._believed_from: dict[str, float] = {}
        self._worn: set[str] = set()
        """Ids that a container was seen running with since their newest token was minted."""
        self._seen: frozenset[str] = frozenset()

    def minted(self, ids: Sequence[str], at: float) -> None:
        """Note a container's token that is minted now, `at` by the wall clock."""
        self._granted_at.update(dict.fromkeys(ids, self._monotonic()))
        for text in ids:
            if text in self._worn:
                self._believed_from[text] = at - GRAIN_SECONDS
        self.met(ids, at)
        self._worn.difference_update(ids)

    def met(self, ids: Iterable[str], at: float) -> None:
        """Note a container's genuine token that was minted at `at` and is met now."""
        for text in ids:
            if self._newest.get(text, 0.0) < at:
                self._newest[text] = at
                self._believed_from[text] = max(at - SIBLING_SECONDS, self._believed_from.get(text, 0.0))

    def running(self, containers: Iterable[ContainerUsage]) -> None:
        """Note which containers run: the next token for an id of theirs belongs to another pod. Cheap when none is new.

        A container counts from when it is known what it holds.
        """
        alive = {found.container_id: found for found in containers if found.container_id and _is_known(found)}
        for container_id in alive.keys() - self._seen:
            self._worn.update(text for claim in alive[container_id].devices for text in claim.meta_devices)
        self._seen = frozenset(alive)

    def granted_at(self, ids: Iterable[str]) -> float:
        """Return when one of these ids was last granted, in monotonic seconds; minus infinity when not since our start."""
        return max((self._granted_at.get(text, float("-inf")) for text in ids), default=float("-inf"))

    def check(self, ids: Iterable[str], issued_at: float | None) -> None:
        """Raise Unauthenticated if a later container's token is known for one of these ids."""
        at = issued_at or 0.0
        if any(at < self._believed_from.get(text, 0.0) for text in ids):
            raise Unauthenticated("a later container was granted meta-devices of this token")


def _is_known(container: ContainerUsage) -> bool:
    return any(claim.meta_devices for claim in container.devices)
