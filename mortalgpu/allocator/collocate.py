"""The packing policy: fill the devices in use before an empty one is begun.

1. A request that fits one device goes to the one that it fills best: fewest shares left over, ties by UUID.
2. A larger one uses up whole free devices first, the largest first, and takes its rest from the fullest device that holds it,
   as far as the fewest devices allow.
"""

from collections.abc import Sequence

from mortalgpu.allocator.base import Request, Terms
from mortalgpu.allocator.room import Room, Taste, survey, take
from mortalgpu.model.share import SharedDevice


def choose(request: Request, devices: Sequence[SharedDevice], terms: Terms) -> tuple[str, ...]:
    """Choose meta-devices; see Allocator.prefer. Packing shares devices, so `allow_collocation` does not concern it."""
    return take(survey(request, devices, Terms(no_split=terms.no_split)), _TASTE)


def _least_left_over(room: Room) -> tuple[int | str, ...]:
    return len(room.free), room.device.uuid


def _whole_then_largest(room: Room) -> tuple[int | str, ...]:
    return not room.is_whole, -len(room.free), room.device.uuid


_TASTE = Taste(to_hold=_least_left_over, to_use_up=_whole_then_largest)
