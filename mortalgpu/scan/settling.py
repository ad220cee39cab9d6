"""Which share layout is in force: asks the witnesses, lets `sharing.layout` decide, remembers it on the disk. Discovery's hand.

Rules:
1. Witnesses are asked only when what is configured differs from what is remembered.
2. A layout that takes over is written down first, and is in force at once after the witnesses were asked: a grant of the old
   one, made while the file was written, keeps the old one.
3. While no witness can say what is held, only devices whose layout is remembered are in force.
4. What cannot be read or written is told, and tried again; it keeps nothing from working.
"""

import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path

from mortalgpu import threads
from mortalgpu.errors import HostError
from mortalgpu.model.share import Inventory
from mortalgpu.sharing.layout import Held, LayoutEntry, Settlement, dump_layout, load_layout, recover, settle
from mortalgpu.statefile import read_state, write_state

log = logging.getLogger(__name__)

AskHeld = Callable[[], Awaitable[tuple[Mapping[str, Held] | None, Mapping[str, int]]]]
"""Asks what is held by device (None: nobody can say), and what share totals containers were told."""


class Settling:
    """The layout in force, and what is remembered of it at `path`. One call at a time."""

    def __init__(self, held: AskHeld, path: Path) -> None:
        self.layout = Inventory()
        """What is in force, without anybody's health."""
        self._held = held
        self._path = path
        self._remembered: Mapping[str, LayoutEntry] = {}
        self._held_back: frozenset[str] = frozenset()
        self._is_provisional = False
        self._is_saved = True

    @property
    def waits(self) -> bool:
        """Whether asking again may change the layout."""
        return bool(self.layout.notices) or self._is_provisional

    async def load(self) -> None:
        """Remember what the file says. Raises nothing: a lost file is rebuilt from what containers hold."""
        try:
            text = await threads.run(read_state, self._path, patience_seconds=math.inf)
        except HostError as error:
            log.warning("remembered share layout is lost", extra={"path": str(self._path), "error": str(error)})
            return
        loaded = load_layout(text) if text is not None else None
        if loaded and loaded.problem:
            log.warning("remembered share layout is damaged", extra={"path": str(self._path), "error": loaded.problem})
        self._remembered = loaded.entries if loaded else {}

    async def settle(self, wanted: Inventory, *, first: bool) -> None:
        """Bring the layout in force as close to the wanted one as its holders allow.

        `first`: nothing was ever advertised, so that nothing can be granted meanwhile.
        """
        written = self._remembered
        while True:
            settled = await self._settlement(wanted)
            if settled.provisional or settled.remembered == written or first:
                break
            written = settled.remembered
            await self._save(written)
        before = {(notice.uuid, notice.shares_in_force) for notice in self.layout.notices}
        self.layout, self._is_provisional = settled.inventory, settled.provisional
        if not settled.provisional:
            self._remembered = settled.remembered
        if self._remembered != written:
            await self._save(self._remembered)
        self._tell_notices(before)
        self._tell_held_back(settled.held_back)

    async def save_again(self) -> None:
        """Write the layout down if that failed before."""
        if not self._is_saved:
            await self._save(self._remembered)

    async def _settlement(self, wanted: Inventory) -> Settlement:
        """Ask the witnesses, if there is anything to ask, and decide; nothing is awaited after they have answered."""
        if not self._needs_witness(wanted):
            return replace(settle(wanted, self._remembered, None), provisional=False)
        held, totals = await self._held()
        if held is None:
            settled = settle(wanted, self._remembered, None)
            return replace(settled, inventory=_only_remembered(settled.inventory, self._remembered))
        return settle(wanted, recover(wanted, self._remembered, held, totals), held)

    def _needs_witness(self, wanted: Inventory) -> bool:
        return any(
            self._remembered.get(shared.uuid) != LayoutEntry(shared.resource, shared.shares, shared.reserved)
            for shared in wanted.devices
        ) or any(device.uuid in self._remembered for device in wanted.left_alone)

    def _tell_notices(self, before: set[tuple[str, int]]) -> None:
        for notice in self.layout.notices:
            if (notice.uuid, notice.shares_in_force) not in before:
                log.warning(
                    "share layout kept while containers hold shares of it",
                    extra={
                        "device": notice.uuid,
                        "resource": notice.resource,
                        "shares": notice.shares_in_force,
                        "shares_configured": notice.shares_configured,
                        "held": notice.held,
                    },
                )
        waiting = {(notice.uuid, notice.shares_in_force) for notice in self.layout.notices}
        for uuid, _ in before - waiting:
            log.info("configured share layout took over", extra={"device": uuid})

    def _tell_held_back(self, held_back: frozenset[str]) -> None:
        for uuid in sorted(held_back - self._held_back):
            log.warning(
                "device waits: beside layouts kept, its resource has more shares than kubelet reads", extra={"device": uuid}
            )
        self._held_back = held_back

    async def _save(self, entries: Mapping[str, LayoutEntry]) -> None:
        """Write the layout down; what cannot be written is tried again later."""
        try:
            await threads.run(write_state, self._path, dump_layout(entries))
        except HostError as error:
            if self._is_saved:
                log.error("share layout cannot be remembered", extra={"path": str(self._path), "error": str(error)})
            self._is_saved = False
        else:
            self._is_saved = True


def _only_remembered(inventory: Inventory, remembered: Mapping[str, LayoutEntry]) -> Inventory:
    """Return what may be advertised while nobody can say what is held: devices whose layout in force is known."""
    return replace(inventory, devices=tuple(shared for shared in inventory.devices if shared.uuid in remembered))
