"""Devices that come, go, fail and return; and share layouts that wait for their holders. All in virtual time."""

import logging
import stat
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from mortalgpu.driver.lasting import keep_open
from mortalgpu.errors import ConfigError, DriverError, DriverTimeout
from mortalgpu.latest import Latest
from mortalgpu.model.device import HealthEvent
from mortalgpu.model.share import Inventory
from mortalgpu.scan.discovery import Discovery, DiscoverySettings, merged
from mortalgpu.sharing.layout import Held, LayoutEntry, dump_layout, load_layout
from mortalgpu.sharing.rules import ShareRule
from mortalgpu.simulation.driver import A100_UUID, SimulatedDriver, partition_uuid, v100_uuid, worked_example
from mortalgpu.simulation.host import SimulatedClock

R = "mortalgpu/a"
V100 = v100_uuid(0)
PARTS = [partition_uuid(gi) for gi in (2, 3, 9, 10)]
RULES = (ShareRule(R, metagpus_per_gpu=10),)


@dataclass(slots=True)
class Books:
    """What the witnesses say; `held` None while nobody can say. `meanwhile` is what they say from the second time on."""

    held: Mapping[str, Held] | None = None
    totals: Mapping[str, int] | None = None
    asked: int = 0
    meanwhile: Mapping[str, Held] | None = None

    async def ask(self) -> tuple[Mapping[str, Held] | None, Mapping[str, int]]:
        self.asked += 1
        await trio.lowlevel.checkpoint()
        if self.asked > 1 and self.meanwhile is not None:
            return self.meanwhile, {}
        return self.held, self.totals or {}


class Node:
    """A simulated driver under a real Discovery; make one inside of a trio run."""

    def __init__(self, folder: Path, rules: tuple[ShareRule, ...] = RULES) -> None:
        self.driver = SimulatedDriver(worked_example(1), call_seconds=2)
        self.books = Books(held={})
        self.cell = Latest(Inventory())
        self.settings = DiscoverySettings(rules, folder / "state" / "layout.json")

    @property
    def inventory(self) -> Inventory:
        return self.cell.value

    @property
    def layout_path(self) -> Path:
        return self.settings.layout_path

    def remember(self, **entries: LayoutEntry) -> None:
        """Write a remembered layout; names are `V100` and `P2`, `P3` …"""
        uuids = {"V100": V100, **{f"P{gi}": partition_uuid(gi) for gi in (2, 3, 9, 10)}}
        self.layout_path.parent.mkdir(exist_ok=True)
        self.layout_path.write_text(dump_layout({uuids[name]: entry for name, entry in entries.items()}))

    def remembered(self) -> Mapping[str, LayoutEntry]:
        """Return what the file says now."""
        return load_layout(self.layout_path.read_text()).entries

    def sick(self) -> set[str]:
        """Return the devices that are advertised as unhealthy."""
        return {shared.uuid for shared in self.inventory.devices if not self.inventory.health_of(shared.uuid).healthy}

    def shares(self) -> dict[str, int]:
        """Return the shares in force by device."""
        return {shared.uuid: shared.shares for shared in self.inventory.devices}

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Node"]:
        """Run discovery for the length of a block."""
        async with trio.open_nursery() as nursery:
            driver = await nursery.start(keep_open, self.driver.open)
            clock = SimulatedClock()
            await nursery.start(Discovery(driver, self.books.ask, self.cell, self.settings, clock).serve)
            yield self
            nursery.cancel_scope.cancel()


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    """Return a node whose file work needs no thread: virtual time would jump past a working one."""

    async def at_once(work: Callable[..., object], *arguments: object) -> object:
        await trio.lowlevel.checkpoint()
        return work(*arguments)

    monkeypatch.setattr("trio.to_thread.run_sync", at_once)
    return Node(tmp_path)


async def until_sick(node: Node, expected: set[str], seconds: float) -> None:
    """Wait until exactly these devices are unhealthy."""
    with trio.move_on_after(seconds):
        while node.sick() != expected:
            await node.cell.wait_beyond(node.cell.version)
    assert node.sick() == expected


# Devices and their health.


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


