"""The spreading policy: the device with the most free memory in shares, ties by UUID.

Free memory counts in bytes, since shares differ in size from device to device. A request that fits no device uses up those with
the most, as far as the fewest devices allow.
"""

from collections.abc import Sequence

from mortalgpu.allocator.base import Request, Terms
from mortalgpu.allocator.room import Room, Taste, survey, take
from mortalgpu.model.share import SharedDevice


def choose(request: Request, devices: Sequence[SharedDevice], terms: Terms) -> tuple[str, ...]:
    """Choose meta-devices; see Allocator.prefer."""
    return take(survey(request, devices, terms), _TASTE)


def _most_free_bytes(room: Room) -> tuple[int | str, ...]:
    return -room.free_bytes, room.device.uuid


_TASTE = Taste(to_hold=_most_free_bytes, to_use_up=_most_free_bytes)
