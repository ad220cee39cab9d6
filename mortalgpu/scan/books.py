"""Keeps kubelet's books at hand: reads who holds which meta-devices when that is needed, and not oftener.

A task of the scanner's.

kubelet answers from under a lock of its device manager and limits who asks too often, so that readings are spaced out, and
further while it does not answer. The last good reading stays what it was: how far it still counts is the ledger's to judge.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import trio

from mortalgpu import threads
from mortalgpu.cluster.base import PodsView
from mortalgpu.errors import HostError, KubeletError
from mortalgpu.host.base import WallClock
from mortalgpu.kubelet.base import Assignments, CheckpointEntry
from mortalgpu.latest import Latest
from mortalgpu.model.pod import Assignment
from mortalgpu.scan.ledger import Reading

log = logging.getLogger(__name__)

ReadCheckpoint = Callable[[], tuple[CheckpointEntry, ...]]
"""Reads kubelet's checkpoint; blocks, and may raise KubeletError."""


@dataclass(frozen=True, slots=True)
class BooksTempo:
    """Seconds: between two readings at the latest and at the earliest, the longest pause after failures, and kubelet's time.

    kubelet is given more time, up to the longest, once it was late: what a slow one says is as true as what a quick one says.
    """

    period_seconds: float = 5.0
    gap_seconds: float = 0.2
    longest_pause_seconds: float = 5.0
    answer_seconds: float = 2.0
    longest_answer_seconds: float = 20.0


class Books:
    """The newest reading, and the task that renews it. `want` asks for a newer one soon."""

    def __init__(
        self,
        kubelet: Assignments,
        pods: Latest[PodsView],
        clock: WallClock,
        tempo: BooksTempo,
        read_checkpoint: ReadCheckpoint | None = None,
    ) -> None:
        self.reading: Reading | None = None
        self.readings = 0
        self.failures = 0
        self.trouble = ""
        """Why kubelet does not answer at present; empty while it does."""
        self._kubelet = kubelet
        self._read_checkpoint = read_checkpoint
        self._one_reader = trio.CapacityLimiter(1)
        """A disk that does not answer keeps one thread, not one for each reading."""
        self._pods = pods
        self._clock = clock
        self._tempo = tempo
        self._wanted = trio.Event()
        self._pause = tempo.gap_seconds
        self._patience = tempo.answer_seconds
        self._failed_attempts = 0
        """Since kubelet last answered."""

    def want(self) -> None:
        """Ask for a new reading as soon as the tempo allows. Never blocks."""
        self._wanted.set()

    async def keep(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read at once, then whenever it is due; says `started` after the first attempt, whatever became of it."""
        await self._read()
        task_status.started()
        while True:
            await trio.sleep(self._pause)
            with trio.move_on_after(max(0.0, self._tempo.period_seconds - self._pause)):
                await self._wanted.wait()
            self._wanted = trio.Event()
            await self._read()

    async def _read(self) -> None:
        try:
            began_at, view, assignments = await self._answer()
        except KubeletError as error:
            self._note_failure(str(error))
            return
        except trio.TooSlowError:
            self._note_failure(f"no answer within {self._patience:g} s")
            self._patience = min(2 * self._patience, self._tempo.longest_answer_seconds)
            return
        took = self._clock.monotonic() - began_at
        self._patience = min(max(self._tempo.answer_seconds, 2 * took), self._tempo.longest_answer_seconds)
        if self.trouble:
            log.info("kubelet tells its assignments again", extra={"attempts": self._failed_attempts})
        self.reading = self._reading(assignments, began_at, view, await self._checkpoint())
        self.readings += 1
        self.trouble, self._failed_attempts = "", 0
        self._pause = self._tempo.gap_seconds

    async def _answer(self) -> tuple[float, PodsView, tuple[Assignment, ...]]:
        """Return when kubelet was asked, the pods as known then, and what it said. Raises KubeletError, trio.TooSlowError.

        While it is silent it is asked again and again: the first question may be lost in a kubelet that hung, and is the one
        that a slow kubelet answers.
        """
        outcomes: list[tuple[float, PodsView, tuple[Assignment, ...]] | KubeletError] = []
        heard = trio.Event()

        async def ask() -> None:
            began_at, view = self._clock.monotonic(), self._pods.value
            try:
                outcomes.append((began_at, view, await self._kubelet.assignments()))
            except KubeletError as error:
                outcomes.append(error)
            heard.set()

        async with trio.open_nursery() as questions:
            with trio.move_on_after(self._patience):
                while not heard.is_set():
                    questions.start_soon(ask)
                    with trio.move_on_after(self._tempo.answer_seconds):
                        await heard.wait()
            questions.cancel_scope.cancel()
        if not outcomes:
            raise trio.TooSlowError
        if isinstance(outcomes[0], KubeletError):
            raise outcomes[0]
        return outcomes[0]

    def _reading(
        self, assignments: tuple[Assignment, ...], began_at: float, view: PodsView, checkpoint: tuple[CheckpointEntry, ...]
    ) -> Reading:
        """Return a reading that shares with the one before what says the same: thousands of ids, kept and indexed once."""
        before = self.reading
        if before is not None and before.assignments == assignments:
            assignments = before.assignments
        if before is not None and before.checkpoint == checkpoint:
            checkpoint = before.checkpoint
        return Reading(assignments, began_at, view, checkpoint)

    async def _checkpoint(self) -> tuple[CheckpointEntry, ...]:
        if self._read_checkpoint is None:
            return ()
        try:
            with trio.fail_after(self._tempo.answer_seconds):
                return await threads.run(self._read_checkpoint, abandon_on_cancel=True, limiter=self._one_reader)
        except (KubeletError, HostError, trio.TooSlowError) as error:
            log.debug("kubelet's checkpoint cannot be read", extra={"cause": str(error) or "no answer in time"})
            return ()

    def _note_failure(self, problem: str) -> None:
        self.failures += 1
        self._failed_attempts += 1
        self._pause = min(self._tempo.longest_pause_seconds, self._pause * 2)
        if not self.trouble:
            log.warning("kubelet does not tell its assignments; going on with what is known", extra={"cause": problem})
        self.trouble = f"kubelet does not tell its assignments: {problem}"
