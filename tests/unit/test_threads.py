"""Worker threads where none can be started: taken in turns, waited for, and given up with an error that says so."""

import math
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from mortalgpu import threads, wiring
from mortalgpu.allocator.program import run_program
from mortalgpu.cluster import session
from mortalgpu.cluster.access import ApiAccess, read_token
from mortalgpu.cluster.session import ApiPace, open_session
from mortalgpu.config import Config
from mortalgpu.errors import ClusterError, HostError
from mortalgpu.exporter import http
from mortalgpu.host.clock import MachineClock
from mortalgpu.latest import Latest
from mortalgpu.model.counts import ReloadCounts
from mortalgpu.reload import Reloader


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


# Whoever works in threads: want of one is told in words of ours, or done without.


async def test_a_program_that_no_thread_can_start_is_told_as_one_that_cannot_be_started(
    kernel: Kernel, autojump_clock: trio.testing.MockClock
) -> None:
    with pytest.raises(OSError, match="no thread can be started"):
        await run_program(["/bin/true"], b"", {})


async def test_an_api_that_cannot_be_asked_for_want_of_a_thread_is_one_that_does_not_answer(
    kernel: Kernel, autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    here = ApiAccess("https://api.example.com", None, tmp_path / "token")
    with pytest.raises(ClusterError, match="no thread can be started"):
        await read_token(here)
    with pytest.raises(ClusterError, match="no thread can be started"):
        async with open_session(here, ApiPace()):
            pass
    with pytest.raises(ClusterError, match="can't start new thread"), session._translated(here):
        await trio.to_thread.run_sync(divmod, 7, 2)  # As the resolver of names does.
    with pytest.raises(RuntimeError, match="mine"), session._translated(here):
        raise RuntimeError("mine")


async def test_a_configuration_that_no_thread_reads_stays_as_it_was(
    kernel: Kernel, autojump_clock: trio.testing.MockClock
) -> None:
    in_force, counts = Latest(Config()), ReloadCounts()
    reloader = Reloader(Config, _never, in_force, counts, MachineClock())
    assert not await reloader.reload()
    assert (counts.outcomes, in_force.version) == ({"refused": 1}, 0)
    kernel.refuses = False
    assert await reloader.reload()


async def test_old_versions_of_mgctl_wait_for_a_thread(
    kernel: Kernel, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    with trio.move_on_after(60):
        await wiring.keep_mgctl_tidy(Config())
    assert "old versions of mgctl are kept" in [record.message for record in caplog.records]


async def test_a_page_that_no_thread_packs_is_sent_as_it_is(kernel: Kernel, autojump_clock: trio.testing.MockClock) -> None:
    page = b"mortalgpu " * 100_000

    async def show(_: http.Request) -> http.Answer:
        return http.Answer(page)

    client, server = trio.testing.memory_stream_pair()
    await client.send_all(b"GET / HTTP/1.1\r\nHost: here\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n")
    await http.HttpServer({"/": show}).serve_connection(server)
    await server.aclose()
    answer = b"".join([part async for part in client])
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(page)


async def _never(_: Config) -> None:
    raise AssertionError("there was nothing to take")
