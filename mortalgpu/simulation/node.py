"""A simulated node: GPUs, kubelet, pods and their processes in one place, so that a scenario is a few plain verbs.

The parts are the twins of the ports; kubelet is a real gRPC peer. A notebook is a pod with one container, one process, and a
curve of memory; what it gets, and whether it lives, is the daemon's doing.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mortalgpu.host.base import HostProcess
from mortalgpu.host.clock import MachineClock
from mortalgpu.model.device import GpuProcess
from mortalgpu.model.pod import Container, ContainerRef, Pod
from mortalgpu.simulation.cluster import SimulatedCluster
from mortalgpu.simulation.driver import SimulatedDriver, worked_example
from mortalgpu.simulation.host import SimulatedHost
from mortalgpu.simulation.kubelet import SimulatedKubelet
from mortalgpu.units import from_mib

CONTAINER = "notebook"


@dataclass(slots=True)
class Notebook:
    """A running pod: what it was granted, and its process on the GPU."""

    name: str
    resource: str
    shares: int
    uuid: str
    limit_bytes: int
    pod: Pod
    process: HostProcess
    used_bytes: int = 0
    over_since: float | None = None
    """Wall-clock seconds at which it crossed its limit; None while it keeps it."""


class SimulatedNode:
    """The worked example's node, two V100s and an A100 in four partitions, with its sockets below `root`."""

    def __init__(self, root: Path) -> None:
        self.clock = MachineClock()
        self.driver = SimulatedDriver(worked_example(2))
        self.host = SimulatedHost()
        self.cluster = SimulatedCluster(self.clock.now)
        self.kubelet = SimulatedKubelet(root)
        self.notebooks: dict[str, Notebook] = {}
        self._numbers = itertools.count(1)
        self._used: dict[str, dict[int, int]] = {}
        self.host.on_exit.append(self._freed)

    async def start(self, name: str, resource: str, shares: int, command: str) -> Notebook:
        """Admit a pod and start its process. Raises simulation.kubelet.AdmissionRefused."""
        (admitted,) = await self.kubelet.admit(name, {CONTAINER: {resource: shares}})
        uuid = admitted.edits.envs["NVIDIA_VISIBLE_DEVICES"].split(",")[0]
        limit_mib = int(admitted.edits.envs["METAGPU_MAX_MEM"])
        number = next(self._numbers)
        ref = ContainerRef(f"5eed0000-0000-4000-8000-{number:012d}", f"{number:064x}")
        pod = Pod(ref.pod_uid, name, "default", (Container(CONTAINER, ref.container_id),), api_uid=ref.pod_uid)
        self.cluster.put(pod)
        process = self.host.start(ref, user="jovyan", command=command)
        notebook = Notebook(name, resource, shares, uuid, from_mib(limit_mib), pod, process)
        self.notebooks[name] = notebook
        return notebook

    def use(self, notebook: Notebook, used_bytes: int) -> None:
        """Let a notebook's process hold so much memory on its device; nothing happens when it is gone."""
        if self.host.running(notebook.process.pid):
            notebook.used_bytes = used_bytes
            over = used_bytes > notebook.limit_bytes
            notebook.over_since = (notebook.over_since or self.clock.now()) if over else None
            self._used.setdefault(notebook.uuid, {})[notebook.process.pid] = used_bytes
            self._tell(notebook.uuid)

    def stop(self, notebook: Notebook) -> None:
        """Delete a pod, with its process."""
        if self.host.running(notebook.process.pid):
            self.host.exit(notebook.process.pid)
        self.cluster.remove(notebook.pod.uid)
        self.kubelet.delete(notebook.name)
        del self.notebooks[notebook.name]

    def _freed(self, process: HostProcess) -> None:
        for uuid, used in self._used.items():
            if used.pop(process.pid, None) is not None:
                self._tell(uuid)

    def _tell(self, uuid: str) -> None:
        used: Mapping[int, int] = self._used[uuid]
        self.driver.set_processes(uuid, *(GpuProcess(pid, held) for pid, held in used.items()))
