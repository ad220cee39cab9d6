"""What a container was told of its shares: the text of MORTALGPU_SHARES, `uuid=held/total;uuid=held/total`.

It is written into each container's environment with its grant. Should the remembered layout be lost, the totals in the
environments of running containers tell into how many shares each device was cut when they were given out.
"""

from collections.abc import Iterable, Mapping

from mortalgpu.model.grant import Grant
from mortalgpu.model.share import SharedDevice

VARIABLE = "MORTALGPU_SHARES"


def shares_text(grant: Grant, devices: Mapping[str, SharedDevice]) -> str:
    """Return the variable's value for a grant; `devices` by UUID, those of the grant among them."""
    return ";".join(f"{uuid}={held}/{devices[uuid].shares}" for uuid, held in grant.shares.items())


def parse_shares(text: str) -> dict[str, tuple[int, int]]:
    """Return held and total shares by device UUID. Parts that are not of the form are skipped: a tenant may have written it."""
    shares: dict[str, tuple[int, int]] = {}
    for part in text.split(";"):
        uuid, _, figures = part.partition("=")
        held, _, total = figures.partition("/")
        if uuid and _is_count(held) and _is_count(total) and 0 < int(held) <= int(total):
            shares[uuid] = (int(held), int(total))
    return shares


def agreed_totals(texts: Iterable[str]) -> dict[str, int]:
    """Return total shares by device UUID from many containers' values; where they disagree, the total most of them tell."""
    votes: dict[str, dict[int, int]] = {}
    for text in texts:
        for uuid, (_, total) in parse_shares(text).items():
            counts = votes.setdefault(uuid, {})
            counts[total] = counts.get(total, 0) + 1
    return {uuid: max(counts, key=lambda total: (counts[total], total)) for uuid, counts in votes.items()}


def _is_count(digits: str) -> bool:
    return digits.isascii() and digits.isdecimal() and len(digits) <= 9
