"""Which container holds what, as far as it is certain. Pure: times, views and readings come in as arguments.

kubelet names containers by namespace, pod name and container name; the kernel by pod UID and container id. The two are
joined through the pods view. A name can come to mean another pod, and each of the three sources can be late, so the join is
made once for each container, when all of these hold, and is final from then on, because kubelet never changes what a
running container holds:

1. The reading of kubelet's books began after the container was first seen alive: its pod was completely admitted by then.
2. The pods view was in sync when the reading began, and is now, and both times this pod was the only one of its name that
   is not finished. A pod that left the view but still has processes counts as one of that name.
3. The reading has one entry of that name; several that agree are one. Where kubelet's checkpoint knows the container, by
   pod UID and container name, it says the same.

A container that the reading does not list is not a container that holds nothing: kubelet lists no init containers (which may
hold shares) and no ephemeral ones, and a kubelet that has just started lists no pods at all. What kubelet's checkpoint says of
it is taken instead; it was written before the container started. Without that it stays unknown and is tried again with each
reading. What is bound stays bound while the container lives, whoever stops answering.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from mortalgpu.cluster.base import NO_PODS, PodsView
from mortalgpu.errors import UnknownMetaDevice
from mortalgpu.kubelet.base import CheckpointEntry
from mortalgpu.model.pod import Assignment, Container, ContainerRef, Pod
from mortalgpu.sharing.metaid import parse_id

Name = tuple[str, str]
"""A pod's namespace and name: what kubelet goes by, and no identity."""


