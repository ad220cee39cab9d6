"""Joins the facts that the device API tells, and wakes who waits for news of any of them. Reads cells, owns none."""

import trio

from mortalgpu.deviceapi.wire import WireFacts
from mortalgpu.latest import Latest
from mortalgpu.model.kill import Enforcement
from mortalgpu.model.share import Inventory
from mortalgpu.model.usage import Usage


class Board:
    """The newest facts, in one value that is made once for all callers."""

    def __init__(self, node: str, inventory: Latest[Inventory], usage: Latest[Usage], enforcement: Latest[Enforcement]) -> None:
        self._node = node
        self._inventory = inventory
        self._usage = usage
        self._enforcement = enforcement
        self._news = trio.lowlevel.ParkingLot()
        self._made: tuple[tuple[int, ...], WireFacts] | None = None

    @property
    def versions(self) -> tuple[int, ...]:
        """Names what `facts` are made of."""
        return self._inventory.version, self._usage.version, self._enforcement.version

    @property
    def facts(self) -> WireFacts:
        """The newest facts; never blocks."""
        versions = self.versions
        if self._made is None or self._made[0] != versions:
            self._made = versions, WireFacts(self._node, self._inventory.value, self._usage.value, self._enforcement.value)
        return self._made[1]

    async def watch(self) -> None:
        """Wake the waiting at each change, for ever."""
        async with trio.open_nursery() as nursery:
            for cell in (self._inventory, self._usage, self._enforcement):
                nursery.start_soon(self._watch_one, cell)

    async def _watch_one(self, cell: Latest[Inventory] | Latest[Usage] | Latest[Enforcement]) -> None:
        while True:
            seen = cell.version
            self._news.unpark_all()
            await cell.wait_beyond(seen)

    async def wait_beyond(self, versions: tuple[int, ...], seconds: float) -> None:
        """Wait for facts newer than `versions`, at most `seconds`. A checkpoint; needs `watch` to be running."""
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(seconds):
            while self.versions == versions:
                await self._news.park()
