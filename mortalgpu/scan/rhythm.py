"""When a full scan is due. Pure: decides from quick looks at the devices' memory and from what the last scan found.

The rules:
1. At once when memory grew so much on a device that a container there could be over its limit now.
2. At each look for a few seconds while a container is over its limit, so that what was decided is seen to have worked.
3. At once when something is known now that a scan was waiting for.
4. When memory moved at all, up or down, since the last scan, or any other fact changed: as often as `duty` allows, which
   bounds what a job that allocates without end can cost.
5. At the latest every `period_seconds`.

While nothing is waiting but rule 5, the looks are left to the driver (`watch_memory`), a few at a time: the event loop rests.

A swap between two containers that leaves the device's total as it was, within one look, is seen by rule 5 only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from mortalgpu.model.device import Fault, Memory
from mortalgpu.model.usage import Usage
from mortalgpu.units import MIB

Look = Mapping[str, Memory | Fault]
"""One quick look: the memory of each shared device, by UUID."""


class Cause(Enum):
    """Why a full scan is made."""

    FIRST = "first"
    GROWTH = "growth"
    OVER = "over"
    AWAITED = "awaited"
    MOVED = "moved"
    FACTS = "facts"
    PERIOD = "period"

    @property
    def urgent(self) -> bool:
        """Whether somebody may have to be stopped by what the scan finds."""
        return self in (Cause.GROWTH, Cause.OVER, Cause.AWAITED)


@dataclass(frozen=True, slots=True)
class Tempo:
    """The figures behind the rules."""

    period_seconds: float = 5.0
    move_bytes: int = MIB
    duty: float = 0.1
    """The part of the time that scans by rule 4 may take."""
    longest_rest_seconds: float = 1.0
    """The longest that rule 4 waits, however long scans take."""
    over_seconds: float = 5.0
    """How long rule 2 holds for one set of containers that are over."""
    watch_seconds: float = 0.5
    """The longest that looks are left to the driver at once."""


@dataclass(frozen=True, slots=True)
class LastScan:
    """What the rhythm needs to know of the last scan. Times are monotonic seconds."""

    began_at: float
    ended_at: float
    figures: Mapping[str, int | None]
    """Used bytes of each device in the look that caused the scan; None where there was no reading."""
    headroom: Mapping[str, int] = field(default_factory=dict)
    """By device, the least that any container there could still grow."""
    over: frozenset[tuple[str, str]] = frozenset()
    """Container ids and devices that were over their limit."""
    over_since: float = 0.0


def remember(usage: Usage, look: Look, began_at: float, ended_at: float, before: LastScan | None) -> LastScan:
    """Return what to remember of a scan that has just ended."""
    headroom: dict[str, int] = {}
    over: set[tuple[str, str]] = set()
    for holder in usage.containers:
        for claim in holder.devices:
            if claim.limit_bytes is None or not claim.readable:
                continue
            room = max(0, claim.limit_bytes - claim.known_bytes)
            headroom[claim.uuid] = min(room, headroom.get(claim.uuid, room))
            if claim.over_limit:
                over.add((holder.container_id, claim.uuid))
    same = before is not None and before.over == over
    over_since = before.over_since if before is not None and same else began_at
    return LastScan(began_at, ended_at, figures(look), headroom, frozenset(over), over_since)


def figures(look: Look) -> dict[str, int | None]:
    """Return the used bytes of each device; None where there was no reading."""
    return {uuid: found.used_bytes if isinstance(found, Memory) else None for uuid, found in look.items()}


def due(last: LastScan | None, look: Look, now: float, tempo: Tempo, *, awaited: bool, changed: bool) -> Cause | None:
    """Tell whether a scan is due at monotonic time `now`, and by which rule.

    `awaited`: a fact that the last scan lacked has come in. `changed`: any other fact has.
    """
    if last is None:
        return Cause.FIRST
    if awaited:
        return Cause.AWAITED
    seen = figures(look)
    if any(_may_be_over(last, uuid, used, tempo.move_bytes) for uuid, used in seen.items()):
        return Cause.GROWTH
    if last.over and now - last.over_since < tempo.over_seconds:
        return Cause.OVER
    if now - last.began_at >= tempo.period_seconds:
        return Cause.PERIOD
    if now - last.ended_at >= _rest(last, tempo):
        if moved_since(last, tempo)(look):
            return Cause.MOVED
        if changed:
            return Cause.FACTS
    return None


def looks_to_leave(last: LastScan | None, look: Look, now: float, every_seconds: float, tempo: Tempo, *, waiting: bool) -> int:
    """Return how many looks, one each `every_seconds`, may be left to the driver from time `now` on: 0 unless all is calm.

    `look` is the newest one. `waiting`: a scan waits for a fact, or a fact for a scan.
    """
    if last is None or waiting or last.over or moved_since(last, tempo)(look):
        return 0
    seconds = min(tempo.watch_seconds, last.began_at + tempo.period_seconds - now)
    return max(0, int(seconds / every_seconds))


def moved_since(last: LastScan, tempo: Tempo) -> Callable[[Look], bool]:
    """Return what tells of a look whether memory moved since the last scan; without that neither rule 1 nor rule 4 sees it."""
    return lambda look: any(_moved(last, uuid, used, tempo.move_bytes) for uuid, used in figures(look).items())


def _may_be_over(last: LastScan, uuid: str, used: int | None, move_bytes: int) -> bool:
    before, room = last.figures.get(uuid), last.headroom.get(uuid)
    return used is not None and before is not None and room is not None and used - before >= max(move_bytes, room)


def _moved(last: LastScan, uuid: str, used: int | None, move_bytes: int) -> bool:
    before = last.figures.get(uuid)
    if used is None or before is None:
        return used is not before
    return abs(used - before) >= move_bytes


def _rest(last: LastScan, tempo: Tempo) -> float:
    took = last.ended_at - last.began_at
    return min(tempo.longest_rest_seconds, took * (1 / tempo.duty - 1))
