"""Devices that come, go, fail and return. All in virtual time."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from mortalgpu.errors import ConfigError, DriverError, DriverTimeout
from mortalgpu.model.device import Device, Fault, HealthEvent
from mortalgpu.scan.discovery import Discovery, merged
from mortalgpu.sharing.layout import Held, LayoutEntry
from mortalgpu.sharing.rules import ShareRule
from mortalgpu.simulation.driver import A100_UUID, v100_uuid, worked_example
from mortalgpu.simulation.host import SimulatedClock
from tests.unit.scan.discovered import PARTS, V100, Node, R, node_without_threads, until_sick


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return node_without_threads(tmp_path, monkeypatch)


async def test_the_first_inventory_is_published_before_anybody_goes_on(node: Node, autojump_clock: MockClock) -> None:
    async with node.running():
        assert node.shares() == {V100: 10, **dict.fromkeys(PARTS, 10)}
        assert node.sick() == set()


async def test_a_lost_gpu_takes_its_shares_along_within_a_second_and_brings_them_back(
    node: Node, autojump_clock: MockClock
) -> None:
    async with node.running():
        node.driver.lose(V100)
        await until_sick(node, {V100}, 1)
        assert len(node.inventory.devices) == 5
        await trio.sleep(60)
        assert node.sick() == {V100}
        node.driver.restore(V100)
        await until_sick(node, set(), 2)


async def test_a_lost_gpu_takes_all_its_partitions_along(node: Node, autojump_clock: MockClock) -> None:
    async with node.running():
        node.driver.lose(A100_UUID)
        await until_sick(node, set(PARTS), 1)
        assert "its GPU" in node.inventory.health_of(PARTS[0]).reason
        node.driver.restore(A100_UUID)
        await until_sick(node, set(), 2)


async def test_a_gpu_that_vanishes_from_the_list_is_sick_and_not_gone(node: Node, autojump_clock: MockClock) -> None:
    async with node.running():
        device = worked_example(1)[0]
        node.driver.remove(V100)
        await until_sick(node, {V100}, 1)
        await trio.sleep(3600)
        assert node.shares()[V100] == 10
        node.driver.add(device)
        await until_sick(node, set(), 2)


@pytest.mark.parametrize("silent", [Fault("does not answer: probing has not returned"), None], ids=["hangs", "answers"])
async def test_a_gpu_that_was_left_out_of_the_list_for_a_while_was_not_reset(
    node: Node, silent: Fault | None, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node.running():
        node.driver.push_event(HealthEvent("xid", V100, 79))
        await until_sick(node, {V100}, 1)
        everything = await node.driver.devices()

        async def without_it() -> tuple[Device, ...]:
            return everything[1:]

        async def silence(uuids: Sequence[str]) -> Mapping[str, Fault | None]:
            return {uuid: silent if uuid == V100 else None for uuid in uuids}

        with monkeypatch.context() as patched:
            patched.setattr(node.driver, "devices", without_it)
            patched.setattr(node.driver, "probe", silence)
            await trio.sleep(30)
        await trio.sleep(600)
        assert node.inventory.health_of(V100).reason == "XID 79"
        node.driver.lose(V100)
        await trio.sleep(30)
        node.driver.restore(V100)
        await until_sick(node, set(), 2)


async def test_a_partition_that_is_taken_away_is_dropped_and_a_new_one_is_shared(node: Node, autojump_clock: MockClock) -> None:
    async with node.running():
        removed = next(device for device in worked_example(1) if device.uuid == PARTS[3])
        node.driver.remove(PARTS[3])
        with trio.fail_after(2):
            while PARTS[3] in node.shares():
                await node.cell.wait_beyond(node.cell.version)
        node.driver.add(removed)
        with trio.fail_after(15):
            while PARTS[3] not in node.shares():
                await node.cell.wait_beyond(node.cell.version)
        assert node.sick() == set()


async def test_a_new_gpu_is_found_without_being_told(node: Node, autojump_clock: MockClock) -> None:
    async with node.running():
        node.driver.add(worked_example(3)[1])
        await trio.sleep(11)
        assert v100_uuid(1) in node.shares()


async def test_a_new_device_that_cannot_be_shared_is_told_once_and_holds_up_no_other(
    node: Node, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    node.settings = replace(node.settings, rules=(ShareRule(R, chunk_bytes=2**30),))
    async with node.running():
        before = node.shares()
        node.driver.add(replace(worked_example(3)[1], memory_bytes=2**20))
        await trio.sleep(60)
        assert node.shares() == before
        assert [record.message for record in caplog.records].count("new device cannot be shared as configured") == 1
        node.driver.add(worked_example(3)[2])
        await trio.sleep(11)
        assert set(node.shares()) == {*before, v100_uuid(2)}
        node.driver.lose(V100)
        await until_sick(node, {V100}, 1)


async def test_a_driver_that_leaves_makes_every_device_sick_until_it_is_back(node: Node, autojump_clock: MockClock) -> None:
    async with node.running():
        node.driver.unload()
        await until_sick(node, {V100, *PARTS}, 3)
        await trio.sleep(60)
        assert len(node.inventory.devices) == 5
        node.driver.reload()
        await until_sick(node, set(), 15)


async def test_a_driver_opened_anew_ends_a_fault_that_lasts_until_a_reset(node: Node, autojump_clock: MockClock) -> None:
    async with node.running():
        node.driver.push_event(HealthEvent("xid", V100, 79))
        await until_sick(node, {V100}, 1)
        await trio.sleep(3600)
        assert node.sick() == {V100}
        node.driver.unload()
        await until_sick(node, {V100, *PARTS}, 3)
        node.driver.reload()
        await until_sick(node, set(), 15)


async def test_a_hung_probe_makes_every_device_sick_is_told_once_and_passes(
    node: Node, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with node.running():
        node.driver.hang("probe")
        await until_sick(node, {V100, *PARTS}, 4)
        await trio.sleep(60)
        told = [record.message for record in caplog.records if record.name.endswith("discovery")]
        assert told.count("driver does not answer") == 1
        node.driver.heal()
        await until_sick(node, set(), 4)


async def test_a_hung_probe_is_no_reset(node: Node, autojump_clock: MockClock) -> None:
    async with node.running():
        node.driver.push_event(HealthEvent("xid", V100, 79))
        await until_sick(node, {V100}, 1)
        node.driver.hang("probe")
        await trio.sleep(5)
        node.driver.heal()
        await until_sick(node, {V100}, 5)
        await trio.sleep(5)
        assert node.sick() == {V100}


async def test_an_applications_fault_changes_nothing(node: Node, autojump_clock: MockClock) -> None:
    async with node.running():
        before = node.cell.version
        node.driver.push_event(HealthEvent("xid", V100, 31))
        await trio.sleep(5)
        assert node.cell.version == before


async def test_an_event_is_heard_before_the_next_probe(node: Node, autojump_clock: MockClock) -> None:
    node.settings = replace(node.settings, probe_seconds=1000)
    async with node.running():
        node.driver.push_event(HealthEvent("xid", V100, 79))
        await until_sick(node, {V100}, 0.01)


@pytest.mark.parametrize("verb", ["health_event", "devices"])
async def test_another_call_that_fails_hurts_no_device(node: Node, autojump_clock: MockClock, verb: str) -> None:
    async with node.running():
        node.driver.fail(verb, DriverError("no such luck"))
        await trio.sleep(60)
        assert node.sick() == set()
        node.driver.heal()
        node.driver.lose(V100)
        await until_sick(node, {V100}, 1)


async def test_an_idle_node_publishes_nothing(node: Node, autojump_clock: MockClock) -> None:
    async with node.running():
        before = node.cell.version
        await trio.sleep(600)
        assert node.cell.version == before
        assert node.books.asked == 1


async def test_a_driver_that_cannot_be_enumerated_at_the_start_is_the_end(node: Node, autojump_clock: MockClock) -> None:
    node.driver.hang("devices")
    with pytest.RaisesGroup(DriverTimeout, flatten_subgroups=True):
        async with node.running():
            raise AssertionError("it must not start")


async def test_devices_that_cannot_be_shared_at_the_start_are_the_end(node: Node, autojump_clock: MockClock) -> None:
    node.settings = replace(node.settings, rules=(ShareRule(R, metagpus_per_gpu=4, reserved=5),))
    with pytest.RaisesGroup(ConfigError, flatten_subgroups=True):
        async with node.running():
            raise AssertionError("it must not start")


def test_what_is_missing_keeps_its_place_and_a_partition_of_a_living_gpu_goes_at_the_second_look() -> None:
    known = worked_example(2)
    found = [device for device in known if device.uuid not in (v100_uuid(0), PARTS[1])]
    devices, missing = merged(known, found, ())
    assert devices == known
    assert missing == {v100_uuid(0), PARTS[1]}
    devices, missing = merged(devices, found, missing)
    assert [device.uuid for device in devices] == [v100_uuid(0), v100_uuid(1), A100_UUID, PARTS[0], *PARTS[2:]]
    assert missing == {v100_uuid(0)}


def test_a_partition_whose_gpu_instance_is_anothers_goes_at_once() -> None:
    known = worked_example(1)
    found = [replace(device, uuid="MIG-new") if device.uuid == PARTS[1] else device for device in known]
    devices, missing = merged(known, found, ())
    assert (devices, missing) == (tuple(found), frozenset())


async def test_a_partition_that_fails_to_be_enumerated_once_is_sick_for_a_moment_and_never_gone(
    node: Node, autojump_clock: MockClock
) -> None:
    async with node.running():
        node.driver.remove(PARTS[1])
        await until_sick(node, {PARTS[1]}, 11)
        node.driver.add(next(device for device in worked_example(1) if device.uuid == PARTS[1]))
        await until_sick(node, set(), 2)
        assert PARTS[1] in node.shares()


async def test_reports_from_many_sides_at_once_end_in_one_true_inventory(node: Node, autojump_clock: MockClock) -> None:
    node.remember(V100=LayoutEntry(R, 4))
    node.books.held = {V100: Held(R, 1, 0)}
    async with node.running():
        for number in range(30):
            node.driver.lose(V100 if number % 2 else A100_UUID)
            node.driver.push_event(HealthEvent("xid", PARTS[0], 999))
            await trio.sleep(0.3)
            node.driver.restore(V100)
            node.driver.restore(A100_UUID)
        node.books.held = {}
        await trio.sleep(100)
        assert node.shares() == dict.fromkeys([V100, *PARTS], 10)
        assert node.sick() == set()


@pytest.mark.parametrize("after", [0, 1, 2, 5, 20])
async def test_discovery_can_be_cancelled_wherever_it_is(node: Node, autojump_clock: MockClock, after: int) -> None:
    node.remember(V100=LayoutEntry(R, 4))
    node.books.held = {V100: Held(R, 1, 0)}
    async with node.driver.open() as driver:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def _cancel() -> None:
                    for _ in range(after):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                nursery.start_soon(Discovery(driver, node.books.ask, node.cell, node.settings, SimulatedClock()).serve)
        assert scope.cancelled_caught
    assert not list(node.layout_path.parent.glob(".*"))
