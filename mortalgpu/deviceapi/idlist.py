"""The text form of a list of meta-device ids inside a token: the ids themselves, or ranges where there are many.

A token travels in an environment variable and in the header of every call, so that it must stay small: a container
with hundreds of shares gets `<uuid>::0-319,400` for each device instead. Pure.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby

from mortalgpu.errors import Unauthenticated
from mortalgpu.sharing.metaid import SEPARATOR, format_ids, numbers_by_device

MOST_PLAIN = 100
"""Up to so many ids are written one by one."""
MOST_IDS = 100_000
"""More than kubelet can list; keeps a range from filling the memory."""


def pack(ids: Sequence[str]) -> list[str]:
    """Return the form that goes into a token."""
    if len(ids) <= MOST_PLAIN:
        return list(ids)
    return [f"{uuid}{SEPARATOR}{_ranges(found)}" for uuid, found in numbers_by_device(ids).items()]


def unpack(entries: object) -> tuple[str, ...]:
    """Return the ids of a token's list, plain or in ranges. Raises Unauthenticated for anything else."""
    if not isinstance(entries, (list, tuple)):
        raise Unauthenticated("token's metaDevices is not a list")
    ids: list[str] = []
    for entry in entries:
        if not isinstance(entry, str):
            raise Unauthenticated("token's metaDevices holds something else than ids")
        ids += _expand(entry, MOST_IDS - len(ids))
    return tuple(ids)


def _expand(entry: str, room: int) -> Iterable[str]:
    uuid, _, numbers = entry.rpartition(SEPARATOR)
    ids: list[str] = []
    for part in numbers.split(","):
        first, _, last = part.partition("-")
        if not uuid or not _is_number(first) or (last and not _is_number(last)):
            raise Unauthenticated("token's metaDevices holds something else than ids")
        span = range(int(first), int(last or first) + 1)
        if len(span) > room - len(ids):
            raise Unauthenticated("token's metaDevices holds too many ids")
        ids += format_ids(uuid, span)
    return ids


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 9


def _ranges(numbers: Iterable[int]) -> str:
    """Write numbers as `0-3,7`. Within a run of neighbours, number and position keep their distance."""
    runs = groupby(enumerate(sorted(set(numbers))), key=lambda pair: pair[1] - pair[0])
    spans = [[number for _, number in run] for _, run in runs]
    return ",".join(str(span[0]) if len(span) == 1 else f"{span[0]}-{span[-1]}" for span in spans)
