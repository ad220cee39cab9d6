"""The kernel starts no thread for the daemon, for a while, from any moment on at which it wants one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
import trio._core._thread_cache
import trio._threads

from tests.campaign import Tally
from tests.faults.faulty import Plan
from tests.faults.play import play, told
from tests.faults.story import CONVERGE_SECONDS, WATCHDOG_SECONDS

pytestmark = pytest.mark.faults
LASTING_SECONDS = (0.5, 6.0)
SHORT_RUNS = 6


class Refusals:
    """Refuses threads for `seconds` of the trio clock, from the start of number `at` on (0: never); counts what it saw."""

    def __init__(self, at: int = 0, seconds: float = 0.0) -> None:
        self.wanted = 0
        self.refused = 0
        self._at = at
        self._seconds = seconds
        self._until = 0.0

    def check(self) -> None:
        """Count one start. Raises what Python raises where the kernel refuses it."""
        now = trio.current_time()
        self.wanted += now >= self._until
        if self.wanted == self._at and not self._until:
            self._until = now + self._seconds
        if now < self._until:
            self.refused += 1
            raise RuntimeError("can't start new thread")


@contextmanager
def in_force(refusals: Refusals, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let each thread that Trio takes or starts pass by the refusals."""
    start = trio._core._thread_cache.start_thread_soon

    def start_unless_refused(*arguments: Any, **named: Any) -> None:
        refusals.check()
        start(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(trio._threads, "start_thread_soon", start_unless_refused)
        yield


def played(refusals: Refusals, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Play the story under refusals; return the daemon's exit codes. Raises what went wrong."""
    with in_force(refusals, monkeypatch):
        return play(Plan(), monkeypatch, converge_seconds=CONVERGE_SECONDS + WATCHDOG_SECONDS).codes


@pytest.mark.timeout(7200)
def test_a_daemon_that_gets_no_thread_goes_on_and_neither_ends_nor_falls_silent(
    monkeypatch: pytest.MonkeyPatch, tally: Tally, long_form: bool
) -> None:
    rehearsal = Refusals()
    assert played(rehearsal, monkeypatch) == [0]
    moments = range(1, rehearsal.wanted + 1, 1 if long_form else max(1, rehearsal.wanted // SHORT_RUNS))
    found = []
    for at in moments:
        for seconds in LASTING_SECONDS if long_form else (LASTING_SECONDS[at % 2],):
            refusals = Refusals(at, seconds)
            try:
                codes = played(refusals, monkeypatch)
                assert codes == [0], f"exit codes {codes}"
                assert refusals.refused, "nothing was refused"
            except (Exception, BaseExceptionGroup) as error:
                found.append(f"thread {at} refused for {seconds} s: {told(error)}")
            tally.add("faults injected")
            tally.add("scenarios run")
    assert not found, "\n".join(["", *found])


def test_a_daemon_that_takes_a_refusal_for_a_bug_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The campaign's own proof: with waiting left out, the story fails."""

    async def at_once(attempt: Callable[[], Any], _patience_seconds: float = 0.0) -> Any:
        return await attempt()

    monkeypatch.setattr("mortalgpu.threads.patiently", at_once)
    assert 70 in played(Refusals(2, 0.5), monkeypatch)
