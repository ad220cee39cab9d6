"""A node in virtual time: simulated driver and host, kubelet's books and a pod source in a few lines, the real services."""

from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from mortalgpu.cluster.base import PodsView
from mortalgpu.enforcer.service import EnforcerSettings, Hands
from mortalgpu.enforcer.service import serve as serve_enforcer
from mortalgpu.errors import KubeletError
from mortalgpu.host.base import HostProcess
from mortalgpu.latest import Latest
from mortalgpu.model.device import GpuProcess
from mortalgpu.model.kill import NO_ENFORCEMENT, Enforcement
from mortalgpu.model.pod import Assignment, ContainerRef, Pod
from mortalgpu.model.share import Inventory, SharedDevice
from mortalgpu.model.usage import NO_USAGE, ContainerUsage, Usage
from mortalgpu.scan.scanner import Neighbours, ScanSettings
from mortalgpu.scan.scanner import serve as serve_scanner
from mortalgpu.simulation.cluster import SimulatedCluster, TakenNote
from mortalgpu.simulation.driver import SimulatedDriver
from mortalgpu.simulation.host import SimulatedClock, SimulatedHost, Temper
from mortalgpu.units import MIB
from tests.unit.scan.making import holds, ids, pod, ref, shared, view

LOOK_SECONDS = 0.1


class ScriptedKubelet:
    """kubelet's books: what the test wrote, or its silence."""

    def __init__(self) -> None:
        self.books: tuple[Assignment, ...] = ()
        self.down = False
        self.hanging = False
        self.readings = 0

    async def assignments(self) -> tuple[Assignment, ...]:
        """Return the books, fail, or hang."""
        self.readings += 1
        await trio.lowlevel.checkpoint()
        if self.hanging:
            await trio.sleep_forever()
        if self.down:
            raise KubeletError("connection refused")
        return self.books


class Node:
    """Make one inside of a trio run."""

    def __init__(self, *devices: SharedDevice) -> None:
        found = devices or (shared("GPU-a"), shared("GPU-b", index=1))
        self.devices = {each.uuid: each for each in found}
        self.driver = SimulatedDriver(each.device for each in found)
        self.host = SimulatedHost()
        self.host.on_exit.append(self._free)
        self.clock = SimulatedClock()
        self.kubelet = ScriptedKubelet()
        self.cluster = SimulatedCluster(self.clock.now)
        self.inventory = Latest(Inventory(found))
        self.pods = Latest(view())
        self.usage: Latest[Usage] = Latest(NO_USAGE)
        self.enforcement: Latest[Enforcement] = Latest(NO_ENFORCEMENT)
        self.lingering = 0.0
        """Seconds for which the driver goes on listing a process that has ended."""
        self._held: dict[tuple[str, int], int | None] = {}
        self._leaving: dict[tuple[str, int], float] = {}

    # What happens on it.

    def add_pod(self, number: int, shares: int, *, uuid: str = "GPU-a", first: int = 0) -> ContainerRef:
        """Start pod `number`, whose container `main` holds shares from `first` on, and return that container."""
        self.kubelet.books += (holds(f"pod-{number}", *ids(uuid, *range(first, first + shares))),)
        self.show(*self.pods.value.pods.values(), pod(number))
        return ref(number)

    def remove_pod(self, number: int) -> None:
        """End pod `number`, its processes and its assignment."""
        self.host.stop_container(ref(number))
        self.kubelet.books = tuple(found for found in self.kubelet.books if found.pod_name != f"pod-{number}")
        self.show(*(found for found in self.pods.value.pods.values() if found.uid != ref(number).pod_uid))

    def show(self, *pods: Pod, synced: bool = True) -> None:
        """Let the pod source see these pods."""
        self.pods.publish(view(*pods, synced=synced))

    def lose_pod_source(self) -> None:
        """Let the pod source fail: the last known pods stay."""
        self.show(*self.pods.value.pods.values(), synced=False)

    def run(
        self, container: ContainerRef | None, mib: int | None, uuid: str = "GPU-a", *, temper: Temper | None = None
    ) -> HostProcess:
        """Start a process that holds `mib` on a device."""
        process = self.host.start(container, temper=temper)
        self.hold(process.pid, mib, uuid)
        return process

    def hold(self, pid: int, mib: int | None, uuid: str = "GPU-a") -> None:
        """Set what a process holds on a device; None: the driver does not tell."""
        self._held[(uuid, pid)] = None if mib is None else mib * MIB
        self._leaving.pop((uuid, pid), None)
        self._show_device(uuid)

    def freed(self) -> None:
        """Let the driver forget processes that ended more than `lingering` ago."""
        for listing in [each for each, until in self._leaving.items() if until <= trio.current_time()]:
            del self._leaving[listing], self._held[listing]
            self._show_device(listing[0])

    def drained(self) -> None:
        """Let the driver forget every process that has ended."""
        self._leaving = dict.fromkeys(self._leaving, trio.current_time())
        self.freed()

    def _free(self, process: HostProcess) -> None:
        for listing in [listing for listing in self._held if listing[1] == process.pid]:
            self._leaving[listing] = trio.current_time() + self.lingering
        if not self.lingering:
            self.freed()

    def _show_device(self, uuid: str) -> None:
        listed = (GpuProcess(pid, held) for (where, pid), held in self._held.items() if where == uuid)
        self.driver.set_processes(uuid, *listed)

    # What is seen of it.

    @property
    def neighbours(self) -> Neighbours:
        """The ports of the services."""
        return Neighbours(self.driver, self.host, self.kubelet, self.cluster, self.clock)

    @property
    def killed(self) -> list[int]:
        """The pids that were signalled, in order, each signal once."""
        return [signal.process.pid for signal in self.host.signals]

    def container(self, number: int) -> ContainerUsage:
        """What the newest scan says of pod `number`."""
        return next(found for found in self.usage.value.containers if found.pod_name == f"pod-{number}")

    @property
    def outcomes(self) -> Counter[str]:
        """The enforcer's orders by outcome."""
        return Counter(self.enforcement.value.outcomes)


