"""Calls that hang: what it costs whom, and how it ends."""

import time
from collections.abc import Iterator
from threading import Event

import pytest
import trio

from mortalgpu.driver.worker import Hop, Worker
from mortalgpu.errors import DriverLost, DriverTimeout

SHORT = 0.05
STARVED = 0.3
"""The deadline of a hop whose thread has to wait."""


@pytest.fixture
def release() -> Iterator[Event]:
    """Yield what lets hanging threads go; they go at the latest when the test ends."""
    event = Event()
    yield event
    event.set()


async def abandon(worker: Worker, uuid: str, release: Event) -> None:
    def work(hop: Hop) -> None:
        hop.uuid = uuid
        release.wait(10)

    with pytest.raises(DriverTimeout):
        await worker.run("reading", work, SHORT)


async def let_go_after(release: Event, seconds: float) -> None:
    await trio.sleep(seconds)
    release.set()


async def until_none_hangs(worker: Worker) -> None:
    with trio.fail_after(2):
        while worker.abandoned_calls:
            await trio.sleep(0.005)


async def test_a_hop_returns_what_its_work_returns() -> None:
    assert await Worker(2).run("adding", lambda _: 1 + 1, 1) == 2


async def test_a_timeout_names_the_action_the_device_and_the_limit(release: Event) -> None:
    def work(hop: Hop) -> None:
        hop.uuid = "GPU-a"
        release.wait(10)

    with pytest.raises(DriverTimeout, match=r"^reading of GPU-a did not return within 0\.05 s"):
        await Worker(2).run("reading", work, SHORT)


async def test_a_hop_that_hangs_is_counted_until_it_returns(release: Event) -> None:
    worker = Worker(2)
    await abandon(worker, "GPU-a", release)
    assert worker.abandoned_calls == 1
    assert worker.stuck_on() == {"GPU-a": "reading"}
    release.set()
    await until_none_hangs(worker)
    assert worker.stuck_on() == {}


async def test_hops_beside_a_hanging_one_still_run(release: Event) -> None:
    worker = Worker(2)
    await abandon(worker, "GPU-a", release)
    assert await worker.run("adding", lambda _: 2, 1) == 2


async def test_as_many_hanging_hops_as_are_borne_mean_that_the_driver_is_lost(release: Event) -> None:
    worker = Worker(2)
    for uuid in ("GPU-a", "GPU-b"):
        await abandon(worker, uuid, release)
    with pytest.raises(DriverLost, match="reading of GPU-a, reading of GPU-b"):
        await worker.run("reading", lambda _: 0, 1)


async def test_a_driver_that_was_lost_to_hanging_serves_again_when_they_return(release: Event) -> None:
    worker = Worker(1)
    await abandon(worker, "GPU-a", release)
    release.set()
    await until_none_hangs(worker)
    assert await worker.run("adding", lambda _: 2, 1) == 2


async def test_a_hop_that_finds_no_free_thread_times_out_and_is_not_counted_as_hanging(release: Event) -> None:
    worker = Worker(5, threads=1)
    await abandon(worker, "GPU-a", release)
    with pytest.raises(DriverTimeout):
        await worker.run("adding", lambda _: 2, SHORT)
    assert worker.abandoned_calls == 1


async def test_a_hop_whose_thread_gets_no_time_is_made_again(release: Event) -> None:
    worker = Worker(5, threads=1)
    await abandon(worker, "GPU-a", release)
    made = 0

    def work(_: Hop) -> str:
        nonlocal made
        made += 1
        return "an answer"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(let_go_after, release, 1.5 * STARVED)
        assert await worker.run("probing", work, STARVED) == "an answer"
    assert made == 1
    assert worker.abandoned_calls == 0


def test_a_hop_that_was_given_up_before_it_began_never_reaches_the_driver() -> None:
    hop = Hop("opening")
    hop.given_up.set()
    reached: list[Hop] = []
    with pytest.raises(DriverTimeout, match=r"^opening began after its time"):
        hop.make(reached.append, set())
    assert not reached


