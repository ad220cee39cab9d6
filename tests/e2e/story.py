"""A random story of a node: pods come and go, kubelet and the daemon are restarted and killed; and what must hold throughout.

What must hold: an id is with one pod only, and within a pod with one running container; a container holds the number it asked
for, all from one device; the container is told the device of its ids; a request that fits a device is admitted when nothing was
disturbed; kubelet never has two registrations of a resource at once; every share is allocatable again within two seconds.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from random import Random

from tests.e2e import pod_resources
from tests.e2e.daemon import EXAMPLE_COUNTS, SHARED, TEN, TWENTY, Daemon
from tests.e2e.device_manager import Admission, DeviceManager, Holding
from tests.e2e.pods import Container, Pod
from tests.e2e.waiting import until

BACK_SECONDS = 2.0
ROOM = {SHARED: 400, TWENTY: 200, TEN: 100}
"""Shares of one device of each resource."""
RESOURCES = (SHARED, TWENTY, TEN)


def device_of(id_: str) -> str:
    return id_.split("::")[0]


class Story:
    """The state of the story, and its steps; `counts` says how often each was taken, refusals included."""

    def __init__(self, manager: DeviceManager, daemon: Daemon, seed: int) -> None:
        self.manager = manager
        self.daemon = daemon
        self.random = Random(seed)
        self.counts: Counter[str] = Counter()
        self.serial = 0

    def step(self) -> None:
        """Take one step and check everything."""
        steps: dict[Callable[[], None], int] = {
            self.admit: 50,
            self.delete: 25,
            self.restart_kubelet: 5,
            self.stop_daemon: 4,
            self.kill_daemon: 4,
            self.restart_both: 2,
            self.kill_daemon_during_admission: 3,
            self.drop_stream: 4,
            self.wipe_plugin_sockets: 3,
        }
        (step,) = self.random.choices(list(steps), list(steps.values()))
        self.counts[step.__name__] += 1
        step()
        self.check()

    def admit(self) -> None:
        pod = self._some_pod()
        fits = self._fits(pod)
        admission = self.manager.admit(pod)
        if fits:
            assert admission.admitted, f"{pod} fits a device and was refused: {admission.message}"
        if admission.admitted:
            check_edits(admission)
        else:
            self.counts["refused"] += 1
            assert "rpc error: code = FailedPrecondition" in admission.message or "Requested:" in admission.message

    def delete(self) -> None:
        if self.manager.pods:
            self.manager.delete(self.random.choice(list(self.manager.pods.values())))

    def restart_kubelet(self) -> None:
        """Restart kubelet under running containers: every pod that it admits again keeps its ids."""
        before = ids_by_container(self.manager.holdings())
        self._start_kubelet()
        after = ids_by_container(self.manager.holdings())
        assert after == {key: before[key] for key in after}
        self._back()

    def stop_daemon(self) -> None:
        self._restart_daemon(hard=False)

    def kill_daemon(self) -> None:
        self._restart_daemon(hard=True)

    def restart_both(self) -> None:
        self.daemon.kill()
        self.manager.stop()
        self.daemon.start()
        self._start_kubelet()
        self._back()

    def kill_daemon_during_admission(self) -> None:
        """Kill the daemon while kubelet may be inside Allocate; the pod is admitted or refused, and nothing is half done."""
        later = self.manager.admit_later(self._some_pod())
        made = self.manager.registrations.made[SHARED]
        threading.Event().wait(self.random.uniform(0, 0.02))
        self.daemon.restart(hard=True)
        self.counts["survived" if later.result(30).admitted else "died"] += 1
        self.manager.wait_registered(SHARED, made + 1, BACK_SECONDS)
        self._back()

    def drop_stream(self) -> None:
        resource = self.random.choice(RESOURCES)
        made = self.manager.registrations.made[resource]
        self.manager.drop(resource)
        self.manager.wait_registered(resource, made + 1, BACK_SECONDS)
        self._back()

    def wipe_plugin_sockets(self) -> None:
        made = dict(self.manager.registrations.made)
        for path in self.manager.socket_dir.glob("mortalgpu-*.sock"):
            path.unlink(missing_ok=True)
        for resource in RESOURCES:
            self.manager.wait_registered(resource, made[resource] + 1, BACK_SECONDS)
        self._back()

    def check(self) -> None:
        """Check what must always hold."""
        holdings = self.manager.holdings()
        check_exclusive(holdings, self.manager.pods)
        for pod in self.manager.pods.values():
            check_complete(pod, holdings)
        assert self.manager.registrations.overlaps == []

    def finish(self) -> None:
        """Check that PodResources tells the same, then that no id was lost: emptied, the node takes a pod for each device."""
        self.check_pod_resources()
        for pod in list(self.manager.pods.values()):
            self.manager.delete(pod)
        for resource, room in ROOM.items():
            for _ in range(EXAMPLE_COUNTS[resource] // room):
                admission = self.manager.admit(self._pod([Container("main", {resource: room})]))
                assert admission.admitted, f"ids of {resource} were lost: {admission.message}"
        self.check()

    def check_pod_resources(self) -> None:
        """Check that kubelet's PodResources server reports what the device manager holds."""
        told = {
            (held.pod, held.container, held.resource): held.ids
            for held in pod_resources.held(self.manager.pod_resources_socket)
        }
        names = {pod.uid: pod for pod in self.manager.pods.values()}
        for holding in self.manager.holdings():
            pod = names[holding.pod]
            if holding.container.startswith("main"):
                for resource, ids in holding.ids.items():
                    assert told[pod.name, holding.container, resource] == frozenset(ids)

    def _start_kubelet(self) -> None:
        """Start kubelet anew. It refuses pods with a finished init container that had devices, and no others: it asks for the
        init container's devices again, and no plugin can be back yet (Kubernetes issue 118559 is of this family).
        """
        pods = dict(self.manager.pods)
        for admission in self.manager.restart():
            initialised = any(not container.sidecar for container in pods[admission.uid].init_containers)
            assert admission.admitted or initialised, f"{pods[admission.uid]}: {admission.message}"
            self.counts["refused after a restart"] += not admission.admitted

    def _restart_daemon(self, *, hard: bool) -> None:
        made = dict(self.manager.registrations.made)
        self.daemon.restart(hard=hard)
        for resource in RESOURCES:
            self.manager.wait_registered(resource, made[resource] + 1, BACK_SECONDS)
        self._back()

    def _back(self) -> None:
        self.manager.wait_allocatable(EXAMPLE_COUNTS, BACK_SECONDS)
        until("live registrations", lambda: set(self.manager.registrations.live), set(RESOURCES).__eq__, seconds=1)

    def _some_pod(self) -> Pod:
        """Return a pod of a random shape: mostly one container, else several, two resources, init containers or a sidecar."""
        shape = self.random.choices(["one", "two", "both", "init", "sidecar"], [50, 15, 10, 15, 10])[0]
        resource = self.random.choice(RESOURCES)
        size = self._size(resource)
        if shape == "two":
            return self._pod([Container("main", {resource: size}), Container("main-2", {resource: self._size(resource)})])
        if shape == "both":
            return self._pod([Container("main", {SHARED: self._size(SHARED), TWENTY: self._size(TWENTY)})])
        if shape == "init":
            return self._pod([Container("main", {resource: size})], [Container("init", {resource: self._size(resource)})])
        if shape == "sidecar":
            return self._pod([Container("main", {resource: size})], [Container("sidecar", {resource: 1}, sidecar=True)])
        return self._pod([Container("main", {resource: size})])

    def _pod(self, containers: Iterable[Container], init: Iterable[Container] = ()) -> Pod:
        self.serial += 1
        return Pod(f"pod-{self.serial}", tuple(containers), tuple(init))

    def _size(self, resource: str) -> int:
        return self.random.randint(1, max(1, ROOM[resource] // self.random.choice((1, 4, 16))))

    def _fits(self, pod: Pod) -> bool:
        """A pod with one container and one resource, that one device has room for. What others need is kubelet's order."""
        if len(pod.containers) != 1 or pod.init_containers or len(pod.containers[0].resources) != 1:
            return False
        ((resource, size),) = pod.containers[0].resources.items()
        free = Counter(device_of(id_) for id_ in self.manager.healthy_ids(resource))
        free.subtract(device_of(id_) for id_ in ids_in_use(self.manager.holdings(), resource))
        return max(free.values()) >= size


def ids_by_container(holdings: Iterable[Holding]) -> dict[tuple[str, str], dict[str, list[str]]]:
    return {(holding.pod, holding.container): holding.ids for holding in holdings}


def ids_in_use(holdings: Iterable[Holding], resource: str) -> set[str]:
    return {id_ for holding in holdings for id_ in holding.ids.get(resource, [])}


def check_exclusive(holdings: Iterable[Holding], pods: dict[str, Pod]) -> None:
    """An id is with one pod, and in it with one container, beside a finished init container."""
    owner: dict[str, tuple[str, str]] = {}
    for holding in holdings:
        assert holding.pod in pods, f"a pod that is gone holds ids: {holding}"
        if holding.container == "init":
            continue
        for ids in holding.ids.values():
            for id_ in ids:
                other = owner.setdefault(id_, (holding.pod, holding.container))
                assert other == (holding.pod, holding.container), f"{id_} is with {other} and with {holding}"
    for holding in holdings:
        if holding.container == "init":
            for ids in holding.ids.values():
                assert {owner.get(id_, (holding.pod, ""))[0] for id_ in ids} <= {holding.pod}


def check_complete(pod: Pod, holdings: Iterable[Holding]) -> None:
    """Each container of the pod holds what it asked for, from one device."""
    held = {holding.container: holding.ids for holding in holdings if holding.pod == pod.uid}
    for container in (*pod.init_containers, *pod.containers):
        for resource, count in container.resources.items():
            ids = held[container.name][resource]
            assert len(ids) == count, f"{pod.name}/{container.name} holds {len(ids)} of {count} {resource}"
            assert len({device_of(id_) for id_ in ids}) == 1, f"{pod.name}/{container.name} was split over devices"


def check_edits(admission: Admission) -> None:
    """Each container with one resource is told the device of its ids."""
    for holding in admission.holdings:
        if len(holding.ids) == 1:
            ((_, ids),) = holding.ids.items()
            assert holding.edits.env["NVIDIA_VISIBLE_DEVICES"] == device_of(ids[0])
