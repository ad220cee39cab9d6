"""A node: containerd, and a real kubelet in standalone mode that runs static pods; no API server, registry or network plugin.

Without an API server there is no node object; the nearest real view of "allocatable" is kubelet's own GetAllocatableResources,
which lists the healthy ids of each resource, and of the pods its /pods endpoint on loopback.
"""

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.e2e import pod_resources
from tests.e2e.build import KUBELET
from tests.e2e.cgroups import PREFIX, Subtree, remove_leftovers
from tests.e2e.containerd import Containerd
from tests.e2e.pods import Pod, manifest
from tests.e2e.process import Process
from tests.e2e.waiting import eventually
from tests.ports import free_ports
from tests.started import Started

NODE_NAME = "harness"
START_SECONDS = 30


@dataclass(frozen=True, slots=True)
class ContainerStatus:
    """One container in a pod's status."""

    name: str
    id: str
    """64 hex digits, empty before the first start."""
    running: bool
    restarts: int
    exit_code: int | None
    """Of the run before this one, or of the last one."""


@dataclass(frozen=True, slots=True)
class PodStatus:
    """A pod as kubelet reports it. `reason` and `message` tell why it failed admission."""

    name: str
    uid: str
    phase: str
    reason: str
    message: str
    containers: tuple[ContainerStatus, ...]

    @property
    def running(self) -> bool:
        """Every container runs."""
        return self.phase == "Running" and bool(self.containers) and all(container.running for container in self.containers)

    def container(self, name: str = "main") -> ContainerStatus:
        return next(container for container in self.containers if container.name == name)


