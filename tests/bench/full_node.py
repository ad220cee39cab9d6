"""A node with everything on: enforcement, both metrics pages, the device API, the Kubernetes API watched, containers at work.

The daemon is a process of its own, in either form, on the driver stand-in. Kubelet's twin and a stand-in for the Kubernetes
API live in the bench's process. Containers are real processes in real cgroups, and hold all shares of the node between them.
"""

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio

from mortalgpu.model.device import Device
from mortalgpu.sharing.metaid import parse_id
from mortalgpu.simulation.driver import v100_uuid, worked_example
from mortalgpu.simulation.kubelet import SimulatedKubelet
from mortalgpu.simulation.kubelet import running as running_kubelet
from mortalgpu.units import MIB
from tests.bench.figures import AIMED_AT, SIZES
from tests.bench.forms import Form
from tests.bench.pages import figures_of
from tests.bench.running import daemon
from tests.scenario.machine import Daemon, Machine, machine
from tests.standin.apiserver.objects import container_status, pod_object
from tests.standin.apiserver.peer import ApiPeer, open_peer
from tests.standin.cgroups import Box, KubepodsTree
from tests.standin.nvml import Process

RESOURCE = "mortalgpu/bench"
USED_MIB = 10
"""What each standing process uses; far below its container's limit."""
SLEEPER = ("sleep", "3600")
PATIENCE_SECONDS = 60.0

CONFIG = """
deviceSharing: [{{resourceName: {resource}, metagpusPerGpu: {shares}}}]
nodeName: bench
podSource: kubernetes
memoryEnforcer: true
exporter: {{enabled: true, gpus: true, address: "127.0.0.1:0", daemonAddress: "127.0.0.1:0"}}
deviceApi: {{enabled: true, address: "127.0.0.1:0"}}
mgctl: {{hostMount: {{enabled: false}}}}
"""


def gpus(count: int) -> list[Device]:
    """Return GPUs without a NUMA node, so that 60,000 shares fit into what kubelet reads."""
    first = worked_example(1)[0]
    return [replace(first, uuid=v100_uuid(number), index=number, minor=number, numa_node=None) for number in range(count)]


@contextmanager
def shared_machine(meta_devices: int) -> Iterator[Machine]:
    """Make a machine whose GPUs are cut into so many shares, one of SIZES."""
    devices = SIZES[meta_devices]
    with machine(gpus(devices)) as made:
        made.config_path.write_text(CONFIG.format(resource=RESOURCE, shares=meta_devices // devices))
        yield made


@dataclass(frozen=True, slots=True)
class Container:
    """One container, with its standing processes."""

    name: str
    box: Box
    pids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Crowd:
    """Containers that are made once, and watched by several daemons one after the other."""

    tree: KubepodsTree
    containers: tuple[Container, ...]


@contextmanager
def crowd(containers: int, processes_each: int) -> Iterator[Crowd]:
    """Start the processes of so many containers; they end with the block. Needs root and a writable cgroup v2 hierarchy."""
    with KubepodsTree.unified() as tree:
        made = []
        for number in range(containers):
            box = tree.container()
            made.append(Container(f"jupyter-{number}", box, tuple(tree.run(box, SLEEPER).pid for _ in range(processes_each))))
        yield Crowd(tree, tuple(made))


def why_no_crowd() -> str:
    """Return why there can be no containers here; empty when there can."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    if os.geteuid() == 0 and any(kind == "cgroup2" and os.access(where, os.W_OK) for _, where, kind, *_ in mounts):
        return ""
    return "containers need root and a writable cgroup v2 hierarchy"


@dataclass(slots=True)
class FullNode:
    """The daemon at work among its neighbours."""

    form: Form
    machine: Machine
    kubelet: SimulatedKubelet
    api: ApiPeer
    ours: Daemon
    meta_devices: int
    crowd: Crowd | None = None
    given: dict[str, str] = field(default_factory=dict)
    """The device each container holds shares of, by the container's name."""

    @property
    def pid(self) -> int:
        return self.ours.child.pid

    @property
    def containers(self) -> Sequence[Container]:
        return self.crowd.containers if self.crowd else ()

    @property
    def admin_socket(self) -> Path:
        """The device API, for root of this node."""
        return self.machine.state_dir / "admin.sock"

    def address_of(self, page: str) -> str:
        """Where a page of metrics is served: `daemon`, or `gpus`. The daemon's own is served first."""
        lines = self.ours.lines("serving metrics")
        return str(lines[("daemon", "gpus").index(page)]["address"])

    async def figures(self, page: str) -> dict[str, float]:
        """Return a page's figures, series of one name added up."""
        return await trio.to_thread.run_sync(figures_of, self.address_of(page))

    async def listed_everywhere(self) -> None:
        """Wait until kubelet knows all shares, and all of them are healthy."""
        whole = (self.meta_devices, self.meta_devices)
        await self.ours.until(lambda: self.kubelet.capacity(RESOURCE) == whole, "the whole list", PATIENCE_SECONDS)

    def show(self, *more: Process, standing_mib: float = USED_MIB) -> float:
        """Let the driver list every container's processes on its device, and some more. Returns when that was so."""
        used = int(standing_mib * MIB)
        standing = [Process(self.given[each.name], pid=pid, used=used) for each in self.containers for pid in each.pids]
        return self.list_processes([*standing, *more])

    def list_processes(self, processes: Sequence[Process]) -> float:
        """Let the driver list these processes and nothing else. Returns when that was so."""
        state = self.machine.driver.state
        held = {gpu.uuid: 0 for gpu in state.gpus}
        for process in processes:
            held[process.device] += process.used or 0
        devices = tuple(replace(gpu, used=held[gpu.uuid]) for gpu in state.gpus)
        self.machine.driver.write(replace(state, gpus=devices, processes=tuple(processes)))
        return trio.current_time()

    async def people(self) -> None:
        """Give each container its part of the shares, put its processes on the device, and wait until a scan knows them all."""
        for each in self.containers:
            (got,) = await self.kubelet.admit(each.name, {"main": {RESOURCE: self.meta_devices // len(self.containers)}})
            self.given[each.name] = parse_id(got.meta_devices[0])[0]
            ref = each.box.ref
            status = container_status("main", ref.container_id)
            self.api.put(pod_object(each.name, uid=ref.pod_uid, node="bench", containers=[status]))
        self.show()
        count = sum(len(each.pids) for each in self.containers)
        with trio.fail_after(PATIENCE_SECONDS):
            while not _knows(await self.figures("gpus"), count):
                await trio.sleep(0.2)


def _knows(found: dict[str, float], count: int) -> bool:
    return (found["mortalgpu_device_processes"], found["mortalgpu_device_strangers"]) == (count, 0)


@asynccontextmanager
async def full_node(
    form: Form, people: Crowd | None = None, meta_devices: int = AIMED_AT, **variables: str
) -> AsyncIterator[FullNode]:
    """Run a daemon among these containers; the block begins once all shares are registered and every process is known."""
    with shared_machine(meta_devices) as on:
        async with running_kubelet(SimulatedKubelet(on.kubelet_root)) as kubelet, open_peer() as api:
            async with daemon(form, on, "--set", f"kubernetes.apiServer={api.url}", **variables) as ours:
                node = FullNode(form, on, kubelet, api, ours, meta_devices, people)
                await node.listed_everywhere()
                await ours.until(lambda: api.watching, "the watch on pods", PATIENCE_SECONDS)
                if people:
                    await node.people()
                yield node
