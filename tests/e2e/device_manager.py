"""Kubelet's device manager alone: real allocation, registration, checkpoint and PodResources code, without containers and
without root.

It runs as a process of ours (tests/e2e/go/devicemanager), so a restart of kubelet is a restart of that process. The pods live
here, as they live in the API server or on disk for kubelet, and are told again to each new process.
"""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tests.e2e.channel import Channel, ChannelError
from tests.e2e.pods import Pod, spec_for_device_manager
from tests.e2e.process import Process
from tests.e2e.registrations import Event, Registrations
from tests.e2e.waiting import eventually, until

T = TypeVar("T")
ANSWER_SECONDS = 30


class Edits(msgspec.Struct, frozen=True):
    """What kubelet would hand the runtime for one container."""

    env: dict[str, str] = {}
    mounts: list[dict[str, Any]] = []
    devices: list[dict[str, str]] = []


class Holding(msgspec.Struct, frozen=True):
    """The ids that one container of the pod with UID `pod` holds, by resource."""

    pod: str
    container: str
    ids: dict[str, list[str]] = {}
    edits: Edits = Edits()


class Admission(msgspec.Struct, frozen=True):
    """Kubelet's verdict. When refused, reason and message are what lands in the pod's status (kubelet puts "Pod was rejected:
    " before it)."""

    uid: str
    admitted: bool
    reason: str
    message: str
    holdings: list[Holding]

    def edits(self, container: str = "main") -> Edits:
        return next(holding.edits for holding in self.holdings if holding.container == container)

    def ids(self, resource: str) -> list[str]:
        """Return the ids of all its containers, in the order of containers; an id that an init container passed on appears
        twice."""
        return [id_ for holding in self.holdings for id_ in holding.ids.get(resource, [])]


class Capacity(msgspec.Struct, frozen=True, array_like=True):
    """One resource in the node's status."""

    capacity: int
    allocatable: int


class DeviceManager:
    """A device manager in `directory`: sockets in device-plugins/, PodResources on pod-resources/kubelet.sock, log in
    kubelet.log."""

    def __init__(
        self, binary: Path, directory: Path, *, topology_policy: str = "none", numa_nodes: Sequence[int] = (0,)
    ) -> None:
        """Prepare the folders; `start` starts it."""
        self.binary = binary
        self.directory = directory
        self.socket_dir = directory / "device-plugins"
        self.pod_resources_socket = directory / "pod-resources" / "kubelet.sock"
        self.topology_policy = topology_policy
        self.numa_nodes = list(numa_nodes)
        self.pods: dict[str, Pod] = {}
        self.events: list[Event] = []
        self.registrations = Registrations()
        self._process: Process | None = None
        self._channel: Channel | None = None
        self.socket_dir.mkdir(parents=True, exist_ok=True)
        self.pod_resources_socket.parent.mkdir(exist_ok=True)

    @property
    def log_path(self) -> Path:
        return self.directory / "kubelet.log"

    def start(self, *, containers_running: bool = True) -> list[Admission]:
        """Start it and let it admit again the pods it had; those it refuses are gone. Sweeps the socket folder, as kubelet
        does.

        `containers_running` tells it that the runtime still runs their containers: a restart of kubelet, not of the node.
        """
        self._process = Process("device manager", [self.binary], self.log_path, stdin=True)
        self._channel = Channel(self._process, self._see)
        start = {
            "socket_dir": str(self.socket_dir),
            "pod_resources_socket": str(self.pod_resources_socket),
            "topology_policy": self.topology_policy,
            "numa_nodes": self.numa_nodes,
            "pods": [spec_for_device_manager(pod) for pod in self.pods.values()],
            "containers_running": containers_running,
        }
        admissions = self._ask(list[Admission], "start", start=start)
        for admission in admissions:
            if not admission.admitted:
                del self.pods[admission.uid]
        return admissions

    def stop(self) -> None:
        """End it as SIGTERM ends kubelet: at once, leaving its sockets behind."""
        if self._process is not None and self._channel is not None:
            self._process.child.kill()
            self._channel.close()
            self._process.kill()
            self._process = self._channel = None
        self.registrations.kubelet_ended()

    def restart(self, *, containers_running: bool = True) -> list[Admission]:
        """Stop and start; returns how the pods fared."""
        self.stop()
        return self.start(containers_running=containers_running)

    def admit(self, pod: Pod, *, seconds: float = ANSWER_SECONDS) -> Admission:
        """Admit a pod. Blocks while earlier admissions hang; raises AssertionError after `seconds`."""
        return self.admit_later(pod).result(seconds)

    def admit_later(self, pod: Pod) -> "Future[Admission]":
        """Queue a pod behind the admissions that still run; admission is serial in kubelet."""
        future: Future[Admission] = Future()

        def wait() -> None:
            try:
                admission = self._ask(Admission, "admit", seconds=600, pod=spec_for_device_manager(pod))
            except Exception as error:
                future.set_exception(error)
                return
            if admission.admitted:
                self.pods[pod.uid] = pod
            future.set_result(admission)

        threading.Thread(target=wait, daemon=True).start()
        return future

    def delete(self, pod: Pod) -> None:
        """Delete an admitted pod. Its ids come free lazily, as in kubelet: before the next allocation or PodResources call."""
        self._ask(str, "delete", uid=pod.uid)
        del self.pods[pod.uid]

    def capacities(self) -> dict[str, Capacity]:
        """Return what kubelet would write into the node's status."""
        return self._ask(dict[str, Capacity], "capacity")

    def capacity(self, resource: str) -> Capacity:
        """Return one resource's figures, 0/0 when kubelet does not know it."""
        return self.capacities().get(resource, Capacity(0, 0))

    def healthy_ids(self, resource: str) -> list[str]:
        """Return the healthy ids, taken or not, sorted."""
        return self._ask(dict[str, list[str]], "devices").get(resource, [])

    def holdings(self) -> list[Holding]:
        """Return what every container of every pod holds."""
        return self._ask(list[Holding], "holdings")

    def drop(self, resource: str) -> None:
        """Make kubelet end its connection to the resource's plugin, and so ListAndWatch, without any other sign."""
        self._ask(str, "drop", resource=resource)

    def wipe_sockets(self) -> None:
        """Unlink every socket in the folder, kubelet's own too, while it runs."""
        for path in self.socket_dir.iterdir():
            if path.is_socket():
                path.unlink(missing_ok=True)

    def wait_allocatable(self, expected: Mapping[str, int], seconds: float) -> None:
        """Wait until exactly these counts are allocatable (and the capacity equals them); raises AssertionError."""

        def right() -> bool:
            seen = self.capacities()
            return all(seen.get(name) == Capacity(count, count) for name, count in expected.items())

        try:
            eventually(f"allocatable {dict(expected)}", right, seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; the node has {self.capacities()}") from None

    def wait_registered(self, resource: str, made: int, seconds: float) -> None:
        """Wait until the resource was registered `made` times in all; raises AssertionError."""
        until(
            f"{made} registrations of {resource}",
            lambda: self.registrations.made.get(resource, 0),
            made.__le__,
            seconds=seconds,
        )

    def _ask(self, kind: type[T], op: str, *, seconds: float = ANSWER_SECONDS, **arguments: object) -> T:
        if self._channel is None:
            raise ChannelError(f"{op}: the device manager is not running")
        return self._channel.ask(kind, op, seconds=seconds, **arguments)

    def _see(self, event: Event) -> None:
        self.events.append(event)
        self.registrations.see(event)