async def test_a_hop_whose_answer_the_event_loop_fetched_too_late_is_made_again() -> None:
    token = trio.lowlevel.current_trio_token()
    stands_still = Event()
    made = 0

    def stand_still() -> None:
        stands_still.set()
        time.sleep(10 * SHORT)

    def work(_: Hop) -> int:
        nonlocal made
        made += 1
        if made == 1:
            token.run_sync_soon(stand_still)
            stands_still.wait(10)
        return made

    assert await Worker(5).run("probing", work, SHORT) == 2


async def test_work_that_must_not_be_done_twice_is_not(release: Event) -> None:
    worker = Worker(5, threads=1)
    await abandon(worker, "GPU-a", release)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(let_go_after, release, 1.5 * STARVED)
        with pytest.raises(DriverTimeout):
            await worker.run("opening", lambda _: 0, STARVED, tries=1)


async def test_a_hop_that_had_its_time_is_not_made_again(release: Event) -> None:
    made = 0

    def work(_: Hop) -> None:
        nonlocal made
        made += 1
        release.wait(10)

    with pytest.raises(DriverTimeout):
        await Worker(5).run("probing", work, STARVED)
    assert made == 1


async def test_a_device_that_a_hop_reached_late_is_not_asked_twice_at_once(release: Event) -> None:
    worker = Worker(5, threads=2)
    busy = Event()
    for _ in range(2):
        await abandon(worker, "GPU-a", busy)
    made = 0

    def work(hop: Hop) -> None:
        nonlocal made
        made += 1
        hop.uuid = "GPU-b"
        release.wait(10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(let_go_after, busy, 0.75 * STARVED)
        with pytest.raises(DriverTimeout, match="may still hang in the driver"):
            await worker.run("probing", work, STARVED)
    assert made == 1
    assert worker.stuck_on() == {"GPU-b": "probing"}


async def test_a_long_hop_is_not_made_again_for_longer_than_a_watchdog_bears(
    release: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mortalgpu.driver.worker.AGAIN_WITHIN_SECONDS", 1.5 * STARVED)
    worker = Worker(5, threads=1)
    await abandon(worker, "GPU-a", release)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(let_go_after, release, 2.5 * STARVED)
        with pytest.raises(DriverTimeout):
            await worker.run("reading", lambda _: 0, STARVED)


async def test_a_cancelled_hop_that_is_still_there_when_its_time_is_over_hangs(release: Event) -> None:
    worker = Worker(1)

    def work(hop: Hop) -> None:
        hop.uuid = "GPU-a"
        release.wait(10)

    with trio.move_on_after(SHORT):
        await worker.run("reading", work, 2 * SHORT)
    with trio.fail_after(2):
        while worker.stuck_on() != {"GPU-a": "reading"}:
            await trio.sleep(0.005)
    with pytest.raises(DriverLost, match="1 earlier driver calls have not returned"):
        await worker.run("adding", lambda _: 2, 1)
    release.set()
    await until_none_hangs(worker)
    assert await worker.run("adding", lambda _: 2, 1) == 2


async def test_a_cancelled_hop_gives_way_at_once_and_is_not_counted_as_hanging(release: Event) -> None:
    worker = Worker(2)

    with trio.move_on_after(SHORT) as scope:
        await worker.run("reading", lambda _: release.wait(10), 5)
    assert scope.cancelled_caught
    assert worker.abandoned_calls == 0


async def test_draining_waits_for_the_threads_inside_and_lets_none_in_again(release: Event) -> None:
    worker = Worker(2)
    await abandon(worker, "GPU-a", release)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.drain)
        await trio.sleep(SHORT)
        assert worker.abandoned_calls == 1
        release.set()
    assert worker.abandoned_calls == 0
    with pytest.raises(DriverLost, match="the driver was closed"):
        await worker.run("adding", lambda _: 2, SHORT)


async def test_long_work_is_told_that_nobody_waits_any_more() -> None:
    worker = Worker(2)
    ended = Event()

    def work(hop: Hop) -> None:
        while not hop.given_up.is_set():
            ended.wait(0.005)
        ended.set()

    with trio.move_on_after(SHORT):
        await worker.run("waiting", work, 5)
    assert await trio.to_thread.run_sync(ended.wait, 2)