class Node(Started):
    """A node in a short folder of its own, which `stop` removes with everything in it. Needs root, and the main thread."""

    def __init__(self, *, settings: dict[str, Any] | None = None, flags: Sequence[object] = ()) -> None:
        """`settings` are more keys of kubelet's configuration, `flags` more words of its command line."""
        self.folder = Path(tempfile.mkdtemp(prefix="mg-"))
        self.kubelet_root = self.folder / "kubelet"
        self.socket_dir = self.kubelet_root / "device-plugins"
        self.pod_resources_socket = self.kubelet_root / "pod-resources" / "kubelet.sock"
        self.manifests = self.folder / "manifests"
        self.subtree = Subtree(f"{PREFIX}{os.getpid()}-{self.folder.name}")
        self.containerd = Containerd(self.folder / "containerd", self.kubelet_root, self.subtree)
        self.settings = settings or {}
        self.flags = flags
        self.ports = dict(zip(("port", "readOnlyPort", "healthzPort"), free_ports(3), strict=True))
        self._kubelet: Process | None = None
        self._http = httpx.Client(trust_env=False)

    @property
    def log_path(self) -> Path:
        return self.folder / "kubelet.log"

    def start(self) -> None:
        """Start containerd and kubelet. Raises AssertionError with the logs' ends when they do not come up."""
        remove_leftovers()
        for folder in (self.socket_dir, self.manifests, self.folder / "volumes"):
            folder.mkdir(parents=True)
        self.subtree.create()
        self.containerd.start()
        (self.folder / "kubelet.json").write_text(json.dumps(self._configuration()))
        self.start_kubelet()

    def start_kubelet(self, *, seconds: float = START_SECONDS) -> None:
        """Start kubelet and wait until it answers and takes registrations; the pods it knew keep running."""
        command = [KUBELET.path, "--config", self.folder / "kubelet.json", "--hostname-override", NODE_NAME]
        command += ["--root-dir", "/var/lib/kubelet", "--cert-dir", self.folder / "certs", "--v", "2", *self.flags]
        self._kubelet = self.containerd.spawn("kubelet", command, self.log_path)
        try:
            eventually("kubelet's health", self._healthy, seconds=seconds)
            eventually("kubelet's registration socket", self._takes_registrations, seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._kubelet.log()[-3000:]}") from None

    def stop_kubelet(self, *, hard: bool = False) -> None:
        """End kubelet, by SIGKILL when `hard`; pods keep running."""
        if self._kubelet is None:
            return
        if hard:
            self._kubelet.kill()
        else:
            self._kubelet.terminate()
        self._kubelet = None

    def restart_kubelet(self, *, hard: bool = False, wipe_sockets: bool = False) -> None:
        """End and start kubelet; with `wipe_sockets`, with an empty socket folder in between (its checkpoint stays)."""
        self.stop_kubelet(hard=hard)
        if wipe_sockets:
            self.wipe_sockets()
        self.start_kubelet()

    def wipe_sockets(self) -> None:
        """Unlink every socket in the device-plugin folder."""
        for path in self.socket_dir.iterdir():
            if path.is_socket():
                path.unlink(missing_ok=True)

    def put(self, pod: Pod) -> None:
        """Write the pod's manifest, whole at once; kubelet sees it at once by inotify."""
        draft = self.manifests / f".{pod.name}"
        draft.write_text(json.dumps(manifest(pod)))
        draft.rename(self.manifests / f"{pod.name}.yaml")

    def remove(self, name: str, *, seconds: float = 30) -> None:
        """Remove the pod's manifest and wait until its containers are gone."""
        status = self.pods().get(name)
        ids = {container.id for container in status.containers} if status is not None else set()
        (self.manifests / f"{name}.yaml").unlink()
        eventually(f"the end of pod {name}", lambda: name not in self.pods() and not ids & set(self.tasks()), seconds=seconds)

    def pods(self) -> dict[str, PodStatus]:
        """Return the pods that kubelet knows, by manifest name; empty while it is not there to ask."""
        try:
            answer = self._http.get(f"http://127.0.0.1:{self.ports['readOnlyPort']}/pods", timeout=10)
        except httpx.TransportError:
            return {}
        statuses = [_pod_status(item) for item in answer.json()["items"] or []]
        return {status.name: status for status in statuses}

    def wait_running(self, name: str, *, seconds: float = 30) -> PodStatus:
        """Wait until every container of the pod runs, and return its status."""
        eventually(f"pod {name} running: {self.pods().get(name)}", lambda: self._is_running(name), seconds=seconds)
        return self.pods()[name]

    def wait_failed(self, name: str, *, seconds: float = 30) -> PodStatus:
        """Wait until kubelet gave the pod up, and return its status."""
        eventually(f"pod {name} failed", lambda: name in self.pods() and self.pods()[name].phase == "Failed", seconds=seconds)
        return self.pods()[name]

    def allocatable(self) -> dict[str, int]:
        """Return how many healthy ids each resource has, taken or not."""
        return {name: len(ids) for name, ids in pod_resources.allocatable(self.pod_resources_socket).items()}

    def held(self) -> list[pod_resources.Held]:
        """Return which ids each container holds; a static pod's name has the node's appended."""
        return pod_resources.held(self.pod_resources_socket)

    def tasks(self) -> dict[str, int]:
        """Return the first process's pid of each running container, by container id."""
        return self.containerd.tasks()

    def pid(self, container_id: str) -> int:
        """Return the pid of a container's first process."""
        return self.tasks()[container_id]

    def environment(self, container_id: str) -> dict[str, str]:
        """Return the environment with which the container's first process began."""
        text = Path(f"/proc/{self.pid(container_id)}/environ").read_text()
        return dict(pair.split("=", 1) for pair in text.split("\0") if "=" in pair)

    def execute(self, container_id: str, *command: str) -> str:
        """Run a command in a running container and return its output. Raises CalledProcessError."""
        return self.containerd.ctr("tasks", "exec", "--exec-id", f"exec-{os.urandom(4).hex()}", container_id, *command)

    def stop(self) -> None:
        """End kubelet, the containers, containerd and every process they left; remove the cgroups and the folder."""
        self.stop_kubelet(hard=True)
        self.containerd.stop()
        self._http.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _is_running(self, name: str) -> bool:
        status = self.pods().get(name)
        if status is not None and status.phase == "Failed":
            raise AssertionError(f"pod {name} failed: {status.reason}: {status.message}")
        return status is not None and status.running

    def _healthy(self) -> bool:
        assert self._kubelet is not None
        assert self._kubelet.running, f"kubelet ended:\n{self._kubelet.log()[-3000:]}"
        try:
            return self._http.get(f"http://127.0.0.1:{self.ports['healthzPort']}/healthz", timeout=5).text == "ok"
        except httpx.TransportError:
            return False

    def _takes_registrations(self) -> bool:
        # The file alone says nothing: kubelet leaves it behind when it ends.
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket_dir / "kubelet.sock")) == 0

    def _configuration(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": "127.0.0.1",
            "healthzBindAddress": "127.0.0.1",
            **self.ports,
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "staticPodPath": str(self.manifests),
            "fileCheckFrequency": "2s",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.subtree.name}",
            "enforceNodeAllocatable": [],
            "containerRuntimeEndpoint": f"unix://{self.containerd.socket}",
            "podLogsDir": str(self.folder / "containerd" / "pods-log"),
            "volumePluginDir": str(self.folder / "volumes"),
            "failSwapOn": False,
            "failCgroupV1": False,
            "oomScoreAdj": 0,
            "localStorageCapacityIsolation": False,
            "evictionHard": {"memory.available": "1Mi"},
            "imageGCHighThresholdPercent": 100,
            "makeIPTablesUtilChains": False,
            "resolvConf": "",
            "shutdownGracePeriod": "0s",
            "featureGates": {"KubeletInUserNamespace": True},
            **self.settings,
        }


def _pod_status(item: dict[str, Any]) -> PodStatus:
    status = item["status"]
    return PodStatus(
        name=item["metadata"]["name"].removesuffix(f"-{NODE_NAME}"),
        uid=item["metadata"]["uid"],
        phase=status.get("phase", ""),
        reason=status.get("reason", ""),
        message=status.get("message", ""),
        containers=tuple(_container_status(one) for one in status.get("containerStatuses") or []),
    )


def _container_status(one: dict[str, Any]) -> ContainerStatus:
    ended = one.get("lastState", {}).get("terminated") or one.get("state", {}).get("terminated") or {}
    return ContainerStatus(
        name=one["name"],
        id=one.get("containerID", "").rpartition("/")[2],
        running="running" in one.get("state", {}),
        restarts=one.get("restartCount", 0),
        exit_code=ended.get("exitCode"),
    )
