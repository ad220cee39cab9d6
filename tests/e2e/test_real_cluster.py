"""Enforcement in a real cluster: pods of the API, a daemon that may do only what it needs there, Events that people read."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e import build
from tests.e2e.apiserver.build import locate
from tests.e2e.apiserver.control_plane import ControlPlane
from tests.e2e.daemon import EXAMPLE_COUNTS, SHARED, Daemon, example_config, program
from tests.e2e.pods import Pod
from tests.e2e.real_cluster import access, allocatable, annotate, create, event_on, node_of
from tests.e2e.stage import MIB, Life, Stage, asking, containers
from tests.e2e.waiting import eventually, until
from tests.needs import skipped_where_missing

pytestmark = [pytest.mark.e2e, pytest.mark.root]

ANNOTATION = f"gpu-mem-limit.{SHARED}"
STATIC = asking("static", SHARED, 10)
CAST = tuple(asking(name, SHARED, 20) for name in ("neighbour", "hungry", "family", "changing", "away", "mended"))


@dataclass
class Cluster(Stage):
    """A stage whose pods are in the API."""

    plane: ControlPlane | None = None

    @property
    def api(self) -> ControlPlane:
        assert self.plane is not None
        return self.plane

    def play(self, *pods: Pod) -> None:
        for pod in pods:
            create(self.api, pod)
        for pod in pods:
            self.node.wait_running(pod.name, seconds=60)

    def follow(self, source: str) -> None:
        """Let the daemon learn of pods from this `podSource`, and wait until it knows the family."""
        if self.daemon.config["podSource"] != source:
            self.daemon.config["podSource"] = source
            self.daemon.restart()
        self.known(self.actor("family"))


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with skipped_where_missing():
        build.locate_node()
        locate()
        program()
    made = ControlPlane(tmp_path_factory.mktemp("plane"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def cluster(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The node and the daemon in the cluster, with the whole cast running."""
    secrets: Path = tmp_path_factory.mktemp("account")
    with node_of(plane) as node:
        folder = node.folder / "daemon"
        sources = {"podSource": "kubernetes", "criSocket": str(node.containerd.socket), "kubernetes": access(plane, secrets)}
        with Daemon(folder, node.socket_dir, config=example_config(folder, **sources)) as daemon:
            until("the node's counts", lambda: allocatable(plane, *EXAMPLE_COUNTS), EXAMPLE_COUNTS.__eq__, seconds=30)
            made = Cluster(node, daemon, suffix="", plane=plane)
            node.put(STATIC)
            made.play(*CAST)
            yield made


@pytest.fixture(autouse=True)
def _nobody_holds_anything(cluster: Cluster) -> Iterator[None]:
    yield
    cluster.clear()
    if cluster.api.apiserver is not None and not cluster.api.apiserver.running:
        cluster.api.start_apiserver()


def test_the_owner_reads_in_an_event_why_the_process_was_stopped(cluster: Cluster) -> None:
    cluster.follow("kubernetes")
    hungry, neighbour = cluster.actor("hungry"), cluster.actor("neighbour")
    with Life(hungry.pid) as victim, Life(neighbour.pid) as other:
        with cluster.only(victim, spared=(other,)):
            held = {hungry.pid: hungry.limit_bytes + 2 * MIB, neighbour.pid: neighbour.limit_bytes}
            cluster.hold(hungry.device, held)
    event = event_on(cluster.api, "hungry", "GpuMemoryLimitExceeded")
    pod = cluster.api.call("GET", "/api/v1/namespaces/default/pods/hungry")
    assert event["involvedObject"]["uid"] == pod["metadata"]["uid"]
    assert (event["type"], event["source"]["component"], event["source"]["host"]) == ("Warning", "mortalgpu", "harness")
    used_mib = hungry.limit_bytes // MIB + 2
    assert f"uses {used_mib} MiB of GPU memory on GPU 0 ({hungry.device})" in event["message"]
    assert f"above its limit of {hungry.limit_bytes // MIB} MiB (20 shares of {SHARED})" in event["message"]
    assert f"Process {hungry.pid}, 1 in the container (/bin/sh " in event["message"]
    assert _told(cluster, "neighbour") == []


