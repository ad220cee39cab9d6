"""A node's story in virtual time, with the truth about it, against which each signal is held."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mortalgpu.errors import DriverError
from mortalgpu.host.base import HostProcess
from mortalgpu.model.device import Fault, GpuProcess
from mortalgpu.model.pod import ContainerRef, Pod
from mortalgpu.simulation.host import Temper
from mortalgpu.units import MIB
from tests.unit.scan.making import RESOURCE, holds, ids, pod, ref
from tests.unit.scan.node import Node

DEVICES = ("GPU-a", "GPU-b")
SHARE_MIB = 100


@dataclass
class Truth:
    """One pod as it really is."""

    number: int
    name: str
    uuid: str
    shares: int
    annotation: str = ""
    deleted: bool = False
    """Gone from the API by force, with its processes still there."""

    @property
    def ref(self) -> ContainerRef:
        """Its one container."""
        return ref(self.number)

    def limit_mib(self, uuid: str) -> int:
        """What it may use."""
        if uuid != self.uuid:
            return 0
        wanted = int(self.annotation) if self.annotation.isdecimal() else 0
        return min(10, max(self.shares, wanted)) * SHARE_MIB


@dataclass
class Story:
    """The world, the truth about it, and what can happen. Made inside of a trio run."""

    node: Node = field(default_factory=Node)
    pods: dict[int, Truth] = field(default_factory=dict)
    source_is_down: bool = False
    numbers: int = 0
    owners: dict[tuple[str, int], HostProcess] = field(default_factory=dict)
    known_mib: dict[tuple[str, int], int | None] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    seen: set[tuple[str, GpuProcess]] = field(default_factory=set)
    """Listings, with their figures, that the present daemon has scanned."""

    def __post_init__(self) -> None:
        self.node.host.on_signal.append(lambda sent: self.check(sent.process))
        answer = self.node.driver.processes

        async def processes(uuids: Sequence[str]) -> Mapping[str, tuple[GpuProcess, ...] | Fault]:
            listed = await answer(uuids)
            if len(uuids) == len(DEVICES):
                self.seen = {(uuid, each) for uuid, found in listed.items() if isinstance(found, tuple) for each in found}
            return listed

        self.node.driver.processes = processes  # type: ignore[method-assign]

    # What happens.

    def create(self, shares: int, device: int, namesake: int | None) -> None:
        """A pod is admitted, under the name of an earlier one that was deleted by force if there is one to take."""
        deleted = [found for found in self.pods.values() if found.deleted]
        self.numbers += 1
        name = deleted[namesake % len(deleted)].name if namesake is not None and deleted else f"pod-{self.numbers}"
        if any(found.name == name and not found.deleted for found in self.pods.values()):
            name = f"pod-{self.numbers}"
        self.pods[self.numbers] = Truth(self.numbers, name, DEVICES[device], shares)
        self.publish()

    def delete(self, which: int, by_force: bool) -> None:
        """A pod is deleted; by force its processes live on."""
        found = self.pick_pod(which)
        if found is None:
            return
        if by_force:
            found.deleted = True
        else:
            self.node.host.stop_container(found.ref)
            del self.pods[found.number]
        self.publish()

    def annotate(self, which: int, text: str) -> None:
        """The owner writes a limit, which nobody sees while the pod source is down."""
        found = self.pick_pod(which)
        if found is not None and not self.source_is_down:
            found.annotation = text
            self.publish()

    def start(self, which: int, mib: int | None, device: int, temper: Temper) -> None:
        """A process begins, in a pod or outside of all."""
        found = self.pick_pod(which) if which >= 0 else None
        process = self.node.host.start(found.ref if found else None, temper=temper)
        self.use(process, mib, DEVICES[device])

    def grow(self, which: int, mib: int | None, device: int) -> None:
        """A process uses another amount."""
        process = self.pick_process(which)
        if process is not None:
            self.use(process, mib, DEVICES[device])

    def end(self, which: int) -> None:
        """A process ends by itself."""
        process = self.pick_process(which)
        if process is not None:
            self.node.host.exit(process.pid)

    def reuse(self, which: int, pod_number: int, lingering: bool) -> None:
        """A process ends and another gets its number, while the driver may still list the dead one's memory.

        Memory that no scan has seen is not listed on: listings.py says what cannot be told.
        """
        process, heir = self.pick_process(which), self.pick_pod(pod_number) if pod_number >= 0 else None
        if process is not None:
            self.node.lingering = 3.0 if lingering and self.was_seen(process) else 0.0
            self.node.host.reuse(process.pid, heir.ref if heir else None)
            self.node.lingering = 0.0

    def kubelet(self, state: str) -> None:
        """kubelet answers, refuses or hangs."""
        self.node.kubelet.down, self.node.kubelet.hanging = state == "refuses", state == "hangs"

    def pod_source(self, down: bool) -> None:
        """The API server goes, or comes back with what is true by then."""
        self.source_is_down = down
        self.publish()

    def driver(self, state: str) -> None:
        """The driver answers, fails or hangs."""
        self.node.driver.heal()
        if state == "fails":
            self.node.driver.fail("processes", DriverError("Unknown Error"))
        elif state == "hangs":
            self.node.driver.hang("processes")

    def restarted(self) -> None:
        """A new daemon knows nothing of the old one's scans."""
        self.seen = set()
        self.node.drained()

    def heal(self) -> None:
        """Everybody answers again."""
        self.kubelet("answers")
        self.driver("answers")
        self.pod_source(down=False)

    # Small parts.

    def publish(self) -> None:
        """Let kubelet and the pod source know the truth as far as they can."""
        living = [found for found in self.pods.values() if not found.deleted]
        self.node.kubelet.books = tuple(holds(found.name, *ids(found.uuid, *range(found.shares))) for found in living)
        if self.source_is_down:
            self.node.show(*self.node.pods.value.pods.values(), synced=False)
        else:
            self.node.show(*(as_pod(found) for found in living))

    def use(self, process: HostProcess, mib: int | None, uuid: str) -> None:
        """Let a process hold memory, and remember whose it is.

        The very figure that its number showed for somebody else at the last scan would not be believed: listings.py says why.
        """
        if mib is not None and (uuid, GpuProcess(process.pid, mib * MIB)) in self.seen:
            mib += 1
        self.owners[(uuid, process.pid)] = process
        self.known_mib[(uuid, process.pid)] = mib
        self.node.hold(process.pid, mib, uuid)

    def was_seen(self, process: HostProcess) -> bool:
        """Whether the daemon has scanned all that the driver lists for a process now."""
        now = [
            (uuid, GpuProcess(pid, None if mib is None else mib * MIB))
            for (uuid, pid), mib in self.known_mib.items()
            if self.owners[(uuid, pid)] == process
        ]
        return all(listing in self.seen for listing in now)

    def pick_pod(self, which: int) -> Truth | None:
        """Return one of the pods that are there."""
        found = list(self.pods.values())
        return found[which % len(found)] if found else None

    def pick_process(self, which: int) -> HostProcess | None:
        """Return one of the processes that are there."""
        found = self.node.host.processes()
        return found[which % len(found)] if found else None

    # The truth.

    def used_mib(self, container: ContainerRef, uuid: str) -> int:
        """What the living processes of a container hold on a device for certain."""
        living = {process.pid: process for process in self.node.host.processes() if process.container == container}
        return sum(
            self.known_mib[listing] or 0
            for listing, owner in self.owners.items()
            if listing[0] == uuid and living.get(listing[1]) == owner
        )

    def is_over(self, truth: Truth) -> bool:
        """Whether a pod really is over on any device."""
        return any(self.used_mib(truth.ref, uuid) > truth.limit_mib(uuid) for uuid in DEVICES)

    def check(self, process: HostProcess) -> None:
        """Judge one signal. A wrong one is kept, since an error raised here would be the service's."""
        truth = next((found for found in self.pods.values() if found.ref == process.container), None)
        if truth is None:
            self.wrong.append(f"{process} belongs to nobody of ours")
        elif not self.is_over(truth):
            used = [self.used_mib(truth.ref, uuid) for uuid in DEVICES]
            self.wrong.append(f"{process} was signalled although {truth} is within its limits: {used}")

    def left_over(self) -> list[Truth]:
        """Pods that are over although nobody in them was signalled who has not died yet, or whom the kernel protects.

        Without those that nobody can tell from a dying pod of the same name.
        """
        dying = {found.name for found in self.pods.values() if found.deleted and self.processes_of(found)}
        signalled = {signal.process for signal in self.node.host.signals}
        protected = {found.container_id for found in self.node.enforcement.value.history if found.outcome == "not_permitted"}
        return [
            truth
            for truth in self.pods.values()
            if not truth.deleted
            and self.is_over(truth)
            and truth.ref.container_id not in protected
            and truth.name not in dying
            and not any(process in signalled for process in self.processes_of(truth))
        ]

    def processes_of(self, truth: Truth) -> list[HostProcess]:
        """The living processes of a pod."""
        return [process for process in self.node.host.processes() if process.container == truth.ref]


def as_pod(truth: Truth) -> Pod:
    """The pod as the API tells of it."""
    annotations = {f"gpu-mem-limit.{RESOURCE}": truth.annotation} if truth.annotation else {}
    return pod(truth.number, name=truth.name, annotations=annotations)