@dataclass(frozen=True, slots=True)
class Reading:
    """kubelet's books as read once. `began_at` is monotonic seconds, `view` the pods as known at that moment.

    `checkpoint` is what kubelet's checkpoint said then; empty when it could not be read.
    """

    assignments: tuple[Assignment, ...]
    began_at: float
    view: PodsView = NO_PODS
    checkpoint: tuple[CheckpointEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class HeldOn:
    """What a container holds of one device, under the resource it was asked for by."""

    uuid: str
    resource: str
    meta_devices: tuple[str, ...]

    @property
    def shares(self) -> int:
        """How many."""
        return len(self.meta_devices)


@dataclass(frozen=True, slots=True)
class Entry:
    """One container in kubelet's books: names, and what it holds by device. Ids that are no meta-devices are left out."""

    namespace: str
    pod_name: str
    container_name: str
    held: tuple[HeldOn, ...]


@dataclass(frozen=True, slots=True)
class Binding:
    """What is certain of a live container.

    `entry` is its line in kubelet's books, or None when kubelet does not list it: then nobody knows what it holds.
    `pod_holds`: some container of the same pod holds shares of ours.
    """

    entry: Entry | None
    pod_holds: bool


@dataclass(frozen=True, slots=True)
class Alive:
    """A container that lives now, as the ledger knows it. `pod`, `container` and `binding` are None while not known."""

    ref: ContainerRef
    pod: Pod | None
    container: Container | None
    binding: Binding | None


@dataclass(slots=True)
class _Known:
    first_seen: float
    pod: Pod | None = None
    container: Container | None = None
    binding: Binding | None = None
    tried: float = float("-inf")
    """`began_at` of the last reading that was tried for it."""


@dataclass(slots=True)
class _Books:
    """A reading, indexed."""

    reading: Reading
    entries: Mapping[tuple[str, str, str], Entry | None] = field(default_factory=dict)
    """None: several entries of that name that do not agree."""
    holding: frozenset[Name] = frozenset()
    alone_then: Mapping[Name, str | None] = field(default_factory=dict)
    owners: Mapping[str, Name | None] = field(default_factory=dict)
    """The pod that has each id; None: several."""

    def say(self, pod: Pod, container_name: str) -> Binding | None:
        """Return what the reading says of a container of a pod; None when it contradicts itself there."""
        name = (pod.namespace, pod.name)
        key = (*name, container_name)
        if key in self.entries and self.entries[key] is None:
            return None
        listed, booked = self.entries.get(key), self._from_checkpoint(pod, container_name)
        if listed and booked and set(listed.held) != set(booked.held):
            return None
        entry = listed or booked
        return Binding(entry, name in self.holding or bool(entry and entry.held))

    def _from_checkpoint(self, pod: Pod, container_name: str) -> Entry | None:
        found: dict[str, tuple[str, ...]] = {}
        for booked in self.reading.checkpoint:
            if (booked.pod_uid, booked.container_name) == (pod.uid, container_name):
                found[booked.resource] = booked.meta_devices
        return Entry(pod.namespace, pod.name, container_name, _held(found)) if found else None


class Ledger:
    """Remembers bindings from scan to scan. Not shared between tasks; every method is a plain computation."""

    def __init__(self) -> None:
        self._known: dict[ContainerRef, _Known] = {}
        self._books: _Books | None = None

    @property
    def reading(self) -> Reading | None:
        """The newest reading taken in."""
        return self._books.reading if self._books else None

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The containers in the newest reading, without those whose name is ambiguous."""
        return tuple(entry for entry in self._books.entries.values() if entry) if self._books else ()

    @property
    def holding(self) -> frozenset[Name]:
        """Names of the pods of which a container holds shares of ours, by the newest reading."""
        return self._books.holding if self._books else frozenset()

    @property
    def owners(self) -> Mapping[str, Name | None]:
        """The pod that has each id by the newest reading, None for one that several have. Not to be changed."""
        return self._books.owners if self._books else {}

    def take(self, reading: Reading) -> None:
        """Replace the reading by a newer one. Assignments that are the same object as before are not indexed again."""
        alone_then = _sole_holders(reading.view, ())
        if self._books is not None and self._books.reading.assignments is reading.assignments:
            self._books = replace(self._books, reading=reading, alone_then=alone_then)
            return
        entries = _index(reading.assignments)
        holding = frozenset(
            (found.pod_namespace, found.pod_name) for found in reading.assignments if any(found.meta_devices.values())
        )
        self._books = _Books(reading, entries, holding, alone_then, _owners(entries.values()))

    def observe(self, view: PodsView, with_processes: Collection[ContainerRef], now: float) -> bool:
        """Take note of who is alive at monotonic time `now`, forget who is not, and bind whom it can.

        `with_processes` are the containers that the kernel shows processes of. Returns whether a new reading would help.
        """
        self._refresh_living(view, with_processes, now)
        return self._bind_all(view)

    def alive(self) -> Iterable[Alive]:
        """Return every container that was alive at the last observation."""
        return [Alive(ref, known.pod, known.container, known.binding) for ref, known in self._known.items()]

    def _refresh_living(self, view: PodsView, with_processes: Collection[ContainerRef], now: float) -> None:
        living: dict[ContainerRef, _Known] = {}
        for pod in view.pods.values():
            for container in pod.containers if not pod.finished else ():
                ref = ContainerRef(pod.uid, container.container_id)
                if container.running and container.container_id:
                    living[ref] = self._known.get(ref) or _Known(now)
        for ref in with_processes:
            if ref.container_id and ref.pod_uid:
                living.setdefault(ref, self._known.get(ref) or _Known(now))
        for ref, known in living.items():
            known.pod = view.pod_of(ref) or known.pod
            known.container = view.container_of(ref) or known.container
        self._known = living

    def _bind_all(self, view: PodsView) -> bool:
        unbound = [known for known in self._known.values() if _open(known)]
        if not unbound:
            return False
        gone = [known.pod for ref, known in self._known.items() if known.pod and ref.pod_uid not in view.pods]
        alone_now = _sole_holders(view, gone)
        wanted = False
        for known in unbound:
            wanted |= self._bind(known, alone_now)
        return wanted

    def _bind(self, known: _Known, alone_now: Mapping[Name, str | None]) -> bool:
        """Bind one container from the newest reading if the rules allow it; returns whether a newer reading would help."""
        pod, container, books = known.pod, known.container, self._books
        if pod is None or container is None:
            return False
        name = (pod.namespace, pod.name)
        if alone_now.get(name) != pod.uid:
            return False
        if books is None or books.reading.began_at <= known.first_seen or books.alone_then.get(name) != pod.uid:
            return True
        if known.tried < books.reading.began_at:
            known.tried = books.reading.began_at
            known.binding = books.say(pod, container.name)
        return False


def _open(known: _Known) -> bool:
    return known.binding is None or known.binding.entry is None


def _sole_holders(view: PodsView, departed: Iterable[Pod]) -> dict[Name, str | None]:
    """Return the UID of the one unfinished pod of each name, None where there are several. Empty for a view out of sync."""
    holders: dict[Name, str | None] = {}
    if not view.synced:
        return holders
    for pod in (*view.pods.values(), *{pod.uid: pod for pod in departed}.values()):
        if not pod.finished:
            name = (pod.namespace, pod.name)
            holders[name] = pod.uid if name not in holders else None
    return holders


def _index(assignments: Iterable[Assignment]) -> dict[tuple[str, str, str], Entry | None]:
    entries: dict[tuple[str, str, str], Entry | None] = {}
    for found in assignments:
        key = (found.pod_namespace, found.pod_name, found.container_name)
        entry = Entry(*key, _held(found.meta_devices))
        entries[key] = entry if key not in entries or entries[key] == entry else None
    return entries


def _owners(entries: Iterable[Entry | None]) -> dict[str, Name | None]:
    owners: dict[str, Name | None] = {}
    for entry in filter(None, entries):
        name = (entry.namespace, entry.pod_name)
        for text in (text for each in entry.held for text in each.meta_devices):
            owners[text] = name if owners.get(text, name) == name else None
    return owners


def _held(meta_devices: Mapping[str, tuple[str, ...]]) -> tuple[HeldOn, ...]:
    """Group ids by device; an id listed twice is held once, also where two resources claim it."""
    groups: dict[tuple[str, str], dict[str, int]] = {}
    seen: set[str] = set()
    for resource, ids in meta_devices.items():
        for text in ids:
            if text in seen:
                continue
            seen.add(text)
            try:
                uuid, number = parse_id(text)
            except UnknownMetaDevice:
                continue
            groups.setdefault((uuid, resource), {})[text] = number
    return tuple(
        HeldOn(uuid, resource, tuple(sorted(numbers, key=numbers.__getitem__))) for (uuid, resource), numbers in groups.items()
    )
