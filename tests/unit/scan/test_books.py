"""Reading kubelet's books: when, how often, and what a reading says of its own age."""

import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from mortalgpu.kubelet.base import CheckpointEntry
from mortalgpu.latest import Latest
from mortalgpu.model.pod import Assignment
from mortalgpu.scan.books import Books, BooksTempo
from mortalgpu.simulation.host import SimulatedClock
from tests.unit.scan.making import holds, ids, pod, view
from tests.unit.scan.node import ScriptedKubelet


class _SlowKubelet(ScriptedKubelet):
    """Takes a second for each answer, or as long as it is told."""

    def __init__(self, seconds: float = 1.0) -> None:
        super().__init__()
        self.seconds = seconds

    async def assignments(self) -> tuple[Assignment, ...]:
        await trio.sleep(self.seconds)
        return await super().assignments()


@asynccontextmanager
async def keeping(kubelet: ScriptedKubelet, tempo: BooksTempo | None = None) -> AsyncIterator[Books]:
    """Keep the books; the first attempt is over when this begins."""
    books = Books(kubelet, Latest(view(pod(1))), SimulatedClock(), tempo or BooksTempo())
    async with trio.open_nursery() as nursery:
        await nursery.start(books.keep)
        yield books
        nursery.cancel_scope.cancel()


async def test_a_reading_is_as_old_as_its_question(autojump_clock: trio.testing.MockClock) -> None:
    began = trio.current_time()
    async with keeping(_SlowKubelet()) as books:
        assert books.reading is not None
        assert books.reading.began_at == began
        assert trio.current_time() == began + 1


async def test_a_reading_carries_the_pods_as_known_when_it_began(autojump_clock: trio.testing.MockClock) -> None:
    kubelet = _SlowKubelet()
    kubelet.books = (holds("pod-1", *ids("GPU-a", 0)),)
    pods = Latest(view(pod(1)))
    books = Books(kubelet, pods, SimulatedClock(), BooksTempo())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(books.keep)
        await trio.sleep(0.5)
        pods.publish(view())
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert books.reading is not None
    assert list(books.reading.view.pods) == [pod(1).uid]
    assert books.reading.assignments == kubelet.books


async def test_a_checkpoint_on_a_disk_that_hangs_is_done_without() -> None:
    released, reading = threading.Event(), 0

    def read_checkpoint() -> tuple[CheckpointEntry, ...]:
        nonlocal reading
        reading += 1
        released.wait(30)
        return ()

    kubelet = ScriptedKubelet()
    kubelet.books = (holds("pod-1", *ids("GPU-a", 0)),)
    tempo = BooksTempo(period_seconds=0.01, gap_seconds=0.01, answer_seconds=0.1)
    books = Books(kubelet, Latest(view(pod(1))), SimulatedClock(), tempo, read_checkpoint)
    try:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                await nursery.start(books.keep)
                while books.readings < 3:
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
    finally:
        released.set()
    assert books.reading is not None
    assert books.reading.assignments == kubelet.books
    assert not books.trouble
    assert reading == 1


async def test_what_kubelet_says_again_is_kept_once(autojump_clock: trio.testing.MockClock) -> None:
    kubelet = ScriptedKubelet()
    kubelet.books = (holds("pod-1", *ids("GPU-a", 0)),)
    async with keeping(kubelet) as books:
        before = books.reading
        assert before is not None
        kubelet.books = (holds("pod-1", *ids("GPU-a", 0)),)
        await trio.sleep(6)
        again = books.reading
        assert again is not None
        assert again.began_at > before.began_at
        assert again.assignments is before.assignments
        kubelet.books = (holds("pod-1", *ids("GPU-a", 1)),)
        await trio.sleep(6)
        assert books.reading is not None
        assert books.reading.assignments is kubelet.books


async def test_whoever_wants_a_reading_all_the_time_gets_one_a_gap(autojump_clock: trio.testing.MockClock) -> None:
    kubelet = ScriptedKubelet()
    async with keeping(kubelet, BooksTempo(gap_seconds=0.2)) as books:
        for _ in range(1000):
            books.want()
            await trio.sleep(0.01)
    assert 45 <= kubelet.readings <= 52


async def test_a_kubelet_that_refuses_is_asked_less_and_less_often(autojump_clock: trio.testing.MockClock) -> None:
    kubelet = ScriptedKubelet()
    kubelet.down = True
    async with keeping(kubelet) as books:
        for _ in range(6000):
            books.want()
            await trio.sleep(0.01)
        assert kubelet.readings <= 18
        assert "connection refused" in books.trouble
        assert books.reading is None


async def test_a_kubelet_that_answers_again_is_asked_at_the_usual_rhythm(autojump_clock: trio.testing.MockClock) -> None:
    kubelet = ScriptedKubelet()
    kubelet.down = True
    async with keeping(kubelet) as books:
        await trio.sleep(60)
        kubelet.down = False
        await trio.sleep(6)
        assert books.trouble == ""
        before = kubelet.readings
        books.want()
        await trio.sleep(0.25)
        assert kubelet.readings == before + 1


async def test_an_answer_that_does_not_come_is_given_up_on(autojump_clock: trio.testing.MockClock) -> None:
    kubelet = ScriptedKubelet()
    kubelet.hanging = True
    async with keeping(kubelet, BooksTempo(answer_seconds=2.0)) as books:
        assert "no answer within 2 s" in books.trouble
        assert books.failures == 1


async def test_a_kubelet_that_is_slow_is_given_the_time_it_takes(autojump_clock: trio.testing.MockClock) -> None:
    """One that always takes nine seconds would else never be heard, and no new container held."""
    kubelet = _SlowKubelet(9.0)
    async with keeping(kubelet) as books:
        assert "no answer within 2 s" in books.trouble
        await trio.sleep(40)
        assert books.trouble == ""
        before, failures = books.readings, books.failures
        assert before
        await trio.sleep(60)
        assert books.readings >= before + 4
        assert books.failures == failures
        kubelet.seconds = 0.0
        await trio.sleep(30)
        kubelet.hanging = True
        kubelet.seconds = 0.0
        await trio.sleep(8)
        assert "no answer within 2 s" in books.trouble, "back to its usual pace it is waited for no longer than usual"


async def test_the_log_tells_how_often_kubelet_was_asked_in_vain(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    kubelet = ScriptedKubelet()
    async with keeping(kubelet, BooksTempo(gap_seconds=1, period_seconds=1, longest_pause_seconds=1)) as books:
        for seconds in (3, 2):
            kubelet.down = True
            await trio.sleep(seconds + 0.5)
            kubelet.down = False
            await trio.sleep(3)
    assert books.failures == 5
    assert [vars(record)["attempts"] for record in caplog.records if "again" in record.message] == [3, 2]


async def test_a_question_that_hangs_in_kubelet_keeps_nobody_waiting_once_it_speaks(
    autojump_clock: trio.testing.MockClock,
) -> None:
    kubelet = ScriptedKubelet()
    async with keeping(kubelet) as books:
        kubelet.hanging = True
        await trio.sleep(120)
        before = books.readings
        kubelet.hanging = False
        await trio.sleep(3)
        assert books.readings > before
        assert books.trouble == ""
