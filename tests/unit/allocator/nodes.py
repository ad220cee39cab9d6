"""Small nodes for the tests of the allocators, and requests on them."""

from collections.abc import Iterable, Mapping, Sequence

from hypothesis import strategies as st

from mortalgpu.allocator.base import Request, Terms
from mortalgpu.model.device import Device, MigPlacement
from mortalgpu.model.share import SharedDevice
from mortalgpu.sharing.metaid import format_ids

RESOURCE = "example.com/gpu"
MAY_SPLIT = Terms(no_split=False)


def device(name: str, shares: int, *, memory_bytes: int = 1000, reserved: int = 0, gi_id: int | None = None) -> SharedDevice:
    """A shared GPU, or a partition when `gi_id` is given."""
    mig = None if gi_id is None else MigPlacement("GPU-parent", gi_id, 0)
    return SharedDevice(Device(name, 0, "model", memory_bytes, mig=mig), RESOURCE, shares, reserved)


def equal(count: int, shares: int) -> tuple[SharedDevice, ...]:
    """Equal devices "0", "1", … as the tables call them."""
    return tuple(device(str(number), shares) for number in range(count))


def ids(free: Mapping[str, Iterable[int]]) -> tuple[str, ...]:
    """Ids by device and number."""
    return tuple(text for uuid, numbers in free.items() for text in format_ids(uuid, numbers))


def request(size: int, available: Iterable[str], must_include: Iterable[str] = ()) -> Request:
    """A request for the one resource of these tests."""
    return Request(RESOURCE, size, tuple(available), tuple(must_include))


def counts(answer: Sequence[str]) -> dict[str, int]:
    """How many ids of an answer lie on each device."""
    found: dict[str, int] = {}
    for text in answer:
        uuid = text.rpartition("::")[0]
        found[uuid] = found.get(uuid, 0) + 1
    return found


@st.composite
def nodes(draw: st.DrawFn) -> tuple[tuple[SharedDevice, ...], dict[str, tuple[int, ...]]]:
    """Unequal GPUs and partitions, and which of their advertised numbers are free: at least one."""
    devices: list[SharedDevice] = []
    free: dict[str, tuple[int, ...]] = {}
    for number in range(draw(st.integers(1, 5))):
        shares = draw(st.integers(1, 6))
        member = device(
            f"{draw(st.sampled_from(('GPU', 'MIG')))}-{number}",
            shares,
            memory_bytes=draw(st.sampled_from((600, 1000, 7919))),
            reserved=draw(st.integers(0, shares - 1)),
            gi_id=draw(st.one_of(st.none(), st.integers(0, 13))),
        )
        devices.append(member)
        least = 1 if number == 0 else 0
        free[member.uuid] = tuple(sorted(draw(st.sets(st.integers(0, member.advertised - 1), min_size=least))))
    return tuple(draw(st.permutations(devices))), free


@st.composite
def cases(draw: st.DrawFn, *, excess: int = 0) -> tuple[Request, tuple[SharedDevice, ...]]:
    """A node and a request for at most what is free on it (and `excess` more), some ids to be included, stale ids around."""
    devices, free = draw(nodes())
    usable = ids(free)
    stale = [f"{member.uuid}::{member.advertised}" for member in devices if draw(st.booleans())]
    forced = draw(st.lists(st.sampled_from(usable), unique=True, max_size=3))
    size = draw(st.integers(max(1, len(forced)), len(usable) + excess))
    return request(size, draw(st.permutations([*usable, *stale])), forced), devices


@st.composite
def fitting_cases(draw: st.DrawFn) -> tuple[Request, tuple[SharedDevice, ...]]:
    """A node and a request that at least one of its devices holds alone."""
    devices, free = draw(nodes())
    size = draw(st.integers(1, max(len(numbers) for numbers in free.values())))
    return request(size, draw(st.permutations(ids(free)))), devices
