"""The scanner on a calm node, where the driver looks by itself: how much it rests, and that it misses nothing."""

from collections.abc import Mapping
from typing import Any

import pytest
import trio
import trio.testing

from mortalgpu.errors import DriverError
from mortalgpu.model.device import Fault, Memory
from mortalgpu.model.share import Inventory
from tests.unit.scan.making import shared
from tests.unit.scan.node import Node, looks, scanning


async def test_the_loop_rests_while_the_driver_watches_a_calm_node(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node()
    node.run(node.add_pod(1, 2), 50)
    watch, watches = node.driver.watch_memory, 0

    async def counted(*asked: Any) -> tuple[Mapping[str, Memory | Fault], int]:
        nonlocal watches
        watches += 1
        return await watch(*asked)

    monkeypatch.setattr(node.driver, "watch_memory", counted)
    async with scanning(node):
        await trio.sleep(60)
    assert 540 <= node.usage.value.counts.looks <= 600, "published with each scan"
    assert 110 <= watches <= 150


async def test_a_watch_that_fails_costs_no_look(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    process = node.run(node.add_pod(1, 2), 50)
    async with scanning(node):
        await looks(5)
        node.driver.fail("watch_memory", DriverError("not today"))
        await looks(20)
        node.hold(process.pid, 250)
        await looks(1.5)
        assert node.container(1).devices[0].over_limit
        assert node.usage.value.troubles == ()


async def test_a_device_that_comes_as_a_watch_ends_is_looked_at_too(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(shared("GPU-a"))
    watch = node.driver.watch_memory
    both = Inventory((shared("GPU-a"), shared("GPU-b", index=1)))

    async def watched(*asked: Any) -> tuple[Mapping[str, Memory | Fault], int]:
        seen = await watch(*asked)
        if node.inventory.value is not both:
            node.driver.add(both.devices[1].device)
            node.inventory.publish(both)
        return seen

    monkeypatch.setattr(node.driver, "watch_memory", watched)
    async with scanning(node):
        await looks(20)
        assert [isinstance(device.memory, Memory) for device in node.usage.value.devices] == [True, True]
