"""What every allocator gets and gives.

An allocator chooses which free meta-devices a container gets when kubelet asks for a preference. For every answer:
1. exactly the wanted number, or an error; 2. a subset of the available ids; 3. the ids that must be included are in;
4. one device whenever one has the room, and never more devices than needed; 5. the same inputs give the same answer.

An allocator knows nothing of pods, of other resources, or of what it answered before.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from mortalgpu.model.share import SharedDevice


@dataclass(frozen=True, slots=True)
class Request:
    """What kubelet asks for one container: `size` ids out of `available`, with `must_include` (also available) among them."""

    resource: str
    size: int
    available: Collection[str]
    must_include: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Terms:
    """The operator's terms, which hold for every policy.

    `no_split`: a request that no single device can serve is refused. `allow_collocation` false: a device on which others
    hold a share already is not eligible.
    """

    no_split: bool = True
    allow_collocation: bool = True


class Allocator(Protocol):
    """Chooses meta-devices for one container."""

    async def prefer(self, request: Request, devices: Sequence[SharedDevice]) -> tuple[str, ...]:
        """Return the ids to use, by device and number. `devices` are those of the request's resource.

        Raises NotEnoughShares, WouldSplit, UnknownMetaDevice, ExternalAllocatorError or AllocationError with a text for the
        person who asked. May be cancelled at any time; bounded by itself.
        """
        ...


Choose = Callable[[Request, Sequence[SharedDevice], Terms], tuple[str, ...]]
"""A policy that needs nothing but its arguments."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A pure policy (`collocate.choose`, `spread.choose`) as an Allocator. It answers at once, without a checkpoint."""

    choose: Choose
    terms: Terms

    async def prefer(self, request: Request, devices: Sequence[SharedDevice]) -> tuple[str, ...]:
        """See Allocator.prefer."""
        return self.choose(request, devices, self.terms)
