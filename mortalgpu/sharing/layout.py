"""Which share layout is in force on each device while containers still hold shares of an older one.

An id says which device and which number, not what it is worth. If a changed share count took effect under running
containers, their ids would silently be worth something else, and kubelet would hand the same memory out twice.

The rules:
1. The layout last in force is remembered per device: resource, shares, reserved. The file's text form is here; reading and
   writing it is not.
2. While containers hold ids of a device, or nobody can tell yet, the remembered layout stays in force, the resource name
   included, even when no entry takes the device any more.
3. When the last of them is gone, the configured layout takes over.
4. A change of the reserved shares alone changes no id's worth. It waits only while a held number would no longer be
   advertised, which kubelet would take for a sick device.
5. A device that is held and not remembered (the file was lost), or remembered otherwise than it is held (the file is old),
   keeps what the evidence tells: the totals that the running containers were told, else the highest number held. See recover.
"""

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mortalgpu.errors import UnknownMetaDevice
from mortalgpu.model.device import Device
from mortalgpu.model.grant import Grant
from mortalgpu.model.pod import Assignment
from mortalgpu.model.share import Inventory, LayoutNotice, SharedDevice
from mortalgpu.sharing.metaid import numbers_by_device, parse_id
from mortalgpu.sharing.partition import KUBELET_MESSAGE_BYTES, device_order, list_bytes


@dataclass(frozen=True, slots=True)
class LayoutEntry:
    """The layout in force on one device."""

    resource: str
    shares: int
    reserved: int = 0

    @property
    def advertised(self) -> int:
        """How many shares kubelet was told of."""
        return self.shares - self.reserved


@dataclass(frozen=True, slots=True)
class Held:
    """What containers hold of one device: under which resource, how many shares, and the highest number among them."""

    resource: str
    count: int
    highest: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """The layout in force now.

    `inventory` is what to advertise, with a notice for each device that waits; `remembered` is what to write, also for held
    devices that the driver does not show at present. While `provisional`, nobody could say what is held: advertise only
    devices that were remembered, and write nothing.
    """

    inventory: Inventory
    remembered: Mapping[str, LayoutEntry]
    provisional: bool = False
    held_back: frozenset[str] = frozenset()
    """Devices that wait, since beside the layouts kept the list of their resource would be longer than kubelet reads."""


@dataclass(frozen=True, slots=True)
class LoadedLayout:
    """A remembered layout as read from text, and what could not be read of it, for the log; empty when all was well."""

    entries: Mapping[str, LayoutEntry] = field(default_factory=dict)
    problem: str = ""


def held_shares(assignments: Iterable[Assignment], fresh: Iterable[Grant] = ()) -> dict[str, Held]:
    """Return what containers hold, by device UUID, from kubelet's assignments and grants too fresh to be among them.

    Ids that are not of our form are skipped. Should a device be held under two resources, the one with more ids counts.
    """
    numbers: dict[tuple[str, str], set[int]] = {}
    for assignment in assignments:
        for resource, ids in assignment.meta_devices.items():
            _collect(numbers, resource, ids)
    for grant in fresh:
        _collect(numbers, grant.resource, grant.meta_devices)
    held: dict[str, Held] = {}
    for (uuid, resource), found in sorted(numbers.items()):
        if uuid not in held or len(found) > held[uuid].count:
            held[uuid] = Held(resource, len(found), max(found))
    return held


def settle(wanted: Inventory, remembered: Mapping[str, LayoutEntry], held: Mapping[str, Held] | None) -> Settlement:
    """Decide the layout in force on each device (rules 2 to 4). `held` is None while nobody can say what is held."""
    configured = {shared.uuid: shared for shared in wanted.devices}
    in_force: list[SharedDevice] = []
    left_alone: list[Device] = []
    notices: list[LayoutNotice] = []
    entries: dict[str, LayoutEntry] = _absent(wanted, remembered, held)
    for device in sorted([*(shared.device for shared in wanted.devices), *wanted.left_alone], key=device_order):
        want = configured.get(device.uuid)
        old = remembered.get(device.uuid)
        if old and _must_wait(old, want, held, device.uuid):
            in_force.append(SharedDevice(device, old.resource, old.shares, old.reserved))
            notices.append(_notice(old, want, held, device.uuid))
        elif want:
            in_force.append(want)
        else:
            left_alone.append(device)
    held_back = _held_back(in_force, {notice.uuid for notice in notices})
    in_force = [shared for shared in in_force if shared.uuid not in held_back]
    entries |= {shared.uuid: _entry(shared) for shared in in_force}
    inventory = Inventory(tuple(in_force), tuple(left_alone), wanted.health, tuple(notices))
    return Settlement(inventory, entries, held is None, held_back)


def recover(
    wanted: Inventory, remembered: Mapping[str, LayoutEntry], held: Mapping[str, Held], totals: Mapping[str, int]
) -> dict[str, LayoutEntry]:
    """Return the remembered layout, completed and corrected by what containers hold (rule 5). To be done before `settle`.

    `totals` are shares by device UUID as the running containers were told at their start (evidence.parse_shares). A total
    that a held number contradicts is not believed.
    """
    configured = {shared.uuid: shared for shared in wanted.devices}
    entries = dict(remembered)
    for uuid, hold in held.items():
        entry = entries.get(uuid)
        if entry is None or entry.resource != hold.resource or entry.shares <= hold.highest:
            entries[uuid] = _from_evidence(configured.get(uuid), hold, totals.get(uuid, 0))
    return entries


