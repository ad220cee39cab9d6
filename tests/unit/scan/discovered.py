"""A simulated driver under a real Discovery, with witnesses of what is held that say what a test wants."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from mortalgpu.driver.lasting import keep_open
from mortalgpu.latest import Latest
from mortalgpu.model.share import Inventory
from mortalgpu.scan.discovery import Discovery, DiscoverySettings
from mortalgpu.sharing.layout import Held, LayoutEntry, dump_layout, load_layout
from mortalgpu.sharing.rules import ShareRule
from mortalgpu.simulation.driver import SimulatedDriver, partition_uuid, v100_uuid, worked_example
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


def node_without_threads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    """Return a node whose file work needs no thread: virtual time would jump past a working one."""

    async def at_once(work: Callable[..., object], *arguments: object, **_: object) -> object:
        await trio.lowlevel.checkpoint()
        return work(*arguments)

    monkeypatch.setattr("trio.to_thread.run_sync", at_once)
    return Node(folder)


async def until_sick(node: Node, expected: set[str], seconds: float) -> None:
    """Wait until exactly these devices are unhealthy."""
    with trio.move_on_after(seconds):
        while node.sick() != expected:
            await node.cell.wait_beyond(node.cell.version)
    assert node.sick() == expected
