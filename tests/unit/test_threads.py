"""Worker threads where none can be started: taken in turns, waited for, and given up with an error that says so."""

import math
import threading

import pytest
import trio
import trio.testing

from mortalgpu import threads
from mortalgpu.errors import HostError


class Kernel:
    """Refuses new threads while `refuses` is set; those that idle are taken as ever."""

    def __init__(self) -> None:
        self.refuses = True
        self.refused = 0


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """No thread idles to begin with."""
    kernel, start = Kernel(), threading.Thread.start
    monkeypatch.setattr("trio._core._thread_cache.THREAD_CACHE._idle_workers", {})

    def start_if_allowed(self: threading.Thread) -> None:
        if kernel.refuses:
            kernel.refused += 1
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", start_if_allowed)
    monkeypatch.setattr(threads._Queue, "told_at", -math.inf)
    return kernel


async def test_work_is_done_in_a_thread_of_its_own() -> None:
    assert await threads.run(threading.get_ident) != threading.get_ident()
    assert await threads.run(divmod, 7, 2) == (3, 1)


async def test_what_the_work_raises_is_raised() -> None:
    with pytest.raises(RuntimeError, match="mine"):
        await threads.run(_raise, RuntimeError("mine"))
    with pytest.raises(OSError, match="mine"):
        await threads.run(_raise, OSError("mine"))


async def test_a_thread_that_can_be_started_a_moment_later_is_waited_for(
    kernel: Kernel, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_allow_after, kernel, 1.0)
        assert await threads.run(divmod, 7, 2) == (3, 1)
    assert trio.current_time() >= 1.0
    assert kernel.refused > 10


async def test_who_waited_in_vain_is_told(
    kernel: Kernel, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        with pytest.raises(HostError, match="no thread can be started"):
            await threads.run(divmod, 7, 2)
    assert trio.current_time() == pytest.approx(3 * threads.PATIENCE_SECONDS, abs=0.1)
    assert [record.message for record in caplog.records] == ["no thread can be started; those that there are take turns"]


async def test_who_waits_for_a_thread_can_be_cancelled(kernel: Kernel, autojump_clock: trio.testing.MockClock) -> None:
    with trio.move_on_after(0.5) as scope:
        await threads.run(divmod, 7, 2, patience_seconds=math.inf)
    assert scope.cancelled_caught
    kernel.refuses = False
    assert await threads.run(divmod, 7, 2) == (3, 1)


async def test_the_limiter_is_not_kept_by_who_waits(kernel: Kernel, autojump_clock: trio.testing.MockClock) -> None:
    limiter = trio.CapacityLimiter(1)
    with pytest.raises(HostError):
        await threads.run(divmod, 7, 2, limiter=limiter)
    assert limiter.borrowed_tokens == 0


async def test_two_that_always_work_let_a_third_have_their_only_two_threads(kernel: Kernel) -> None:
    """As scanner and listener do: each asks again as soon as it was answered."""
    kernel.refuses = False
    done = [0, 0, 0]

    async def busy(number: int, seconds: float) -> None:
        while True:
            await threads.run(threading.Event().wait, seconds, patience_seconds=math.inf)
            done[number] += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(busy, 0, 0.03)
        nursery.start_soon(busy, 1, 0.05)
        await trio.sleep(0.02)
        kernel.refuses = True
        nursery.start_soon(busy, 2, 0.01)
        with trio.fail_after(20):
            while min(done) < 3:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert kernel.refused


async def _allow_after(kernel: Kernel, seconds: float) -> None:
    await trio.sleep(seconds)
    kernel.refuses = False


def _raise(error: Exception) -> None:
    raise error