@dataclass(slots=True)
class Cells:
    """The cells that scanner and enforcer read and write."""

    inventory: Latest[Inventory]
    pods: Latest[PodsView]
    usage: Latest[Usage] = field(default_factory=lambda: Latest(NO_USAGE))
    enforcement: Latest[Enforcement] = field(default_factory=lambda: Latest(NO_ENFORCEMENT))


async def start_both(
    nursery: trio.Nursery,
    neighbours: Neighbours,
    cells: Cells,
    scan: ScanSettings | None = None,
    settings: EnforcerSettings | Latest[EnforcerSettings] | None = None,
) -> None:
    """Start scanner and enforcer over any ports."""
    hands = Hands(neighbours.driver, neighbours.processes, neighbours.cluster, neighbours.clock)

    async def serve_first(*, task_status: trio.TaskStatus[None]) -> None:
        facts = (cells.inventory, cells.pods, cells.usage)
        await serve_scanner(neighbours, *facts, scan or ScanSettings(), task_status=task_status)

    async def serve_second(*, task_status: trio.TaskStatus[None]) -> None:
        facts = (cells.usage, cells.pods, cells.enforcement)
        await serve_enforcer(hands, *facts, settings or EnforcerSettings(), task_status=task_status)

    await nursery.start(serve_first)
    await nursery.start(serve_second)


@asynccontextmanager
async def scanning(node: Node, settings: ScanSettings | None = None) -> AsyncIterator[None]:
    """Run the scanner on a node."""
    async with node.driver.open(), trio.open_nursery() as nursery:
        await start_scanner(nursery, node, settings)
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def enforcing(
    node: Node, settings: EnforcerSettings | Latest[EnforcerSettings] | None = None, scan: ScanSettings | None = None
) -> AsyncIterator[None]:
    """Run scanner and enforcer on a node."""
    async with node.driver.open(), trio.open_nursery() as nursery:
        await start_daemon(nursery, node, settings, scan)
        yield
        nursery.cancel_scope.cancel()


async def start_daemon(
    nursery: trio.Nursery,
    node: Node,
    settings: EnforcerSettings | Latest[EnforcerSettings] | None = None,
    scan: ScanSettings | None = None,
) -> None:
    """Start scanner and enforcer on a node."""
    cells = Cells(node.inventory, node.pods, node.usage, node.enforcement)
    await start_both(nursery, node.neighbours, cells, scan, settings)


async def start_scanner(nursery: trio.Nursery, node: Node, settings: ScanSettings | None = None) -> None:
    """Start the scanner service."""

    async def serve(*, task_status: trio.TaskStatus[None]) -> None:
        cells = (node.inventory, node.pods, node.usage)
        await serve_scanner(node.neighbours, *cells, settings or ScanSettings(), task_status=task_status)

    await nursery.start(serve)


async def looks(count: float) -> None:
    """Let so many quick looks pass."""
    await trio.sleep(count * LOOK_SECONDS)


def names(notes: Iterable[TakenNote]) -> list[tuple[str, str]]:
    """Pod name and reason of each note on a pod."""
    return [(told.name, note.reason) for told, note in notes if told is not None]
