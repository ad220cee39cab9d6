"""The text form of a meta-device's id: `<device uuid>::<number>`, number from 0.

An id is a function of the device and the number only, never of the driver's order, the configuration or the time:
kubelet's checkpoint remembers ids across restarts of everything. The form is also the one that dcgm-exporter reads as a
shared replica. What an id is worth is not in it; see layout.py.
"""

from collections.abc import Iterable

from mortalgpu.errors import UnknownMetaDevice
from mortalgpu.model.share import SharedDevice

SEPARATOR = "::"

_LONGEST_SHOWN = 80
"""Characters of an id that a message shows."""
_LONGEST_NUMBER = 9
"""Digits. Far above any share count; keeps a hostile text from becoming a huge integer."""


def format_id(uuid: str, number: int) -> str:
    """Return the id of share `number` of the device `uuid`."""
    return f"{uuid}{SEPARATOR}{number}"


def format_ids(uuid: str, numbers: Iterable[int]) -> tuple[str, ...]:
    """Return the ids of several shares of one device, in the order given."""
    head = uuid + SEPARATOR
    return tuple([f"{head}{number}" for number in numbers])


def advertised_ids(shared: SharedDevice) -> tuple[str, ...]:
    """Return the ids of all advertised shares of a device, by number."""
    return format_ids(shared.uuid, range(shared.advertised))


def parse_id(text: str) -> tuple[str, int]:
    """Return an id's device UUID and number.

    Only the exact form that `format_id` writes is accepted: two spellings of one id would be counted twice. Raises
    UnknownMetaDevice for any other text.
    """
    uuid, separator, digits = text.rpartition(SEPARATOR)
    if not (uuid and separator and digits.isdecimal() and digits.isascii() and _is_canonical(digits)):
        raise UnknownMetaDevice(f"{quoted(text)} is not the id of a meta-device: expected <device uuid>::<number>")
    return uuid, int(digits)


def numbers_by_device(ids: Iterable[str]) -> dict[str, list[int]]:
    """Group ids by device UUID, numbers in the order given; duplicates are kept. Raises UnknownMetaDevice as `parse_id`."""
    groups: dict[str, list[int]] = {}
    for text in ids:
        # parse_id written out: this loop sees every free id of the node, and the call alone would double its time.
        uuid, _, digits = text.rpartition(SEPARATOR)
        if not (uuid and digits.isdecimal() and digits.isascii() and (digits[0] != "0" or digits == "0")):
            parse_id(text)
        group = groups.get(uuid)
        if group is None:
            group = groups[uuid] = []
        group.append(int(digits) if len(digits) <= _LONGEST_NUMBER else parse_id(text)[1])
    return groups


def named(uuid: str, number: int) -> str:
    """Return an id for a message: as it is, or quoted and cut when somebody else's text is in it that is not fit for a line."""
    text = format_id(uuid, number)
    return text if text.isascii() and text.isprintable() and len(text) <= _LONGEST_SHOWN else quoted(text)


def _is_canonical(digits: str) -> bool:
    return len(digits) <= _LONGEST_NUMBER and (digits[0] != "0" or digits == "0")


def quoted(text: str) -> str:
    """Quote foreign text for a message: one line, and cut."""
    return ascii(text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "...")
