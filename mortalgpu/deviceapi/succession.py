"""Which of two tokens for the same meta-device is the later one: the earlier container is gone, and so is its token.

Kubelet hands the ids of a container that ended to the next one. The first container's token still names them, so it would
open the second container. Therefore, of two genuine tokens for one id, the one minted later is believed and the other not.
A pod's init container and its containers may share ids and get tokens at the same moment: these live side by side.
"""

from collections.abc import Iterable

from mortalgpu.errors import Unauthenticated

SIBLING_SECONDS = 10.0
"""Kubelet admits a pod as a whole: tokens minted within this time may belong to one pod."""


class Succession:
    """Remembers when the newest known token of each id was minted. One object serves the mint and every door."""

    def __init__(self) -> None:
        self._newest: dict[str, float] = {}

    def minted(self, ids: Iterable[str], at: float) -> None:
        """Note a container's own token: one that is minted, or a genuine one that was met."""
        newest = self._newest
        for text in ids:
            if newest.get(text, 0.0) < at:
                newest[text] = at

    def check(self, ids: Iterable[str], issued_at: float | None) -> None:
        """Raise Unauthenticated if a later container's token is known for one of these ids."""
        at = issued_at or 0.0
        if any(at < self._newest.get(text, 0.0) - SIBLING_SECONDS for text in ids):
            raise Unauthenticated("a later container was granted meta-devices of this token")
