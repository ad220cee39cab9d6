"""Services that crash: what is restarted, how often, and what is not."""

import pytest
import trio
from trio.testing import MockClock

from mortalgpu.errors import HostError, ServiceFailed
from mortalgpu.supervise import Budget, restartable


class Crasher:
    """Starts, lives a second, and crashes, so many times; `before` makes it crash before it has started."""

    def __init__(self, crashes: int, *, before: bool = False, lives_seconds: float = 1.0) -> None:
        self.crashes, self.before, self.lives_seconds = crashes, before, lives_seconds
        self.began: list[float] = []

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self.began.append(trio.current_time())
        if not self.before:
            task_status.started()
        await trio.sleep(self.lives_seconds)
        if len(self.began) <= self.crashes:
            raise ValueError("crash")
        await trio.sleep_forever()


async def test_a_crash_after_the_first_start_is_followed_by_a_restart(autojump_clock: MockClock) -> None:
    crasher, told = Crasher(2), list[str]()
    async with trio.open_nursery() as nursery:
        await nursery.start(restartable("exporter", crasher.serve, Budget(), told.append))
        await trio.sleep(60)
        assert len(crasher.began) == 3
        assert told == ["exporter", "exporter"]
        nursery.cancel_scope.cancel()


async def test_a_crash_before_the_first_start_is_seen_at_once(autojump_clock: MockClock) -> None:
    crasher = Crasher(1, before=True)
    async with trio.open_nursery() as nursery:
        with pytest.raises(ValueError, match="crash"):
            await nursery.start(restartable("exporter", crasher.serve, Budget()))
    assert len(crasher.began) == 1


async def test_the_machines_trouble_is_told_in_its_words_and_a_bug_with_a_traceback(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    troubles: list[Exception] = [ExceptionGroup("", [HostError("no room"), HostError("no room")]), ValueError("a bug")]

    async def serve(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        if troubles:
            raise troubles.pop(0)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        await nursery.start(restartable("device API", serve, Budget()))
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    first, second = caplog.records
    assert first.getMessage() == second.getMessage() == "service crashed; starting it again"
    assert (first.__dict__["error"], first.exc_info) == ("no room", None)
    assert second.exc_info is not None


async def test_a_spent_budget_ends_it_with_the_last_crash_as_the_cause(autojump_clock: MockClock) -> None:
    crasher = Crasher(100, lives_seconds=0)
    with pytest.RaisesGroup(pytest.RaisesExc(ServiceFailed, match="exporter crashed 3 times")) as caught:
        async with trio.open_nursery() as nursery:
            await nursery.start(restartable("exporter", crasher.serve, Budget(restarts=3)))
    assert isinstance(caught.value.exceptions[0].__cause__, ValueError)
    assert len(crasher.began) == 4


async def test_pauses_double_up_to_a_bound(autojump_clock: MockClock) -> None:
    crasher = Crasher(8, lives_seconds=0)
    async with trio.open_nursery() as nursery:
        budget = Budget(restarts=9, first_pause_seconds=1, longest_pause_seconds=8)
        await nursery.start(restartable("exporter", crasher.serve, budget))
        await trio.sleep(100)
        nursery.cancel_scope.cancel()
    pauses = [later - earlier for earlier, later in zip(crasher.began, crasher.began[1:], strict=False)]
    assert pauses == [1, 2, 4, 8, 8, 8, 8, 8]


def test_old_restarts_are_forgiven() -> None:
    budget = Budget(restarts=2, per_seconds=10, first_pause_seconds=1)
    assert [budget.pause_seconds(now) for now in (0, 1, 2)] == [1, 2, None]
    assert budget.pause_seconds(10.5) == 2
    assert budget.pause_seconds(100) == 1


async def test_cancelling_ends_a_service_and_its_pause(autojump_clock: MockClock) -> None:
    crasher = Crasher(1, lives_seconds=0)
    with trio.move_on_after(5) as scope:
        await restartable("exporter", crasher.serve, Budget(first_pause_seconds=60, longest_pause_seconds=60))(
            task_status=trio.TASK_STATUS_IGNORED
        )
    assert scope.cancelled_caught
    assert len(crasher.began) == 1


async def test_a_service_that_ends_by_itself_is_not_restarted(autojump_clock: MockClock) -> None:
    calls = list[int]()

    async def once(*, task_status: trio.TaskStatus[None]) -> None:
        calls.append(1)
        task_status.started()
        await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        await nursery.start(restartable("once", once, Budget()))
    assert calls == [1]
