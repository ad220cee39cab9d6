"""Short ways to make the facts of a scan."""

from collections.abc import Mapping, Sequence

from mortalgpu.cluster.base import PodsView
from mortalgpu.host.base import HostProcess
from mortalgpu.kubelet.base import CheckpointEntry
from mortalgpu.model.device import Device, Fault, GpuProcess, Memory, MigPlacement, Snapshot
from mortalgpu.model.pod import Assignment, Container, ContainerRef, Pod
from mortalgpu.model.share import Inventory, SharedDevice
from mortalgpu.model.usage import ContainerUsage
from mortalgpu.scan.attribution import Attribution, ScanFacts, attribute, containers_with_processes
from mortalgpu.scan.ledger import Ledger, Reading
from mortalgpu.scan.listings import Listing
from mortalgpu.units import MIB

RESOURCE = "mortalgpu/v100"


def shared(uuid: str = "GPU-a", *, mib: int = 1000, shares: int = 10, resource: str = RESOURCE, index: int = 0) -> SharedDevice:
    """A device of 1000 MiB in 10 shares unless said otherwise: a share is 100 MiB."""
    return SharedDevice(Device(uuid, index, "Tesla V100", mib * MIB), resource, shares)


def partition(uuid: str, parent: str, gi_id: int, *, mib: int, shares: int, resource: str = RESOURCE) -> SharedDevice:
    """A MIG partition."""
    return SharedDevice(Device(uuid, 0, "NVIDIA A100", mib * MIB, mig=MigPlacement(parent, gi_id, 0)), resource, shares)


def cid(number: int) -> str:
    """A container id of 64 hex digits."""
    return f"{number:064x}"


def uid(number: int) -> str:
    """A pod UID."""
    return f"00000000-0000-4000-8000-{number:012x}"


def ref(number: int, container: int | None = None) -> ContainerRef:
    """Container `container` (the same number by default) in pod `number`."""
    return ContainerRef(uid(number), cid(number if container is None else container))


def pod(
    number: int,
    *containers: Container,
    name: str = "",
    annotations: Mapping[str, str] | None = None,
    finished: bool = False,
) -> Pod:
    """Pod `number`, with one running container `main` of the same number unless containers are given."""
    inside = containers or (Container("main", cid(number)),)
    return Pod(uid(number), name or f"pod-{number}", "ns", inside, annotations or {}, uid(number), finished)


def view(*pods: Pod, synced: bool = True) -> PodsView:
    """A pods view."""
    return PodsView({pod.uid: pod for pod in pods}, synced=synced, as_of=1.0, source="kubernetes")


def ids(uuid: str, *numbers: int) -> tuple[str, ...]:
    """Ids of shares."""
    return tuple(f"{uuid}::{number}" for number in numbers)


def holds(pod_name: str, *meta_devices: str, container: str = "main", resource: str = RESOURCE) -> Assignment:
    """What kubelet says of a container; without ids, that it holds nothing."""
    return Assignment(pod_name, "ns", container, {resource: meta_devices} if meta_devices else {})


def host(pid: int, container: ContainerRef | None, start_ticks: int = 1) -> HostProcess:
    """A process of the host."""
    return HostProcess(pid, start_ticks, container)


def gpu(pid: int, mib: int | None) -> GpuProcess:
    """A process as the driver lists it."""
    return GpuProcess(pid, None if mib is None else mib * MIB)


class World:
    """The facts of one node, put together once; `containers()` runs ledger and attribution over them."""

    def __init__(self, *devices: SharedDevice, max_overcommit: float = 0.0) -> None:
        self.inventory = Inventory(devices or (shared(),))
        self.view = view()
        self.assignments: tuple[Assignment, ...] = ()
        self.checkpoint: tuple[CheckpointEntry, ...] = ()
        self.listed: dict[str, tuple[GpuProcess, ...] | Fault] = {each.uuid: () for each in self.inventory.devices}
        self.hosts: dict[int, HostProcess] = {}
        self.disbelieved: frozenset[Listing] = frozenset()
        self.max_overcommit = max_overcommit
        self.ledger = Ledger()
        self.now = 0.0
        self._next_pid = 1

    def run(self, container: ContainerRef | None, mib: int | None, uuid: str = "GPU-a") -> int:
        """Start a process with this much memory and return its pid."""
        pid = self._next_pid
        self._next_pid += 1
        self.hosts[pid] = host(pid, container)
        self.use(pid, mib, uuid)
        return pid

    def use(self, pid: int, mib: int | None, uuid: str) -> None:
        """Let a process use a device."""
        before = self.listed[uuid]
        self.listed[uuid] = (*(before if isinstance(before, tuple) else ()), gpu(pid, mib))

    def observe(self) -> bool:
        """Let the ledger see the present; returns whether it wants a new reading."""
        self.now += 1
        return self.ledger.observe(self.view, containers_with_processes(self.hosts.values()), self.now)

    def read_books(self) -> None:
        """Let kubelet answer now."""
        self.now += 1
        self.ledger.take(Reading(self.assignments, self.now, self.view, self.checkpoint))

    def settle(self) -> None:
        """Observe, read kubelet's books, observe: what the scanner does when something new appears."""
        self.observe()
        self.read_books()
        self.observe()

    def attribute(self) -> Attribution:
        """Attribute the facts as they are."""
        memory = {each.uuid: Memory(each.device.memory_bytes, 0, 0) for each in self.inventory.devices}
        snapshot = Snapshot(memory, self.listed)
        facts = ScanFacts(self.inventory, snapshot, self.hosts, self.view, self.disbelieved, max_overcommit=self.max_overcommit)
        return attribute(facts, self.ledger)

    def containers(self) -> Sequence[ContainerUsage]:
        """Settle and return the containers."""
        self.settle()
        return self.attribute().containers
