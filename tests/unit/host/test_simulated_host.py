"""What only the twin can do: deaths that take time, refusals, numbers used again, clocks that jump."""

from math import inf

import pytest
import trio
from trio.testing import MockClock

from mortalgpu.host.base import HostProcess, KillOutcome
from mortalgpu.model.pod import ContainerRef
from mortalgpu.simulation.host import SimulatedClock, SimulatedHost, Temper

BOX = ContainerRef("1f0c9c4e-6b1c-4a43-9d2b-1c2f3d4e5f60", "a" * 64)
OTHER = ContainerRef("2f0c9c4e-6b1c-4a43-9d2b-1c2f3d4e5f60", "b" * 64)


async def kill(host: SimulatedHost, process: HostProcess, grace_seconds: float = 0.0) -> KillOutcome:
    handle = await host.open(process.pid)
    assert handle is not None
    with handle:
        return await handle.kill(process, grace_seconds=grace_seconds)


async def test_a_death_takes_as_long_as_the_memory_drains(autojump_clock: MockClock) -> None:
    host = SimulatedHost()
    process = host.start(BOX, temper=Temper(kill_seconds=0.7))
    began = trio.current_time()
    assert await kill(host, process) is KillOutcome.KILLED
    assert trio.current_time() - began == pytest.approx(0.7)


async def test_a_stuck_process_is_still_there_after_five_seconds(autojump_clock: MockClock) -> None:
    host = SimulatedHost()
    process = host.start(BOX, temper=Temper(kill_seconds=inf))
    began = trio.current_time()
    assert await kill(host, process) is KillOutcome.STILL_THERE
    assert trio.current_time() - began == pytest.approx(5.0)
    assert host.running(process.pid)


async def test_a_stubborn_process_gets_its_whole_grace(autojump_clock: MockClock) -> None:
    host = SimulatedHost()
    process = host.start(BOX, temper=Temper(term_seconds=inf))
    assert await kill(host, process, grace_seconds=30.0) is KillOutcome.KILLED
    assert [(sent.name, sent.at_seconds) for sent in host.signals] == [("SIGTERM", 0.0), ("SIGKILL", 30.0)]


async def test_a_refused_signal_is_not_recorded_as_sent(autojump_clock: MockClock) -> None:
    host = SimulatedHost()
    process = host.start(BOX, temper=Temper(protected=True))
    assert await kill(host, process) is KillOutcome.NOT_PERMITTED
    assert host.signals == []


async def test_a_reused_number_is_another_process(autojump_clock: MockClock) -> None:
    host = SimulatedHost()
    old = host.start(BOX)
    handle = await host.open(old.pid)
    assert handle is not None
    new = host.reuse(old.pid, BOX)
    assert new.pid == old.pid
    assert new.start_ticks != old.start_ticks
    assert await handle.kill(old) is KillOutcome.ALREADY_GONE
    assert await kill(host, old) is KillOutcome.IDENTITY_CHANGED
    assert host.running(new.pid)


async def test_a_child_inherits_its_parents_container(autojump_clock: MockClock) -> None:
    host = SimulatedHost()
    child = host.fork(host.start(BOX, user="alice").pid)
    assert child.container == BOX
    assert (await host.describe([child]))[child.pid].user == "alice"


async def test_every_end_is_told_once(autojump_clock: MockClock) -> None:
    host = SimulatedHost()
    ended: list[HostProcess] = []
    host.on_exit.append(ended.append)
    killed, stopped, left, late = (host.start(box) for box in (BOX, OTHER, OTHER, None))
    assert await kill(host, killed) is KillOutcome.KILLED
    host.stop_container(OTHER)
    host.exit(late.pid)
    assert ended == [killed, stopped, left, late]
    assert host.processes() == ()


async def test_an_order_cancelled_after_sigterm_sends_no_sigkill(autojump_clock: MockClock) -> None:
    host = SimulatedHost()
    process = host.start(BOX, temper=Temper(term_seconds=20.0))
    with trio.move_on_after(1.0):
        await kill(host, process, grace_seconds=10.0)
    await trio.sleep(10)
    assert host.running(process.pid)
    await trio.sleep(10)
    assert not host.running(process.pid)
    assert [sent.name for sent in host.signals] == ["SIGTERM"]


async def test_a_scenario_that_contradicts_itself_is_refused(autojump_clock: MockClock) -> None:
    host = SimulatedHost()
    process = host.start(BOX)
    with pytest.raises(ValueError, match=f"pid {process.pid} is in use"):
        host.start(BOX, pid=process.pid)
    for act in (host.exit, host.fork, host.reuse, lambda pid: host.move(pid, OTHER)):
        with pytest.raises(ValueError, match="no process has pid 7"):
            act(7)


async def test_a_number_chosen_by_hand_is_passed_over_later(autojump_clock: MockClock) -> None:
    host = SimulatedHost(first_pid=100)
    host.start(BOX, pid=100)
    assert host.start(BOX).pid == 101


async def test_the_wall_clock_jumps_and_the_steady_one_does_not(autojump_clock: MockClock) -> None:
    clock = SimulatedClock(start=1000.0)
    clock.jump(-500.0)
    await trio.sleep(2)
    assert (clock.now(), clock.monotonic()) == (502.0, 2.0)
