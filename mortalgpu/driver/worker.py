"""From Trio into threads: blocking driver calls with a deadline, and an account of those that never returned.

Rules:
1. One hop a verb: the whole of it, for all devices, runs in one worker thread.
2. A hop that is not back in time is abandoned: its thread keeps a token of the limiter until the driver lets it go. One whose
   caller was cancelled goes on alone, and counts as hanging once its time is over too.
3. A hop notes which device it is asking. A device on which one hangs is left out of later hops until it returns, so that
   one sick GPU costs the others a single deadline.
4. When `max_abandoned` hops hang at once, the driver is lost: no further thread is spent on it. Workers that share a set of
   hanging hops share this bound, so that opening a hung driver again and again does not pile up threads.
5. A hop that missed its deadline because its thread began late, or because the event loop came late to fetch the answer,
   says nothing about the driver, only that this process is short of processor: it is made again, a few times. So a starved
   daemon does not call healthy devices silent. One that is in the driver still is given its time there first, so that one verb
   never asks a device twice at once.
"""

import math
import time
from collections.abc import Callable
from threading import Event
from typing import TypeVar

import trio

from mortalgpu import threads
from mortalgpu.driver.translate import NvmlError, raised_for
from mortalgpu.errors import DriverLost, DriverTimeout

_T = TypeVar("_T")

SPARE_THREADS = 2
"""Hops that may still run beside the hanging ones."""
MOST_TRIES = 4
"""How often a hop is made that missed its deadline by no fault of the driver's (rule 5)."""
AGAIN_WITHIN_SECONDS = 3.0
"""For how long: whoever watches the daemon waits for a scan, which is several such calls."""


class Hop:
    """One call of a verb, as its thread and the event loop both see it."""

    __slots__ = ("action", "finished", "given_up", "hangs_from", "started_at", "uuid")

    def __init__(self, action: str) -> None:
        self.action = action
        self.uuid = ""
        """The device it asks at this moment; empty when it asks about none. Written by the thread."""
        self.started_at: float | None = None
        """When its thread began, in seconds of the monotonic clock."""
        self.finished = False
        self.hangs_from = math.inf
        """From when on it counts as hanging, on the same clock; only where nobody waits for it any more."""
        self.given_up = Event()
        """Set by the event loop when nobody waits for its result any more: long work may end early."""

    def make(self, work: Callable[["Hop"], _T], hanging: set["Hop"]) -> _T:
        """Do the work, in this hop's thread, and strike it off `hanging`. Raises the driver's own errors translated."""
        self.started_at = time.monotonic()  # before the look at `given_up`: then it never runs without being counted
        try:
            if self.given_up.is_set():
                raise DriverTimeout(f"{self} began after its time")
            return work(self)
        except NvmlError as error:
            raise raised_for(str(self), error) from error
        finally:
            self.finished = True
            hanging.discard(self)

    def rest(self, seconds: float) -> bool:
        """Sleep, in its thread; return whether long work had better end: nobody waits for it, or others do for a thread."""
        return self.given_up.wait(seconds) or threads.are_wanted()

    def seconds_inside(self) -> float | None:
        """Return for how long it has been in the driver; None when it is not there, not yet or not any more."""
        return None if self.finished or self.started_at is None else time.monotonic() - self.started_at

    def __str__(self) -> str:
        return f"{self.action} of {self.uuid}" if self.uuid else self.action


class Worker:
    """Runs hops. Not to be shared between event loops."""

    def __init__(self, max_abandoned: int, threads: int | None = None, hanging: set[Hop] | None = None) -> None:
        self._max_abandoned = max_abandoned
        self._limiter = trio.CapacityLimiter(threads or max_abandoned + SPARE_THREADS)
        self._abandoned: set[Hop] = set() if hanging is None else hanging
        self._under_way: set[Hop] = set()
        self._is_closed = False

    @property
    def abandoned_calls(self) -> int:
        """How many hops hang in the driver at present."""
        return len(self._hanging())

    def close(self) -> None:
        """Let no hop in again, and have long work that is under way end early."""
        self._is_closed = True
        for hop in self._under_way:
            hop.given_up.set()

    async def drain(self) -> None:
        """Close, and wait until no thread is inside the driver."""
        self.close()
        for _ in range(int(self._limiter.total_tokens)):
            await self._limiter.acquire_on_behalf_of(object())

    def stuck_on(self) -> dict[str, str]:
        """Return the devices on which a hop hangs, and what it was doing there."""
        return {hop.uuid: hop.action for hop in self._hanging() if hop.uuid}

    async def run(self, action: str, work: Callable[[Hop], _T], seconds: float, tries: int = MOST_TRIES) -> _T:
        """Run `work` in a thread and return its result.

        `tries` is 1 for work that must not be done twice, or whose next turn comes anyway. Raises DriverTimeout when it is
        not back after `seconds` (a few times that, or AGAIN_WITHIN_SECONDS, in a process that gets no time to run), DriverLost
        when too many hang already or after `close`, and the driver's own errors translated. May be cancelled at any time; the
        thread then ends unobserved.
        """
        if self._is_closed:
            raise DriverLost(f"{action}: the driver was closed")
        if len(hanging := self._hanging()) >= self._max_abandoned:
            which = ", ".join(sorted(map(str, hanging)))
            raise DriverLost(f"{action}: {len(hanging)} earlier driver calls have not returned ({which})")
        last_begins_at = trio.current_time() + AGAIN_WITHIN_SECONDS
        for _ in range(tries):
            hop = Hop(action)
            self._under_way.add(hop)
            try:
                with trio.move_on_after(seconds):
                    return await threads.run(
                        hop.make,
                        work,
                        self._abandoned,
                        abandon_on_cancel=True,
                        limiter=self._limiter,
                        patience_seconds=math.inf,
                    )
            finally:
                self._under_way.discard(hop)
                hop.given_up.set()
                self._abandon(hop, seconds)
            hop.hangs_from = 0.0
            if (inside := hop.seconds_inside()) is not None and inside < seconds / 2:
                await trio.sleep(seconds / 2 - inside)
                inside = hop.seconds_inside()
            is_late = trio.current_time() >= last_begins_at
            if inside is not None or is_late or self._is_closed or self.abandoned_calls >= self._max_abandoned:
                break
        if hop.started_at is None:
            raise DriverTimeout(f"{hop} could not begin within {seconds:g} s: no thread was free for it")
        cause = "this process gets too little time to run" if inside is None else "the call may still hang in the driver"
        raise DriverTimeout(f"{hop} did not return within {seconds:g} s; {cause}")

    def _abandon(self, hop: Hop, seconds: float) -> None:
        if hop.started_at is not None:
            hop.hangs_from = hop.started_at + seconds
            self._abandoned.add(hop)
        if hop.finished:  # it has returned, maybe between the deadline and the line above
            self._abandoned.discard(hop)

    def _hanging(self) -> list[Hop]:
        now = time.monotonic()
        return [hop for hop in tuple(self._abandoned) if hop.hangs_from <= now]
