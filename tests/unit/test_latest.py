"""The newest value of one fact: readers may miss what lies between, never the last."""

import trio
from trio.testing import MockClock

from mortalgpu.latest import Latest


async def test_a_reader_sees_the_current_value_and_then_the_newest_after_each_change() -> None:
    cell, seen = Latest(0), list[int]()
    async for value in cell.changes():
        seen.append(value)
        if value == 3:
            break
        cell.publish(value + 1)
        if value == 1:
            cell.publish(3)
    assert seen == [0, 1, 3]


async def test_a_value_published_between_looking_and_waiting_is_not_missed() -> None:
    cell = Latest("old")
    seen = cell.version
    cell.publish("new")
    with trio.fail_after(1):
        assert await cell.wait_beyond(seen) == "new"


async def test_every_waiting_reader_is_woken(autojump_clock: MockClock) -> None:
    cell, woken = Latest(0), list[int]()

    async def read() -> None:
        woken.append(await cell.wait_beyond(0))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(read)
        await trio.sleep(1)
        assert woken == []
        cell.publish(7)
    assert woken == [7] * 5


async def test_an_equal_value_is_a_new_one(autojump_clock: MockClock) -> None:
    cell = Latest(1)
    cell.publish(1)
    assert cell.version == 1
    with trio.fail_after(1):
        await cell.wait_beyond(0)


async def test_waiting_can_be_cancelled(autojump_clock: MockClock) -> None:
    cell = Latest(1)
    with trio.move_on_after(1) as scope:
        await cell.wait_beyond(cell.version)
    assert scope.cancelled_caught
