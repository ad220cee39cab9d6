"""Which of two tokens for the same meta-device is the later one: the earlier container is gone, and so is its token.

Kubelet hands the ids of a container that ended to the next one. The first container's token still names them, so it would
open the second container. Therefore, of two genuine tokens for one id, the one minted later is believed and the other not.

A pod's init container and its containers may share ids and get tokens at the same moment: these live side by side. kubelet
admits a pod as a whole, before any of its containers runs. So tokens for an id are siblings only if they were minted within
SIBLING_SECONDS of each other, and no container was seen running with that id between them.
"""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from mortalgpu.errors import Unauthenticated
from mortalgpu.model.usage import ContainerUsage

SIBLING_SECONDS = 10.0
"""The longest that the admission of one pod is taken to last."""
GRAIN_SECONDS = 0.01
"""Tokens tell the time of their minting to a millisecond."""


@dataclass(frozen=True, slots=True, eq=False)
class _Past:
    """What is known of an id. Ids with the same past share one object: a node has thousands of ids, and few grants."""

    granted_at: float = float("-inf")
    """Monotonic seconds of the last grant since our start."""
    newest: float = 0.0
    """When its newest token was minted."""
    believed_from: float = 0.0
    """When a token must have been minted to be believed."""
    is_worn: bool = False
    """Whether a container was seen running with it since its newest token was minted."""


_NO_PAST = _Past()


class Succession:
    """Remembers, for each id, from when on a token must be to be believed. One object serves the mint and every door.

    `monotonic` is the clock of the scans.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._pasts: dict[str, _Past] = {}
        self._seen: frozenset[str] = frozenset()

    def minted(self, ids: Sequence[str], at: float) -> None:
        """Note a container's token that is minted now, `at` by the wall clock."""
        now = self._monotonic()

        def granted(past: _Past) -> _Past:
            believed_from = at - GRAIN_SECONDS if past.is_worn else past.believed_from
            return _met(replace(past, granted_at=now, believed_from=believed_from, is_worn=False), at)

        self._change(ids, granted)

    def met(self, ids: Iterable[str], at: float) -> None:
        """Note a container's genuine token that was minted at `at` and is met now."""
        self._change(ids, lambda past: _met(past, at))

    def running(self, containers: Iterable[ContainerUsage]) -> None:
        """Note which containers run: the next token for an id of theirs belongs to another pod. Cheap when none is new.

        A container counts from when it is known what it holds.
        """
        alive = {found.container_id: found for found in containers if found.container_id and _is_known(found)}
        for container_id in alive.keys() - self._seen:
            ids = (text for claim in alive[container_id].devices for text in claim.meta_devices)
            self._change(ids, lambda past: replace(past, is_worn=True))
        self._seen = frozenset(alive)

    def granted_at(self, ids: Iterable[str]) -> float:
        """Return when one of these ids was last granted, in monotonic seconds; minus infinity when not since our start."""
        return max((self._past(text).granted_at for text in ids), default=_NO_PAST.granted_at)

    def check(self, ids: Iterable[str], issued_at: float | None) -> None:
        """Raise Unauthenticated if a later container's token is known for one of these ids."""
        at = issued_at or 0.0
        if any(at < self._past(text).believed_from for text in ids):
            raise Unauthenticated("a later container was granted meta-devices of this token")

    def _past(self, text: str) -> _Past:
        return self._pasts.get(text, _NO_PAST)

    def _change(self, ids: Iterable[str], change: Callable[[_Past], _Past]) -> None:
        """Change the past of each id once, in the same way for all that share it."""
        changed: dict[_Past, _Past] = {}
        for text in dict.fromkeys(ids):
            past = self._past(text)
            if past not in changed:
                changed[past] = change(past)
            if changed[past] is not past:  # Most callers show a token that was met before.
                # Other parts of the program keep the same ids for as long: one text serves all.
                self._pasts[sys.intern(text)] = changed[past]


def _met(past: _Past, at: float) -> _Past:
    if at <= past.newest:
        return past
    return replace(past, newest=at, believed_from=max(at - SIBLING_SECONDS, past.believed_from))


def _is_known(container: ContainerUsage) -> bool:
    return any(claim.meta_devices for claim in container.devices)
