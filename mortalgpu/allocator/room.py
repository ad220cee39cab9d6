"""What a request finds on each device, and the fewest devices that can serve it: what all policies share.

The rules:
1. Ids that name no advertised share of the devices given are not room: kubelet may ask with a list that is just being
   replaced.
2. Ids that must be included belong to the request already. Their devices are used whatever the terms say, and used up before
   another one is begun.
3. Of a device, the lowest numbers are taken: high ones stay free, so that a smaller layout can take over soon.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mortalgpu.allocator.base import Request, Terms
from mortalgpu.errors import AllocationError, NotEnoughShares, UnknownMetaDevice, WouldSplit
from mortalgpu.model.share import SharedDevice
from mortalgpu.sharing.metaid import format_id, format_ids, named, numbers_by_device


@dataclass(frozen=True, slots=True)
class Room:
    """One eligible device: the numbers the request must include, and the others that are free, in no order."""

    device: SharedDevice
    forced: frozenset[int]
    free: frozenset[int]

    @property
    def is_whole(self) -> bool:
        """Whether no share of the device is taken."""
        return len(self.forced) + len(self.free) == self.device.advertised

    @property
    def free_bytes(self) -> int:
        """What the free shares are worth."""
        return self.device.limit_bytes(len(self.free))


@dataclass(frozen=True, slots=True)
class Survey:
    """What a request can use: devices that hold ids it must include, eligible others, and how many ids are still to choose."""

    begun: tuple[Room, ...]
    others: tuple[Room, ...]
    missing: int

    @property
    def fewest_devices(self) -> int:
        """The smallest number of devices that can serve the request."""
        beyond = self.missing - _total(self.begun)
        return len(self.begun) + fewest(self.others, beyond)


@dataclass(frozen=True, slots=True)
class Taste:
    """How a policy ranks devices, best first: to hold a request (or its rest) alone, and to be used up by a larger one."""

    to_hold: Callable[[Room], tuple[int | str, ...]]
    to_use_up: Callable[[Room], tuple[int | str, ...]]


def survey(request: Request, devices: Sequence[SharedDevice], terms: Terms) -> Survey:
    """Find out what a request can use. An answer exists whenever this returns.

    Raises NotEnoughShares, WouldSplit, UnknownMetaDevice, or AllocationError for a request that makes no sense.
    """
    forced = _forced_numbers(request, devices)
    rooms = _rooms(request, devices, forced)
    eligible = [room for room in rooms if room.forced or room.is_whole or terms.allow_collocation]
    found = Survey(
        begun=tuple(room for room in eligible if room.forced),
        others=tuple(room for room in eligible if room.free and not room.forced),
        missing=request.size - sum(len(numbers) for numbers in forced.values()),
    )
    _check_room(request, found, rooms)
    if terms.no_split and found.fewest_devices > 1:
        raise WouldSplit(_split_text(request, found))
    return found


def fewest(rooms: Iterable[Room], missing: int) -> int:
    """Return the smallest number of devices with room for `missing` more ids, which must be there."""
    count = 0
    for free in sorted((len(room.free) for room in rooms), reverse=True):
        if missing <= 0:
            break
        missing -= free
        count += 1
    return count


def take(found: Survey, taste: Taste) -> tuple[str, ...]:
    """Choose the ids, on the fewest devices, as a policy's taste ranks them. In the order of UUID, then number."""
    takes: dict[str, int] = {}
    in_begun = min(found.missing, _total(found.begun))
    _fill(takes, found.begun, in_begun, taste)
    _fill(takes, found.others, found.missing - in_begun, taste)
    ids: list[str] = []
    for room in sorted((*found.begun, *found.others), key=lambda room: room.device.uuid):
        chosen = sorted(room.free)[: takes.get(room.device.uuid, 0)]
        ids += format_ids(room.device.uuid, sorted([*room.forced, *chosen]))
    return tuple(ids)


def _fill(takes: dict[str, int], rooms: Sequence[Room], missing: int, taste: Taste) -> None:
    """Add to `takes` how many ids to choose of each device, so that no other choice needs fewer devices."""
    left = list(rooms)
    while missing > 0:
        holders = [room for room in left if len(room.free) >= missing]
        if holders:
            takes[min(holders, key=taste.to_hold).device.uuid] = missing
            return
        used_up = _next_to_use_up(left, missing, taste)
        takes[used_up.device.uuid] = len(used_up.free)
        left.remove(used_up)
        missing -= len(used_up.free)


def _next_to_use_up(rooms: Sequence[Room], missing: int, taste: Taste) -> Room:
    """Return the device ranked best of those after which the rest still fits the fewest devices.

    The one with the most room always qualifies, so there is one.
    """
    count = fewest(rooms, missing)
    ranked = sorted(rooms, key=taste.to_use_up)
    sizes = sorted((len(room.free) for room in rooms), reverse=True)
    for room in ranked:
        others = sizes.copy()
        others.remove(len(room.free))
        if sum(others[: count - 1]) >= missing - len(room.free):
            return room
    raise AssertionError("a request larger than its room was not refused")


def _forced_numbers(request: Request, devices: Sequence[SharedDevice]) -> Mapping[str, frozenset[int]]:
    if request.size < 1:
        raise AllocationError(f"{request.resource}: {request.size} shares were asked for; the least is 1")
    forced = {uuid: frozenset(numbers) for uuid, numbers in numbers_by_device(request.must_include).items()}
    count = sum(len(numbers) for numbers in forced.values())
    if count > request.size:
        raise AllocationError(f"{request.resource}: {request.size} shares were asked for, with {count} to be included")
    advertised = {shared.uuid: shared.advertised for shared in devices}
    for uuid, numbers in forced.items():
        if max(numbers) >= advertised.get(uuid, 0):
            raise UnknownMetaDevice(f"{request.resource}: {named(uuid, max(numbers))} is not one of its meta-devices")
    return forced


def _rooms(request: Request, devices: Sequence[SharedDevice], forced: Mapping[str, frozenset[int]]) -> list[Room]:
    groups = numbers_by_device(request.available)
    rooms: list[Room] = []
    for shared in devices:
        available = frozenset(groups.get(shared.uuid, ()))
        if available and max(available) >= shared.advertised:
            available = frozenset(number for number in available if number < shared.advertised)
        wanted = forced.get(shared.uuid, frozenset())
        if not wanted <= available:
            first = format_id(shared.uuid, min(wanted - available))
            raise AllocationError(f"{request.resource}: {first} is to be included, but is not available")
        rooms.append(Room(shared, wanted, available - wanted))
    return rooms


def _check_room(request: Request, found: Survey, rooms: Sequence[Room]) -> None:
    usable = _total((*found.begun, *found.others))
    if usable >= found.missing:
        return
    included = request.size - found.missing
    free = _total(rooms) + included
    text = f"{request.resource}: {request.size} shares were asked for, {free} are free on this node"
    if free >= request.size:
        text += f", but only {usable + included} of them on devices that nobody else uses (allocator.allowCollocation is off)"
    raise NotEnoughShares(text)


def _split_text(request: Request, found: Survey) -> str:
    rooms = found.begun or found.others
    best = max(rooms, key=lambda room: (len(room.free) + len(room.forced), room.device.uuid))
    where = "the device it already uses" if found.begun else "one device"
    return (
        f"{request.resource}: {request.size} shares were asked for, the largest free room on {where} is "
        f"{len(best.free) + len(best.forced)} of {best.device.advertised} ({best.device.uuid}); "
        "splitting over devices is off (allocator.noSplit)"
    )


def _total(rooms: Iterable[Room]) -> int:
    return sum(len(room.free) for room in rooms)
