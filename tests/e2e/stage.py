"""What the tests on a real node have in common: the node, the daemon on it, and who the driver says holds how much memory."""

import os
import select
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import grpc

from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb
from tests.e2e.daemon import Daemon
from tests.e2e.node import NODE_NAME, ContainerStatus, Node
from tests.e2e.pods import Container, Pod
from tests.e2e.waiting import eventually
from tests.standin.nvml import Process

MIB = 1 << 20
QUIET_SECONDS = 1.5
"""How long a test looks whether something that must not happen does: several scans at the default settings."""
PATIENCE_SECONDS = 10.0
KILLED = 137
"""The exit code of a container whose first process got SIGKILL."""
SLEEPERS = "for n in 1 2 3; do (while true; do /bin/sleep 1000000; done) & done; wait"
FAMILY = ("/bin/sh", "-c", SLEEPERS)
"""A first process with three children that each keep one sleeping child; an ended sleeper is replaced."""


class Life:
    """One process, held by a pidfd: its end is seen at once, and its number cannot come to mean another."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)

    @property
    def alive(self) -> bool:
        return not self._ended(0)

    def wait_end(self, seconds: float = PATIENCE_SECONDS) -> float:
        """Block until it has ended and return the monotonic time; raises AssertionError past `seconds`."""
        assert self._ended(seconds), f"process {self.pid} lives on after {seconds} s"
        return time.monotonic()

    def close(self) -> None:
        os.close(self._descriptor)

    def _ended(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Actor:
    """A running container with shares: what it was told, and its first process."""

    pod: str
    container: str
    id: str
    pid: int
    env: Mapping[str, str]

    @property
    def device(self) -> str:
        return self.env["NVIDIA_VISIBLE_DEVICES"]

    @property
    def limit_bytes(self) -> int:
        """The limit that it was told, at most a MiB below the one in force."""
        return int(self.env["METAGPU_MAX_MEM"]) * MIB


@dataclass
class Stage:
    """A node with a daemon. What processes hold lasts until `clear`."""

    node: Node
    daemon: Daemon
    held: dict[str, dict[int, int]] = field(default_factory=dict)
    """Bytes by device UUID and pid."""
    suffix: str = f"-{NODE_NAME}"
    """What kubelet appends to the names of static pods."""

    def play(self, *pods: Pod) -> None:
        """Put the pods on the node and wait until they run; those with an init container need not."""
        for pod in pods:
            self.node.put(pod)
        for pod in pods:
            if all(init.sidecar for init in pod.init_containers):
                self.node.wait_running(pod.name, seconds=60)

    def status(self, pod: str, container: str = "main") -> ContainerStatus:
        return self.node.pods()[pod].container(container)

    def actor(self, pod: str, container: str = "main") -> Actor:
        """Wait until kubelet says that the container runs, and return it."""

        def running_id() -> str:
            status = self.node.pods().get(pod)
            found = [each for each in status.containers if each.name == container and each.running] if status else []
            return found[0].id if found else ""

        return self._actor(pod, container, eventually(f"{pod}/{container}", running_id, seconds=30))

    def appears(self, pod: str, container: str, *, other_than: str = "") -> Actor:
        """Wait for a running container of that name in the runtime, long before kubelet tells of it."""
        found = eventually(f"{pod}/{container}", lambda: self._in_runtime(pod, container, other_than), seconds=60)
        return self._actor(pod, container, found)

    def _in_runtime(self, pod: str, container: str, other_than: str) -> str:
        labels = {"io.kubernetes.pod.name": pod + self.suffix, "io.kubernetes.container.name": container}
        wanted = ",".join(f'labels."{name}"=="{value}"' for name, value in labels.items())
        made = set(self.node.containerd.ctr("containers", "ls", "-q", wanted).split()) - {other_than}
        return next(iter(made & self.node.tasks().keys()), "")

    def _actor(self, pod: str, container: str, container_id: str) -> Actor:
        pid = self.node.pid(container_id)
        return Actor(pod, container, container_id, pid, self.node.environment(container_id))

    def restarted(self, actor: Actor, *, seconds: float = 30) -> Actor:
        """Wait until kubelet has started the container again, and return it as it is now."""

        def again() -> bool:
            status = self.node.pods().get(actor.pod)
            return status is not None and status.container(actor.container).id != actor.id and status.running

        eventually(f"the restart of {actor.pod}/{actor.container}", again, seconds=seconds)
        return self.actor(actor.pod, actor.container)

    def processes(self, actor: Actor) -> set[int]:
        """Return every process in the container's cgroup."""
        return {int(word) for word in self.listings(actor)[0].read_text().split()}

    def listings(self, actor: Actor) -> list[Path]:
        """Return the files that list the container's processes, one a hierarchy: to write a pid there is to join it."""
        pattern = f"kubepods/**/{actor.id}/cgroup.procs"
        found = [listing for folder in self.node.subtree.folders for listing in folder.glob(pattern)]
        assert found, f"no cgroup of {actor}"
        return found

    def sleepers(self, actor: Actor, count: int = 3) -> list[int]:
        """Wait for so many sleeping grandchildren of a container that runs FAMILY, and return their pids."""
        return eventually("sleepers", lambda: self._sleepers(actor, count), seconds=PATIENCE_SECONDS)

    def hold(self, device: str, memory: Mapping[int, int]) -> float:
        """Let the driver say that these processes hold so many bytes on the device, beside what others hold there.

        Returns the monotonic time of the change.
        """
        held = self.held.setdefault(device, {})
        held.update(memory)
        self._tell(device)
        return time.monotonic()

    def release(self, *pids: int) -> None:
        """Let the driver forget these processes, as it does when they have ended."""
        for device, held in self.held.items():
            if held.keys() & set(pids):
                for pid in pids:
                    held.pop(pid, None)
                self._tell(device)

    def clear(self) -> None:
        """Let nobody hold anything."""
        for device, held in self.held.items():
            held.clear()
            self._tell(device)

    def known(self, *actors: Actor) -> None:
        """Wait until the daemon is certain of what the containers hold."""
        for actor in actors:
            eventually(f"the daemon's knowledge of {actor.pod}", partial(self._knows, actor), seconds=PATIENCE_SECONDS)

    def _knows(self, actor: Actor) -> bool:
        found = [each for each in containers(self.daemon) if each.container_id == actor.id]
        return bool(found) and all(claim.HasField("memory_limit") for claim in found[0].container_devices)

    def kills(self) -> list[dict[str, Any]]:
        """Return the daemon's log lines about containers over their limit."""
        return self.daemon.events('"container over its limit"')

    @contextmanager
    def only(self, *victims: Life, spared: tuple[Life, ...] = ()) -> Iterator[None]:
        """Expect that the block brings exactly these ends: the spared live on, and the daemon tells of no other victim."""
        before = len(self.kills())
        yield
        for victim in victims:
            victim.wait_end()
            self.release(victim.pid)
        expected = sorted(victim.pid for victim in victims)
        eventually("the news of it", lambda: self._victims(before) == expected, seconds=PATIENCE_SECONDS)
        quiet(QUIET_SECONDS)
        assert self._victims(before) == expected, self.kills()[before:]
        assert [life.pid for life in spared if not life.alive] == []

    def _victims(self, before: int) -> list[int]:
        return sorted(event["pid"] for event in self.kills()[before:] if event["outcome"] == "killed")

    def _sleepers(self, actor: Actor, count: int) -> list[int]:
        found = sorted(pid for pid in self.processes(actor) if command_of(pid)[:1] == ["/bin/sleep"])
        return found if len(found) == count else []

    def _tell(self, device: str) -> None:
        processes = [Process(device, pid, used=used) for pid, used in self.held[device].items()]
        self.daemon.driver.set_processes(device, *processes)


def command_of(pid: int) -> list[str]:
    """Return the command line; empty for a process that has ended."""
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8") as text:
            return text.read().split("\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []


def containers(daemon: Daemon) -> list[pb.GpuContainer]:
    """Return every container that the daemon knows to hold shares, by its socket for root."""
    with grpc.insecure_channel(f"unix:{daemon.folder}/state/admin.sock") as channel:
        call = channel.unary_unary(
            "/device.v1.DeviceService/GetGpuContainers",
            request_serializer=pb.GetGpuContainersRequest.SerializeToString,
            response_deserializer=pb.GetGpuContainersResponse.FromString,
        )
        return list(call(pb.GetGpuContainersRequest(), timeout=10, wait_for_ready=True).gpu_containers)


def quiet(seconds: float) -> None:
    """Let time pass in which something must not happen."""
    select.select([], [], [], seconds)


def asking(name: str, resource: str, shares: int, *, command: tuple[str, ...] = FAMILY, **more: Any) -> Pod:
    """Return a pod with one container that holds shares of a resource."""
    return Pod(name, (Container("main", {resource: shares}, command=command),), **more)
