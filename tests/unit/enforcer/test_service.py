"""The enforcer service: the kill, what can come between, and the news of it."""

import logging
import math

import pytest
import trio
import trio.testing

from mortalgpu.enforcer.service import EnforcerSettings, Hands, serve
from mortalgpu.simulation.host import Temper
from mortalgpu.units import MIB
from tests.unit.scan.making import RESOURCE, pod
from tests.unit.scan.node import Node, enforcing, looks, names


async def test_a_container_over_its_limit_is_stopped_within_two_looks(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    mine, neighbour = node.run(node.add_pod(1, 2), 50), node.run(node.add_pod(2, 2, first=2), 150)
    async with enforcing(node):
        await looks(5)
        node.hold(mine.pid, 250)
        await looks(2)
        assert node.killed == [mine.pid]
        await trio.sleep(20)
        assert node.killed == [mine.pid]
        assert node.host.running(neighbour.pid)


async def test_the_owner_the_log_and_the_figures_tell_why(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    node = Node()
    node.run(node.add_pod(1, 2), 250)
    async with enforcing(node):
        await trio.sleep(1)
    assert names(node.cluster.notes) == [("pod-1", "GpuMemoryLimitExceeded")]
    told, note = node.cluster.notes[0]
    assert told is not None
    assert told.api_uid
    assert "250 MiB" in note.message
    assert "limit of 200 MiB" in note.message
    (record,) = node.enforcement.value.history
    assert (record.outcome, record.used_bytes, record.limit_bytes) == ("killed", 250 * MIB, 200 * MIB)
    assert record.reaction_seconds is not None
    assert record.reaction_seconds < 0.2
    assert sum(node.enforcement.value.reaction_buckets) == 1
    (target,) = node.enforcement.value.kills
    assert (target.pod_name, target.resource) == ("pod-1", RESOURCE)
    (line,) = [line for line in caplog.records if line.getMessage() == "container over its limit"]
    assert line.levelno == logging.WARNING


async def test_a_victim_of_its_first_moment_is_told_by_its_command(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    container = node.add_pod(1, 2)
    async with enforcing(node):
        await trio.sleep(5)
        node.run(container, 250)
        await looks(3)
    (record,) = node.enforcement.value.history
    assert (record.command, record.user) != ("", "")
    assert f"({record.command})" in record.message


async def test_a_victim_that_cannot_be_described_is_stopped_all_the_same(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    container = node.add_pod(1, 2)

    async def hang(processes: object) -> object:
        await trio.sleep_forever()
        raise AssertionError("unreachable")

    node.host.describe = hang  # type: ignore[assignment,method-assign]
    async with enforcing(node):
        await trio.sleep(5)
        process = node.run(container, 250)
        await looks(3)
        assert node.killed == [process.pid]
    (record,) = node.enforcement.value.history
    assert record.command == ""


async def test_a_pod_that_left_the_view_is_told_by_its_names(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    process = node.run(node.add_pod(1, 2), 50)
    async with enforcing(node):
        await trio.sleep(1)
        node.show()
        node.hold(process.pid, 250)
        await looks(3)
        assert node.killed == [process.pid]
        assert names(node.cluster.notes) == [("pod-1", "GpuMemoryLimitExceeded")]


async def test_a_container_that_stays_over_loses_one_process_after_the_other(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    container = node.add_pod(1, 2)
    processes = [node.run(container, mib) for mib in (90, 80, 70, 60, 50)]
    async with enforcing(node):
        await looks(10)
        assert node.killed == [processes[0].pid, processes[1].pid]


async def test_memory_that_drains_slowly_condemns_nobody_else(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    container = node.add_pod(1, 2)
    big = node.run(container, 250, temper=Temper(kill_seconds=2.0))
    small = node.run(container, 50)
    async with enforcing(node):
        await trio.sleep(10)
        assert node.killed == [big.pid]
        assert node.host.running(small.pid)
        assert node.outcomes == {"killed": 1}


async def test_memory_that_is_still_listed_after_the_death_condemns_nobody_else(
    autojump_clock: trio.testing.MockClock,
) -> None:
    node = Node()
    node.lingering = 3.0
    container = node.add_pod(1, 2)
    node.run(container, 250)
    small = node.run(container, 50)
    async with enforcing(node):
        for _ in range(80):
            await looks(1)
            node.freed()
        assert node.host.running(small.pid)
        assert node.outcomes == {"killed": 1}


async def test_a_process_that_does_not_die_is_signalled_once_and_reported(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    container = node.add_pod(1, 2)
    stuck = node.run(container, 250, temper=Temper(kill_seconds=math.inf))
    small = node.run(container, 50)
    async with enforcing(node):
        await trio.sleep(120)
        assert node.killed == [stuck.pid]
        assert node.host.running(small.pid)
        assert names(node.cluster.notes) == [("pod-1", "GpuProcessCannotBeStopped")]
        node.hold(small.pid, 250)
        await looks(3)
        assert node.killed == [stuck.pid, small.pid]


async def test_a_grace_time_gives_the_process_a_chance_to_end(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    polite = node.run(node.add_pod(1, 2), 250, temper=Temper(term_seconds=1.0))
    async with enforcing(node, EnforcerSettings(grace_seconds=3.0)):
        await trio.sleep(10)
    assert [(signal.process.pid, signal.name) for signal in node.host.signals] == [(polite.pid, "SIGTERM")]
    assert node.outcomes == {"killed": 1}


async def test_one_that_ignores_the_grace_time_is_ended_after_it(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    node.run(node.add_pod(1, 2), 250, temper=Temper(term_seconds=math.inf))
    async with enforcing(node, EnforcerSettings(grace_seconds=3.0)):
        await trio.sleep(10)
    first, second = node.host.signals
    assert (first.name, second.name) == ("SIGTERM", "SIGKILL")
    assert second.at_seconds - first.at_seconds == pytest.approx(3.0, abs=0.01)


async def test_one_that_comes_back_within_its_limit_in_the_grace_time_lives(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    process = node.run(node.add_pod(1, 2), 250, temper=Temper(term_seconds=math.inf))
    async with enforcing(node, EnforcerSettings(grace_seconds=3.0)):
        await trio.sleep(1)
        node.hold(process.pid, 150)
        await trio.sleep(10)
        assert node.host.running(process.pid)
        assert node.outcomes == {"withdrawn": 1}
        assert node.cluster.notes == []


async def test_a_limit_raised_in_the_grace_time_spares_the_process(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    process = node.run(node.add_pod(1, 2), 250, temper=Temper(term_seconds=math.inf))
    async with enforcing(node, EnforcerSettings(grace_seconds=3.0)):
        await trio.sleep(1)
        node.show(pod(1, annotations={f"gpu-mem-limit.{RESOURCE}": "3"}))
        await trio.sleep(10)
        assert node.host.running(process.pid)


async def test_a_dry_run_reports_and_leaves_everybody_alive(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    process = node.run(node.add_pod(1, 2), 250)
    async with enforcing(node, EnforcerSettings(dry_run=True, report_seconds=300)):
        await trio.sleep(400)
        assert node.host.running(process.pid)
    assert node.killed == []
    assert node.outcomes == {"dry_run": 2}
    assert names(node.cluster.notes) == [("pod-1", "GpuMemoryLimitExceededDryRun")] * 2


async def test_the_history_is_bounded_and_the_figures_of_gone_containers_are_dropped(
    autojump_clock: trio.testing.MockClock,
) -> None:
    node = Node()
    container = node.add_pod(1, 2)
    async with enforcing(node, EnforcerSettings(history=3)):
        for _ in range(5):
            node.run(container, 250)
            await trio.sleep(1)
        assert [found.number for found in node.enforcement.value.history] == [3, 4, 5]
        assert list(node.enforcement.value.kills.values()) == [5]
        node.remove_pod(1)
        await trio.sleep(6)
        assert node.enforcement.value.kills == {}
        assert node.outcomes == {"killed": 5}


@pytest.mark.parametrize("after_seconds", [0.0, 0.05, 0.15, 1.0])
async def test_the_enforcer_can_be_cancelled_at_any_time(after_seconds: float, autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    node.run(node.add_pod(1, 2), 250, temper=Temper(kill_seconds=60))
    async with enforcing(node):
        hands = Hands(node.driver, node.host, node.cluster, node.clock)
        with trio.move_on_after(after_seconds) as scope:
            await serve(hands, node.usage, node.pods, node.enforcement, EnforcerSettings())
    assert scope.cancelled_caught
