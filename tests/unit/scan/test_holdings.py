"""Which shares may still be held: every witness counts, and silence is not an answer."""

import threading
from collections.abc import Mapping

import pytest
import trio

from mortalgpu.errors import KubeletError
from mortalgpu.kubelet.base import CheckpointEntry
from mortalgpu.model.grant import Grant
from mortalgpu.model.pod import Assignment
from mortalgpu.scan.holdings import ASK_SECONDS, FRESH_SECONDS, Holdings
from mortalgpu.sharing.layout import Held
from tests.unit.scan.node import ScriptedKubelet

R = "mortalgpu/a"


class Books:
    """Both of kubelet's books; `checkpoint` None is one that cannot be read."""

    def __init__(self) -> None:
        self.kubelet = ScriptedKubelet()
        self.checkpoint: tuple[CheckpointEntry, ...] | None = ()
        self.holdings = Holdings(self.kubelet, self._read, trio.current_time)

    def _read(self) -> tuple[CheckpointEntry, ...]:
        if self.checkpoint is None:
            raise KubeletError("unreadable")
        return self.checkpoint

    async def held(self) -> Mapping[str, Held] | None:
        """Return what is held."""
        return (await self.holdings.held())[0]


def grant(*ids: str) -> Grant:
    """Return a grant of these ids."""
    return Grant(R, ids, {}, {})


async def test_every_witness_is_believed() -> None:
    books = Books()
    books.kubelet.books = (Assignment("p", "n", "c", {R: ("GPU-1::0", "GPU-1::1")}),)
    books.checkpoint = (CheckpointEntry(R, ("GPU-1::7", "GPU-2::0"), ""),)
    books.holdings.granted(grant("GPU-3::5"))
    assert await books.held() == {"GPU-1": Held(R, 3, 7), "GPU-2": Held(R, 1, 0), "GPU-3": Held(R, 1, 5)}


async def test_nothing_held_is_not_nobody_asked() -> None:
    books = Books()
    assert await books.held() == {}
    books.checkpoint, books.kubelet.down = None, True
    assert await books.held() is None


@pytest.mark.parametrize("silent", ["checkpoint", "kubelet"])
async def test_one_witness_is_enough(silent: str) -> None:
    books = Books()
    books.kubelet.books = (Assignment("p", "n", "c", {R: ("GPU-1::0",)}),)
    books.checkpoint = (CheckpointEntry(R, ("GPU-1::0",), ""),)
    if silent == "checkpoint":
        books.checkpoint = None
    else:
        books.kubelet.down = True
    assert await books.held() == {"GPU-1": Held(R, 1, 0)}


async def test_a_kubelet_that_hangs_is_waited_for_and_then_left_out(autojump_clock: trio.testing.MockClock) -> None:
    books = Books()
    books.kubelet.hanging = True
    books.checkpoint = (CheckpointEntry(R, ("GPU-1::0",), ""),)
    begun = trio.current_time()
    assert await books.held() == {"GPU-1": Held(R, 1, 0)}
    assert trio.current_time() - begun >= ASK_SECONDS


async def test_a_grant_counts_until_kubelet_has_had_time_to_book_it(autojump_clock: trio.testing.MockClock) -> None:
    books = Books()
    books.holdings.granted(grant("GPU-1::0"))
    assert "GPU-1" in (await books.held() or {})
    await trio.sleep(FRESH_SECONDS)
    books.holdings.granted(grant("GPU-2::0"))
    assert await books.held() == {"GPU-2": Held(R, 1, 0)}


async def test_a_grant_made_while_a_silent_kubelet_was_asked_counts(autojump_clock: trio.testing.MockClock) -> None:
    books = Books()
    books.kubelet.hanging = True
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _grant_meanwhile() -> None:
            while not books.kubelet.readings:
                await trio.sleep(0.01)
            books.holdings.granted(grant("GPU-1::0"))

        assert await books.held() == {"GPU-1": Held(R, 1, 0)}


async def test_what_containers_were_told_is_the_total_they_agree_on() -> None:
    books = Books()
    books.checkpoint = (
        CheckpointEntry(R, ("GPU-1::0",), "GPU-1=1/400"),
        CheckpointEntry(R, ("GPU-2::0",), "not ours"),
        CheckpointEntry(R, ("GPU-3::0",), ""),
    )
    assert (await books.holdings.held())[1] == {"GPU-1": 400}


async def test_asking_can_be_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    books = Books()
    books.kubelet.hanging = True
    with trio.move_on_after(1) as scope:
        await books.holdings.held()
    assert scope.cancelled_caught


async def test_who_asks_can_be_cancelled_while_a_disk_hangs() -> None:
    released = threading.Event()

    def read_checkpoint() -> tuple[CheckpointEntry, ...]:
        released.wait(30)
        return ()

    holdings = Holdings(ScriptedKubelet(), read_checkpoint, trio.current_time)
    began = trio.current_time()
    try:
        with trio.move_on_after(0.05):
            await holdings.held()
        assert trio.current_time() - began < 10
    finally:
        released.set()