def test_the_event_of_a_static_pod_is_on_its_mirror_in_the_api(cluster: Cluster) -> None:
    cluster.follow("kubernetes")
    static = cluster.actor("static")
    cluster.known(static)
    child = cluster.sleepers(static)[0]
    with Life(child) as victim:
        with cluster.only(victim):
            cluster.hold(static.device, {child: static.limit_bytes + 2 * MIB})
    event = event_on(cluster.api, "static-harness", "GpuMemoryLimitExceeded")
    mirror = cluster.api.call("GET", "/api/v1/namespaces/default/pods/static-harness")
    assert event["involvedObject"]["uid"] == mirror["metadata"]["uid"]


def test_an_annotation_added_to_a_running_pod_raises_its_limit_and_a_garbled_one_is_told_and_ignored(cluster: Cluster) -> None:
    cluster.follow("kubernetes")
    changing = cluster.actor("changing")
    child = cluster.sleepers(changing)[0]
    annotate(cluster.api, "changing", **{ANNOTATION: "40"})
    until("the new limit", lambda: _limit_mib(cluster, changing.id), (changing.limit_bytes // MIB * 2).__le__, seconds=10)
    with Life(child) as process:
        with cluster.only(spared=(process,)):
            cluster.hold(changing.device, {child: 2 * changing.limit_bytes})
        with cluster.only(process):
            annotate(cluster.api, "changing", **{ANNOTATION: "a lot"})
    assert "a lot" in event_on(cluster.api, "changing", "GpuMemoryLimitAnnotation")["message"]


def _limit_mib(cluster: Cluster, container_id: str) -> int:
    found = [each for each in containers(cluster.daemon) if each.container_id == container_id]
    return found[0].container_devices[0].memory_limit if found else 0


def test_a_dead_api_server_stops_no_enforcement_and_the_event_comes_when_it_is_back(cluster: Cluster) -> None:
    """What restarts during the outage is named by nobody, and so judged only when the API tells of it."""
    cluster.follow("kubernetes")
    daemon = cluster.daemon.pid
    mended, family, neighbour = cluster.actor("mended"), cluster.actor("family"), cluster.actor("neighbour")
    child = cluster.sleepers(family)[0]
    with Life(child) as over, Life(mended.pid) as main, Life(neighbour.pid) as other:
        cluster.hold(neighbour.device, {neighbour.pid: neighbour.limit_bytes})
        cluster.api.kill_apiserver()
        with cluster.only(over, main, spared=(other,)):
            cluster.hold(family.device, {child: family.limit_bytes + 2 * MIB, mended.pid: mended.limit_bytes + 2 * MIB})
        unnamed = cluster.appears("mended", "main", other_than=mended.id)
        with Life(unnamed.pid) as again:
            with cluster.only(spared=(again, other)):
                cluster.hold(unnamed.device, {unnamed.pid: unnamed.limit_bytes + 2 * MIB})
            with cluster.only(again, spared=(other,)):
                cluster.api.start_apiserver()
                again.wait_end(60)
    assert f"Process {over.pid}, " in event_on(cluster.api, "family", "GpuMemoryLimitExceeded", seconds=60)["message"]
    assert cluster.daemon.pid == daemon


def test_with_both_sources_the_runtime_names_what_restarts_while_the_api_is_down(cluster: Cluster) -> None:
    cluster.follow("auto")
    away, neighbour = cluster.actor("away"), cluster.actor("neighbour")
    with Life(away.pid) as main, Life(neighbour.pid) as other:
        cluster.hold(neighbour.device, {neighbour.pid: neighbour.limit_bytes})
        cluster.api.kill_apiserver()
        try:
            with cluster.only(main, spared=(other,)):
                cluster.hold(away.device, {away.pid: away.limit_bytes + 2 * MIB})
            unnamed = cluster.appears("away", "main", other_than=away.id)
            with Life(unnamed.pid) as again:
                with cluster.only(again, spared=(other,)):
                    cluster.hold(unnamed.device, {unnamed.pid: unnamed.limit_bytes + 2 * MIB})
                    again.wait_end(20)
        finally:
            cluster.api.start_apiserver()
    told = event_on(cluster.api, "away", "GpuMemoryLimitExceeded", seconds=60)
    assert told["involvedObject"]["kind"] == "Pod"
    eventually("both Events", lambda: len(_told(cluster, "away")) == 2, seconds=30)


def _told(cluster: Cluster, pod: str) -> list[str]:
    """The messages of our Events on the pod; kubelet makes some too."""
    events = [each for each in cluster.api.events() if each["source"].get("component") == "mortalgpu"]
    return [each["message"] for each in events if each["involvedObject"]["name"] == pod]
