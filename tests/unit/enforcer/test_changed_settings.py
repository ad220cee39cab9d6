"""Enforcement whose settings change while it runs."""

import math

import pytest
import trio
import trio.testing

from mortalgpu.enforcer.service import EnforcerSettings
from mortalgpu.host.base import ProcessHandle
from mortalgpu.latest import Latest
from mortalgpu.simulation.host import Temper
from tests.unit.scan.node import Node, enforcing, looks


async def test_enforcement_that_is_off_stops_nobody_until_it_is_on(autojump_clock: trio.testing.MockClock) -> None:
    node, settings = Node(), Latest(EnforcerSettings(enabled=False))
    process = node.run(node.add_pod(1, 2), 250)
    async with enforcing(node, settings):
        await trio.sleep(60)
        assert (node.killed, node.outcomes) == ([], {})
        settings.publish(EnforcerSettings())
        await trio.sleep(10)
        assert node.killed == [process.pid]


@pytest.mark.parametrize("settings", [EnforcerSettings(enabled=False), EnforcerSettings(dry_run=True)])
async def test_enforcement_that_is_switched_off_stops_nobody_from_then_on(
    autojump_clock: trio.testing.MockClock, settings: EnforcerSettings
) -> None:
    node, cell = Node(), Latest(EnforcerSettings())
    first, second = node.run(node.add_pod(1, 2), 250), node.run(node.add_pod(2, 2, first=2), 50)
    async with enforcing(node, cell):
        await looks(5)
        assert node.killed == [first.pid]
        cell.publish(settings)
        node.hold(second.pid, 250)
        await trio.sleep(60)
        assert node.killed == [first.pid]


async def test_an_order_under_way_keeps_the_grace_it_began_with(autojump_clock: trio.testing.MockClock) -> None:
    node, cell = Node(), Latest(EnforcerSettings(grace_seconds=5))
    stubborn = node.run(node.add_pod(1, 2), 250, temper=Temper(term_seconds=math.inf))
    async with enforcing(node, cell):
        await looks(5)
        cell.publish(EnforcerSettings(grace_seconds=0))
        assert node.host.running(stubborn.pid)
        await trio.sleep(10)
        assert not node.host.running(stubborn.pid)


async def test_a_grace_that_comes_into_force_while_the_victim_is_held_is_for_the_next_order(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, cell = Node(), Latest(EnforcerSettings())
    stubborn = node.run(node.add_pod(1, 2), 250, temper=Temper(term_seconds=math.inf))
    hold = node.host.open

    async def change_meanwhile(pid: int) -> ProcessHandle | None:
        cell.publish(EnforcerSettings(grace_seconds=60))
        return await hold(pid)

    monkeypatch.setattr(node.host, "open", change_meanwhile)
    async with enforcing(node, cell):
        await looks(5)
        assert not node.host.running(stubborn.pid)
        assert node.outcomes == {"killed": 1}