def dump_layout(entries: Mapping[str, LayoutEntry]) -> str:
    """Return the remembered layout as JSON text, the same for the same layout."""
    devices = {
        uuid: {"resource": entry.resource, "shares": entry.shares, "reserved": entry.reserved}
        for uuid, entry in entries.items()
    }
    return json.dumps({"version": _VERSION, "devices": devices}, indent=1, sort_keys=True) + "\n"


def load_layout(text: str) -> LoadedLayout:
    """Read what `dump_layout` wrote. Never raises: what cannot be read is left out and told in `problem`."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        return LoadedLayout(problem=f"not JSON: {error}")
    if not isinstance(document, dict) or document.get("version") != _VERSION:
        return LoadedLayout(problem=f"not a share layout of version {_VERSION}")
    devices = document.get("devices")
    if not isinstance(devices, dict):
        return LoadedLayout(problem="devices: expected an object")
    entries = {uuid: entry for uuid, value in devices.items() if (entry := _read_entry(value))}
    unread = [uuid for uuid in devices if uuid not in entries]
    return LoadedLayout(entries, f"unreadable entries: {_shown(unread)}" if unread else "")


_VERSION = 1
_MOST_SHARES = 10**6
"""Of one device: far above what fits into a message to kubelet. A damaged figure must not become as many ids."""
_MOST_SHOWN, _LONGEST_SHOWN = 8, 60
"""Unreadable entries that are named, and characters of each name."""


def _collect(numbers: dict[tuple[str, str], set[int]], resource: str, ids: Iterable[str]) -> None:
    for uuid, found in numbers_by_device(text for text in ids if _is_id(text)).items():
        numbers.setdefault((uuid, resource), set()).update(found)


def _is_id(text: str) -> bool:
    try:
        parse_id(text)
    except UnknownMetaDevice:
        return False
    return True


def _must_wait(old: LayoutEntry, want: SharedDevice | None, held: Mapping[str, Held] | None, uuid: str) -> bool:
    if want and _entry(want) == old:
        return False
    if held is not None and uuid not in held:
        return False
    if want is None or want.resource != old.resource or want.shares != old.shares:
        return True
    highest = held[uuid].highest if held is not None else old.advertised - 1
    return highest >= want.advertised


def _held_back(devices: Sequence[SharedDevice], kept: Container[str]) -> frozenset[str]:
    """Return which devices, the last first, must wait until the lists are short enough. Layouts kept never wait."""
    waiting: set[str] = set()
    for resource in dict.fromkeys(shared.resource for shared in devices):
        members = [shared for shared in devices if shared.resource == resource]
        size = list_bytes(members)
        for shared in reversed(members):
            if size > KUBELET_MESSAGE_BYTES and shared.uuid not in kept:
                size -= list_bytes([shared])
                waiting.add(shared.uuid)
    return frozenset(waiting)


def _notice(old: LayoutEntry, want: SharedDevice | None, held: Mapping[str, Held] | None, uuid: str) -> LayoutNotice:
    count = held[uuid].count if held is not None else 0
    return LayoutNotice(uuid, old.resource, old.shares, want.shares if want else 0, count)


def _absent(
    wanted: Inventory, remembered: Mapping[str, LayoutEntry], held: Mapping[str, Held] | None
) -> dict[str, LayoutEntry]:
    """Return the entries of devices the driver does not show, as long as somebody may hold their ids."""
    present = {shared.uuid for shared in wanted.devices} | {device.uuid for device in wanted.left_alone}
    return {uuid: entry for uuid, entry in remembered.items() if uuid not in present and (held is None or uuid in held)}


def _from_evidence(want: SharedDevice | None, hold: Held, total: int) -> LayoutEntry:
    needed = hold.highest + 1
    if total >= needed:
        shares = total
    elif want and needed <= want.shares:
        shares = want.shares
    else:
        # Nobody knows the total any more. The least that is possible makes each id worth at least what it was, and all
        # of them together still no more than the device.
        shares = needed
    reserved = min(-(-want.reserved * shares // want.shares), shares - needed) if want else 0
    return LayoutEntry(hold.resource, shares, reserved)


def _entry(shared: SharedDevice) -> LayoutEntry:
    return LayoutEntry(shared.resource, shared.shares, shared.reserved)


def _read_entry(value: object) -> LayoutEntry | None:
    match value:
        case {"resource": str(resource), "shares": shares, "reserved": reserved} if _are_counts(shares, reserved):
            return LayoutEntry(resource, shares, reserved)
        case _:
            return None


def _are_counts(shares: object, reserved: object) -> bool:
    """Whether these are numbers that were ever in force. JSON's true is a number to Python, and none to us."""
    return type(shares) is type(reserved) is int and 0 <= reserved <= shares <= _MOST_SHARES and shares > 0


def _shown(uuids: list[str]) -> str:
    """Some names, as a log may show them: a damaged file has damaged names."""
    rest = f" and {len(uuids) - _MOST_SHOWN} more" if len(uuids) > _MOST_SHOWN else ""
    return ", ".join(ascii(uuid[:_LONGEST_SHOWN])[1:-1] for uuid in uuids[:_MOST_SHOWN]) + rest