async def test_new_devices_that_cannot_be_shared_leave_the_inventory_as_it_was_and_are_told_once(
    node: Node, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    node.settings = replace(node.settings, rules=(ShareRule(R, chunk_bytes=2**30),))
    async with node.running():
        before = node.shares()
        node.driver.add(replace(worked_example(3)[1], memory_bytes=2**20))
        await trio.sleep(60)
        assert node.shares() == before
        assert [record.message for record in caplog.records].count("new devices cannot be shared as configured") == 1
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
    assert {device.uuid for device in devices} == {device.uuid for device in known}
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


# The share layout.


async def test_the_layout_in_force_is_written_down_for_us_alone(node: Node, autojump_clock: MockClock) -> None:
    async with node.running():
        assert node.remembered() == dict.fromkeys([V100, *PARTS], LayoutEntry(R, 10))
        assert stat.S_IMODE(node.layout_path.stat().st_mode) == 0o600


async def test_a_changed_count_takes_over_at_once_when_nobody_holds_a_share(node: Node, autojump_clock: MockClock) -> None:
    node.remember(V100=LayoutEntry(R, 4))
    async with node.running():
        assert node.shares()[V100] == 10
        assert node.remembered()[V100] == LayoutEntry(R, 10)


async def test_a_changed_count_waits_for_the_last_holder(
    node: Node, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    node.remember(V100=LayoutEntry(R, 4))
    node.books.held = {V100: Held(R, 2, 1)}
    async with node.running():
        assert node.shares() == {V100: 4, **dict.fromkeys(PARTS, 10)}
        (notice,) = node.inventory.notices
        assert (notice.uuid, notice.shares_in_force, notice.shares_configured, notice.held) == (V100, 4, 10, 2)
        await trio.sleep(60)
        assert node.shares()[V100] == 4
        node.books.held = {}
        await trio.sleep(2)
        assert node.shares()[V100] == 10
        assert node.inventory.notices == ()
        assert node.remembered()[V100] == LayoutEntry(R, 10)
    told = [record.message for record in caplog.records]
    assert told.count("share layout kept while containers hold shares of it") == 1
    assert told.count("configured share layout took over") == 1


async def test_a_grant_made_while_the_new_layout_was_written_keeps_the_old_one(node: Node, autojump_clock: MockClock) -> None:
    node.remember(V100=LayoutEntry(R, 4))
    node.books.held = {V100: Held(R, 1, 0)}
    async with node.running():
        node.books.asked, node.books.held, node.books.meanwhile = 0, {}, {V100: Held(R, 3, 2)}
        await trio.sleep(10)
        assert node.shares()[V100] == 4
        assert node.remembered()[V100] == LayoutEntry(R, 4)
        node.books.held, node.books.meanwhile = {}, None
        await trio.sleep(2)
        assert node.shares()[V100] == 10


async def test_a_device_that_no_entry_takes_any_more_stays_until_its_holder_is_gone(
    node: Node, autojump_clock: MockClock
) -> None:
    node.settings = replace(node.settings, rules=(ShareRule(R, metagpus_per_gpu=10, gi_ids=(2, 3, 9, 10)),))
    node.remember(V100=LayoutEntry("mortalgpu/old", 4))
    node.books.held = {V100: Held("mortalgpu/old", 1, 0)}
    async with node.running():
        assert node.shares()[V100] == 4
        node.books.held = {}
        await trio.sleep(2 * node.settings.held_seconds)
        assert V100 not in node.shares()
        assert [device.uuid for device in node.inventory.left_alone] == [V100]


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff", b"[]", b'{"version": 9}', b"null"])
async def test_a_damaged_file_is_rebuilt_from_what_containers_hold(
    node: Node, autojump_clock: MockClock, damage: bytes
) -> None:
    node.layout_path.parent.mkdir()
    node.layout_path.write_bytes(damage)
    node.books.held, node.books.totals = {V100: Held(R, 1, 3)}, {V100: 5}
    async with node.running():
        assert node.shares()[V100] == 5
        assert node.remembered()[V100] == LayoutEntry(R, 5)


async def test_a_lost_file_is_rebuilt_from_what_containers_were_told(node: Node, autojump_clock: MockClock) -> None:
    node.books.held, node.books.totals = {V100: Held(R, 1, 3)}, {V100: 5}
    async with node.running():
        assert node.shares() == {V100: 5, **dict.fromkeys(PARTS, 10)}


async def test_while_nobody_can_say_only_what_is_remembered_is_advertised(node: Node, autojump_clock: MockClock) -> None:
    node.remember(V100=LayoutEntry(R, 4))
    node.books.held = None
    async with node.running():
        assert node.shares() == {V100: 4}
        await trio.sleep(60)
        assert node.shares() == {V100: 4}
        node.books.held = {}
        await trio.sleep(2)
        assert node.shares() == {V100: 10, **dict.fromkeys(PARTS, 10)}


async def test_a_node_without_any_memory_waits_for_a_witness_and_then_shares(node: Node, autojump_clock: MockClock) -> None:
    node.books.held = None
    async with node.running():
        assert node.shares() == {}
        assert not node.layout_path.exists()
        await trio.sleep(60)
        node.books.held = {V100: Held(R, 1, 3)}
        node.books.totals = {V100: 5}
        await trio.sleep(2)
        assert node.shares() == {V100: 5, **dict.fromkeys(PARTS, 10)}


async def test_a_file_that_cannot_be_written_is_told_once_and_tried_again(
    node: Node, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    node.layout_path.parent.write_text("in the way")
    async with node.running():
        assert node.shares()[V100] == 10
        await trio.sleep(10)
        told = [record.message for record in caplog.records]
        assert told.count("share layout cannot be remembered") == 1
        node.layout_path.parent.unlink()
        await trio.sleep(5)
        assert node.remembered()[V100] == LayoutEntry(R, 10)


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
