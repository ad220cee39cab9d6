"""Whether a pid that the driver lists can still mean the process that has this pid now. Pure.

The driver keeps a listing for as long as anybody holds the memory, also after its process has died (a child inherited the
open device). The kernel hands the number out again meanwhile, and the memory of the dead would be put down to the innocent.
So a listing belongs to the process that had the pid when the listing was first seen. Another process under that pid is
believed only once the listing has vanished, or shows another figure, which the memory of the dead does not.

What cannot be told: a number that changed hands, with the memory of the dead still listed, before the listing or its present
figure was first seen. That takes the kernel going through all its numbers within one look, or while no daemon runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mortalgpu.host.base import HostProcess
from mortalgpu.model.device import Fault, GpuProcess

Listing = tuple[str, int]
"""A device's UUID and a pid the driver lists there."""


@dataclass(frozen=True, slots=True)
class _Owned:
    owner: HostProcess | None
    used_bytes: int | None


class Listings:
    """Remembers whose each listing was, from scan to scan. Every method is a plain computation."""

    def __init__(self) -> None:
        self._owned: dict[Listing, _Owned] = {}

    def disbelieved(
        self, processes: Mapping[str, tuple[GpuProcess, ...] | Fault], hosts: Mapping[int, HostProcess]
    ) -> frozenset[Listing]:
        """Take in one scan and return the listings that are not the present process's.

        A device without a list keeps what was known of it. A process that only moved to another container is the same.
        """
        strange: set[Listing] = set()
        owned: dict[Listing, _Owned] = {}
        for uuid, found in processes.items():
            if isinstance(found, Fault):
                owned.update({listing: known for listing, known in self._owned.items() if listing[0] == uuid})
                continue
            for process in found:
                listing = (uuid, process.pid)
                known = self._owned.get(listing)
                present = hosts.get(process.pid)
                if known is None or known.used_bytes != process.used_bytes or _same(known.owner, present):
                    owned[listing] = _Owned(present, process.used_bytes)
                else:
                    owned[listing] = known
                    strange.add(listing)
        self._owned = owned
        return frozenset(strange)


def _same(one: HostProcess | None, other: HostProcess | None) -> bool:
    if one is None or other is None:
        return one is other
    return (one.pid, one.start_ticks) == (other.pid, other.start_ticks)
