"""Which shares may still be held by containers, from every witness there is. Asked only when a share layout is to change.

Witnesses: kubelet's pod-resources (running containers), its checkpoint (init containers too, and readable while kubelet is
down), and the grants this daemon made in the last seconds, which kubelet may not have booked yet. Together they never forget
a holder; they may remember one for too long, which only delays.
"""

from collections.abc import Callable, Mapping

import trio

from mortalgpu import threads
from mortalgpu.errors import HostError, KubeletError
from mortalgpu.kubelet.base import Assignments, CheckpointEntry
from mortalgpu.model.grant import Grant
from mortalgpu.model.pod import Assignment
from mortalgpu.sharing import evidence
from mortalgpu.sharing.layout import Held, held_shares

ASK_SECONDS = 5.0
FRESH_SECONDS = 5.0
"""For how long a grant counts as held although no other witness names it: until it is older than that when asking begins."""
KEPT_SECONDS = 60.0
"""For how long grants are remembered: longer than any round of asking takes."""


class Holdings:
    """Collects what the witnesses say. Make one per daemon; the plugin servers report grants to it."""

    def __init__(
        self,
        assignments: Assignments,
        read_checkpoint: Callable[[], tuple[CheckpointEntry, ...]],
        monotonic: Callable[[], float],
    ) -> None:
        """`read_checkpoint` blocks and may raise KubeletError; it is called in a thread."""
        self._assignments = assignments
        self._read_checkpoint = read_checkpoint
        self._monotonic = monotonic
        self._fresh: list[tuple[float, Grant]] = []

    def granted(self, grant: Grant) -> None:
        """Take note of a grant just made. Never blocks."""
        now = self._monotonic()
        self._fresh = [(moment, old) for moment, old in self._fresh if now - moment < KEPT_SECONDS]
        self._fresh.append((now, grant))

    async def held(self) -> tuple[Mapping[str, Held] | None, Mapping[str, int]]:
        """Return what may be held, by device UUID (None: no witness can say), and the share totals containers were told.

        Waits up to ASK_SECONDS for kubelet. May be cancelled.
        """
        begun = self._monotonic()
        entries = await self._checkpoint()
        listed = await self._listed()
        if entries is None and listed is None:
            return None, {}
        booked = [Assignment("", "", "", {entry.resource: entry.meta_devices}) for entry in entries or ()]
        fresh = [grant for moment, grant in self._fresh if begun - moment < FRESH_SECONDS]
        totals = evidence.agreed_totals(entry.evidence for entry in entries or ())
        return held_shares([*booked, *(listed or ())], fresh), totals

    async def _checkpoint(self) -> tuple[CheckpointEntry, ...] | None:
        try:
            return await threads.run(self._read_checkpoint, abandon_on_cancel=True)
        except (KubeletError, HostError):
            return None

    async def _listed(self) -> tuple[Assignment, ...] | None:
        try:
            with trio.fail_after(ASK_SECONDS):
                return await self._assignments.assignments()
        except (KubeletError, trio.TooSlowError):
            return None
