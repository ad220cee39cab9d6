"""How much a container may use of each device: its shares' worth, or more with the overcommit annotation. Pure.

The rules:
1. The request on a device is what the shares held there are worth, computed from that device: shares of one resource may
   differ in size from device to device.
2. The annotation `gpu-mem-limit.<resource>: "<shares>"` of the pod sets another number of shares for each of its containers
   that holds the resource. It counts shares of the resource over all devices, as the request does, and is spread over
   the container's devices in proportion to the shares it holds on each.
3. A limit is never below the request and never above the device.
4. The operator may cap limits at a multiple of the request.
5. An annotation that cannot be read changes nothing. That, a number below the request and one above the operator's cap are
   told to the owner; one above the device means all of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mortalgpu.cluster.base import LIMIT_ANNOTATION_PREFIX
from mortalgpu.model.share import SharedDevice

_MORE_THAN_ANY_DEVICE = 10**9
"""Shares. A larger number is read as this one: it keeps a hostile text from becoming a huge integer."""


@dataclass(frozen=True, slots=True)
class LimitNotice:
    """An annotation that was not followed to the letter: which resource's, its text, and what was done instead."""

    resource: str
    text: str
    problem: str

    @property
    def message(self) -> str:
        """One sentence for the pod's owner."""
        shown = self.text if len(self.text) <= 40 else self.text[:37] + "..."
        return f"annotation {LIMIT_ANNOTATION_PREFIX}{self.resource}: {shown!a} {self.problem}"


@dataclass(frozen=True, slots=True)
class LimitShares:
    """How many shares of one resource the limit is made of, against `held`, with a notice where an annotation was corrected."""

    held: int
    shares: int
    notice: LimitNotice | None = None


def limit_shares(resource: str, held: int, annotations: Mapping[str, str], max_overcommit: float) -> LimitShares:
    """Return how many shares of `resource` limit a container that holds `held` of them (rules 2 to 5).

    `max_overcommit` is the highest multiple of the request that an annotation may ask for; 0: only the device caps it.
    """
    text = annotations.get(LIMIT_ANNOTATION_PREFIX + resource)
    if text is None:
        return LimitShares(held, held)
    wanted = _read_count(text)
    if wanted is None:
        return LimitShares(held, held, LimitNotice(resource, text, f"is not a whole number of shares; the limit stays {held}"))
    if wanted < held:
        problem = f"is below the {held} shares requested; the limit stays {held}"
        return LimitShares(held, held, LimitNotice(resource, text, problem))
    cap = max(held, int(held * max_overcommit)) if max_overcommit > 0 else wanted
    if wanted > cap:
        problem = f"is above the {cap} shares that this node's operator allows for a request of {held}; the limit is {cap}"
        return LimitShares(held, cap, LimitNotice(resource, text, problem))
    return LimitShares(held, wanted)


def limit_on(shared: SharedDevice, held_here: int, limit: LimitShares) -> int:
    """Return the limit in bytes on one device of which `held_here` of the `limit.held` shares are held (rules 2 and 3)."""
    whole = shared.device.memory_bytes
    spread = whole * limit.shares * held_here // (shared.shares * limit.held)
    return min(whole, max(shared.limit_bytes(held_here), spread))


def _read_count(text: str) -> int | None:
    digits = text.strip()
    if not (digits.isascii() and digits.isdecimal()):
        return None
    significant = digits.lstrip("0")
    return int(significant or "0") if len(significant) <= len(str(_MORE_THAN_ANY_DEVICE)) else _MORE_THAN_ANY_DEVICE
