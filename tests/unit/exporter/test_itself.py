"""What the daemon says of itself."""

import trio
import trio.testing

from mortalgpu.exporter import itself
from mortalgpu.exporter.names import TASKS


def tasks() -> int:
    (found,) = [each for each in itself.collect({}, ready=True) if each.metric is TASKS]
    ((_, count),) = found.rows
    assert isinstance(count, int)
    return count


async def test_its_tasks_are_counted_and_those_that_ended_are_not() -> None:
    before = tasks()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(trio.sleep_forever)
        await trio.testing.wait_all_tasks_blocked()
        assert tasks() == before + 3
        nursery.cancel_scope.cancel()
    assert tasks() == before
