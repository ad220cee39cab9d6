"""Share layouts that wait for their holders, and what discovery remembers of them. All in virtual time."""

import logging
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from mortalgpu.sharing.layout import Held, LayoutEntry
from mortalgpu.sharing.rules import ShareRule
from tests.unit.scan.discovered import PARTS, V100, Node, R, node_without_threads


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return node_without_threads(tmp_path, monkeypatch)


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
