"""The contract of the host port, held by the twin and by the real adapter alike."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import trio

from mortalgpu.host.base import HostProcess, KillOutcome, ServiceManager, StillWanted, WallClock
from mortalgpu.host.clock import MachineClock
from mortalgpu.host.systemd import Systemd, Unwatched
from mortalgpu.simulation.host import RecordingServiceManager, SimulatedClock
from tests.contract.host_rigs import Rig, rig

__all__ = ["rig"]


async def look(rig: Rig, pid: int) -> HostProcess:
    return (await rig.table.inspect([pid]))[pid]


async def kill(
    rig: Rig, expected: HostProcess, grace_seconds: float = 0.0, still_wanted: StillWanted | None = None
) -> KillOutcome:
    handle = await rig.table.open(expected.pid)
    assert handle is not None
    with handle, trio.fail_after(30):
        return await handle.kill(expected, grace_seconds=grace_seconds, still_wanted=still_wanted)


def answering(answer: bool, before: Callable[[], None] = lambda: None) -> StillWanted:
    async def still_wanted() -> bool:
        await trio.lowlevel.checkpoint()
        before()
        return answer

    return still_wanted


async def test_processes_are_told_by_pid_and_the_gone_are_left_out(rig: Rig) -> None:
    ours, theirs = rig.container(), rig.container()
    pids = [rig.start(ours), rig.start(ours), rig.start(theirs), rig.start(None)]
    rig.end(pids[1])
    found = await rig.table.inspect([*pids, 2**31 - 1])
    assert {pid: process.container for pid, process in found.items()} == {pids[0]: ours, pids[2]: theirs, pids[3]: None}
    assert all(process.pid == pid for pid, process in found.items())


async def test_an_undisturbed_process_stays_equal_to_itself(rig: Rig) -> None:
    pid = rig.start(rig.container())
    assert await look(rig, pid) == await look(rig, pid)


async def test_a_move_changes_the_container_and_nothing_else(rig: Rig) -> None:
    pid, other = rig.start(rig.container()), rig.container()
    before = await look(rig, pid)
    rig.move(pid, other)
    assert await look(rig, pid) == replace(before, container=other)


async def test_a_process_is_described_as_long_as_it_is_the_one_meant(rig: Rig) -> None:
    kept, ended = rig.start(rig.container()), rig.start(rig.container())
    found = await rig.table.inspect([kept, ended])
    rig.end(ended)
    stranger = replace(found[kept], start_ticks=found[kept].start_ticks + 1)
    details = await rig.table.describe([found[kept], found[ended]])
    assert set(details) == {kept}
    assert details[kept].command == "sleep 60"
    assert details[kept].pid_inside > 0
    assert await rig.table.describe([stranger]) == {}


async def test_asking_about_nobody_is_no_error(rig: Rig) -> None:
    assert await rig.table.inspect([]) == {}
    assert await rig.table.describe([]) == {}


async def test_opening_what_is_not_there_gives_nothing(rig: Rig) -> None:
    pid = rig.start(rig.container())
    rig.end(pid)
    for absent in (pid, 0, -1, 2**31 - 1):
        assert await rig.table.open(absent) is None


async def test_a_handle_tells_the_identity_that_a_scan_tells(rig: Rig) -> None:
    pid = rig.start(rig.container())
    handle = await rig.table.open(pid)
    assert handle is not None
    with handle:
        assert handle.process == await look(rig, pid)


async def test_the_condemned_dies_by_sigkill_and_its_siblings_live(rig: Rig) -> None:
    box = rig.container()
    victim, sibling = rig.start(box), rig.start(box)
    assert await kill(rig, await look(rig, victim)) is KillOutcome.KILLED
    assert rig.fate(victim) == "SIGKILL"
    assert set(await rig.table.inspect([victim, sibling])) == {sibling}


async def test_with_grace_sigterm_comes_first(rig: Rig) -> None:
    pid = rig.start(rig.container())
    assert await kill(rig, await look(rig, pid), grace_seconds=20) is KillOutcome.KILLED
    assert rig.fate(pid) == "SIGTERM"


async def test_after_the_grace_the_stubborn_are_forced(rig: Rig) -> None:
    pid = rig.start(rig.container(), stubborn=True)
    assert await kill(rig, await look(rig, pid), grace_seconds=0.05) is KillOutcome.KILLED
    assert rig.fate(pid) == "SIGKILL"


async def test_the_question_is_asked_before_each_signal(rig: Rig) -> None:
    pid, asked = rig.start(rig.container(), stubborn=True), []
    wanted = answering(True, lambda: asked.append(1))
    assert await kill(rig, await look(rig, pid), grace_seconds=0.05, still_wanted=wanted) is KillOutcome.KILLED
    assert len(asked) == 2


async def test_a_withdrawn_order_spares_the_process(rig: Rig) -> None:
    pid = rig.start(rig.container())
    condemned = await look(rig, pid)
    for grace_seconds in (0.0, 5.0):
        assert await kill(rig, condemned, grace_seconds, answering(False)) is KillOutcome.WITHDRAWN
    assert rig.fate(pid) is None


async def test_an_order_withdrawn_during_the_grace_sends_nothing_stronger(rig: Rig) -> None:
    pid, answers = rig.start(rig.container(), stubborn=True), [True, False]

    async def once() -> bool:
        return answers.pop(0)

    assert await kill(rig, await look(rig, pid), grace_seconds=0.05, still_wanted=once) is KillOutcome.WITHDRAWN
    assert rig.fate(pid) is None


async def test_a_question_that_fails_spares_the_process_and_is_heard(rig: Rig) -> None:
    pid = rig.start(rig.container())

    async def failing() -> bool:
        raise RuntimeError("the driver is gone")

    with pytest.raises(RuntimeError, match="the driver is gone"):
        await kill(rig, await look(rig, pid), still_wanted=failing)
    assert rig.fate(pid) is None


async def test_a_question_that_never_ends_can_be_cancelled_and_spares_the_process(rig: Rig) -> None:
    pid = rig.start(rig.container())
    condemned = await look(rig, pid)

    async def thinking() -> bool:
        return await trio.sleep_forever()

    with trio.move_on_after(0.05) as patience:
        await kill(rig, condemned, still_wanted=thinking)
    assert patience.cancelled_caught
    assert rig.fate(pid) is None


async def test_an_order_cancelled_during_the_grace_sends_nothing_stronger(rig: Rig) -> None:
    pid = rig.start(rig.container(), stubborn=True)
    condemned = await look(rig, pid)
    with trio.move_on_after(0.1) as patience:
        await kill(rig, condemned, grace_seconds=20)
    assert patience.cancelled_caught
    assert rig.fate(pid) is None


async def test_a_process_that_ends_before_the_signal_was_already_gone(rig: Rig) -> None:
    pid = rig.start(rig.container())
    condemned = await look(rig, pid)
    assert await kill(rig, condemned, still_wanted=answering(True, lambda: rig.end(pid))) is KillOutcome.ALREADY_GONE


async def test_a_process_moved_before_or_after_opening_is_spared(rig: Rig) -> None:
    first, second, other = rig.start(rig.container()), rig.start(rig.container()), rig.container()
    condemned = await rig.table.inspect([first, second])
    rig.move(first, other)
    moving = answering(True, lambda: rig.move(second, other))
    assert await kill(rig, condemned[first]) is KillOutcome.IDENTITY_CHANGED
    assert await kill(rig, condemned[second], still_wanted=moving) is KillOutcome.IDENTITY_CHANGED
    assert (rig.fate(first), rig.fate(second)) == (None, None)


@pytest.mark.parametrize("shift", [-1, 1])
async def test_another_holder_of_the_number_is_spared(rig: Rig, shift: int) -> None:
    pid = rig.start(rig.container())
    now = await look(rig, pid)
    judged = replace(now, start_ticks=now.start_ticks + shift)
    assert await kill(rig, judged) is KillOutcome.IDENTITY_CHANGED
    assert rig.fate(pid) is None


async def test_a_process_of_the_host_is_spared_even_when_asked_for_by_its_right_name(rig: Rig) -> None:
    pid = rig.start(None)
    assert await kill(rig, await look(rig, pid), grace_seconds=1.0) is KillOutcome.IDENTITY_CHANGED
    assert rig.fate(pid) is None


async def test_a_handle_on_one_process_does_not_kill_another(rig: Rig) -> None:
    box = rig.container()
    held, meant = rig.start(box), rig.start(box)
    handle = await rig.table.open(held)
    assert handle is not None
    with handle:
        assert await handle.kill(await look(rig, meant)) is KillOutcome.IDENTITY_CHANGED
    assert (rig.fate(held), rig.fate(meant)) == (None, None)


async def test_a_closed_handle_kills_nobody(rig: Rig) -> None:
    pid = rig.start(rig.container())
    handle = await rig.table.open(pid)
    assert handle is not None
    handle.close()
    handle.close()
    with pytest.raises(trio.ClosedResourceError):
        await handle.kill(handle.process)
    assert rig.fate(pid) is None


@pytest.mark.parametrize("clock", [MachineClock(), SimulatedClock()], ids=["real", "twin"])
async def test_time_passes_on_both_clocks(clock: WallClock) -> None:
    wall, steady = clock.now(), clock.monotonic()
    await trio.sleep(0.02)
    assert clock.monotonic() - steady >= 0.019
    assert clock.now() > wall
    assert wall > 1_600_000_000


@pytest.mark.parametrize(
    "manager",
    [Unwatched(), Systemd(b"/nonexistent/notify"), RecordingServiceManager()],
    ids=["unwatched", "nobody listens", "twin"],
)
async def test_no_service_manager_raises_or_holds_us_up(manager: ServiceManager) -> None:
    with trio.fail_after(10):
        await manager.ready("4 GPUs")
        await manager.alive()
        await manager.stopping("asked to")
