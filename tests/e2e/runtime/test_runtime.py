"""The runtime adapter against a real containerd: pods, annotations, containers that run and stop, a restart of the daemon."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from mortalgpu.cluster.cri import CriCluster
from mortalgpu.model.pod import Container, Pod
from tests.e2e.build import locate_node
from tests.e2e.runtime.containerd import Containerd
from tests.needs import skipped_where_missing
from tests.waiting import until_view

pytestmark = [pytest.mark.e2e, pytest.mark.root]

UID = "1f0c9c4e-6b1c-4a43-9d2b-1c2f3d4e5f60"
STATIC_UID = "d41d8cd98f00b204e9800998ecf8427e"


@pytest.fixture(scope="module")
def containerd() -> Iterator[Containerd]:
    with skipped_where_missing():
        locate_node()
    folder = Path(tempfile.mkdtemp(prefix="mg-"))
    made = Containerd(folder)
    try:
        made.start()
        yield made
    finally:
        made.clean_up()
        shutil.rmtree(folder, ignore_errors=True)


async def test_pods_and_containers_are_known_by_the_ids_of_their_cgroups(containerd: Containerd) -> None:
    sandbox, config = containerd.run_sandbox("notebook", UID, {"gpu-mem-limit.mortalgpu/v100": "20", "note": "x"})
    main = containerd.run_container(sandbox, config, "main")
    cluster = CriCluster([containerd.socket], poll_seconds=60)
    async with cluster.pods() as views:
        view = await until_view(views, lambda view: view.synced, seconds=20)
        annotations = {"gpu-mem-limit.mortalgpu/v100": "20"}
        assert view.pods == {UID: Pod(UID, "notebook", "team-a", (Container("main", main),), annotations)}
        side = containerd.run_container(sandbox, config, "side")
        cluster.refresh()
        await until_view(views, lambda view: Container("side", side) in view.pods[UID].containers, seconds=20)
        containerd.call("StopContainer", {1: side})
        cluster.refresh()
        await until_view(views, lambda view: Container("side", side, running=False) in view.pods[UID].containers, seconds=20)


async def test_a_stopped_sandbox_is_a_finished_pod_and_a_removed_one_is_gone(containerd: Containerd) -> None:
    annotations = {"kubernetes.io/config.hash": STATIC_UID, "kubernetes.io/config.source": "file"}
    sandbox, config = containerd.run_sandbox("static-node-1", STATIC_UID, annotations)
    containerd.run_container(sandbox, config, "main")
    async with CriCluster([containerd.socket], poll_seconds=0.2).pods() as views:
        view = await until_view(views, lambda view: view.synced and STATIC_UID in view.pods, seconds=20)
        assert view.pods[STATIC_UID].finished is False
        containerd.call("StopPodSandbox", {1: sandbox})
        await until_view(views, lambda view: view.pods[STATIC_UID].finished, seconds=20)
        containerd.remove_sandbox(sandbox)
        await until_view(views, lambda view: STATIC_UID not in view.pods, seconds=20)


async def test_a_killed_daemon_leaves_the_last_truth_and_is_found_again(containerd: Containerd) -> None:
    sandbox, config = containerd.run_sandbox("survivor", UID.replace("1f0c", "2f0c"), {})
    container = containerd.run_container(sandbox, config, "main")
    async with CriCluster([containerd.socket], poll_seconds=0.2).pods() as views:
        before = await until_view(views, lambda view: view.synced, seconds=20)
        containerd.kill()
        stale = await until_view(views, lambda view: not view.synced and view.trouble != "", seconds=20)
        assert stale.pods == before.pods
        await trio.to_thread.run_sync(containerd.start)
        after = await until_view(views, lambda view: view.synced, seconds=20)
        assert container in {each.container_id for pod in after.pods.values() for each in pod.containers}
