"""The Kubernetes adapter against a real kube-apiserver and etcd, with a service account that may do only what it needs."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from mortalgpu.cluster.access import ApiAccess
from mortalgpu.cluster.api import ApiCluster
from mortalgpu.model.pod import Container, PodNote
from tests.e2e.apiserver.build import locate
from tests.e2e.apiserver.control_plane import ControlPlane
from tests.needs import skipped_where_missing
from tests.waiting import Watched

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ID_A = "a" * 64


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with skipped_where_missing():
        locate()
    made = ControlPlane(tmp_path_factory.mktemp("plane"))
    try:
        made.start()
        made.make_account()
        yield made
    finally:
        made.stop()


@asynccontextmanager
async def watched(plane: ControlPlane, token_file: Path, node: str) -> AsyncIterator[Watched]:
    cluster = ApiCluster(ApiAccess(plane.url, plane.certificate, token_file), node)
    async with cluster.pods() as views:
        yield Watched(cluster, views, seconds=60)


@pytest.fixture
def token_file(plane: ControlPlane, tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(plane.token())
    return path


async def test_without_its_role_the_account_is_refused_and_with_it_the_pods_are_there(
    plane: ControlPlane, token_file: Path
) -> None:
    async with watched(plane, token_file, "first") as seen:
        refused = await seen.until(lambda view: "403" in view.trouble)
        assert "system:serviceaccount:default:mortalgpu" in refused.trouble
        assert "get, list and watch pods" in refused.trouble
        plane.grant()
        await seen.synced()


async def test_pods_of_the_node_come_change_and_go_and_others_are_not_seen(plane: ControlPlane, token_file: Path) -> None:
    uid = plane.run_pod("early", "node-a", annotations={"gpu-mem-limit.mortalgpu/v100": "20", "other": "x"})
    async with watched(plane, token_file, "node-a") as seen:
        view = await seen.synced("early")
        assert dict(view.pods[uid].annotations) == {"gpu-mem-limit.mortalgpu/v100": "20"}
        plane.run_pod("elsewhere", "node-b")
        late = plane.run_pod("late", "node-a", container_id=ID_A)
        view = await seen.until(lambda view: late in view.pods and view.pods[late].containers != ())
        assert sorted(pod.name for pod in view.pods.values()) == ["early", "late"]
        assert view.pods[late].containers == (Container("main", ID_A),)
        plane.set_status("late", {"phase": "Succeeded"})
        await seen.until(lambda view: view.pods[late].finished)
        plane.delete_pod("late")
        await seen.synced("early")
        assert seen.cluster.counts().lists == 1


async def test_a_mirror_pod_goes_by_its_config_hash(plane: ControlPlane, token_file: Path) -> None:
    annotations = {"kubernetes.io/config.hash": "f" * 32, "kubernetes.io/config.mirror": "f" * 32}
    api_uid = plane.run_pod("mirror", "node-m", annotations=annotations)
    async with watched(plane, token_file, "node-m") as seen:
        pod = (await seen.synced("mirror")).pods["f" * 32]
        assert pod.api_uid == api_uid


async def test_notes_become_events_that_people_find(plane: ControlPlane, token_file: Path) -> None:
    uid = plane.run_pod("told", "node-e")
    async with watched(plane, token_file, "node-e") as seen:
        pod = (await seen.synced("told")).pods[uid]
        seen.cluster.note(pod, PodNote("OverMemoryLimit", "killed python3: 5 GiB used, 4 GiB granted"))
        seen.cluster.node_note(PodNote("LayoutHeld", "kept the old layout", warning=False))
        with trio.fail_after(20):
            while seen.cluster.counts().notes_sent < 2:
                await trio.sleep(0.05)
    by_reason = {event["reason"]: event for event in plane.events()}
    killed = by_reason["OverMemoryLimit"]
    assert killed["involvedObject"]["uid"] == uid
    assert (killed["type"], killed["source"]["component"]) == ("Warning", "mortalgpu")
    assert killed["reportingComponent"] == "mortalgpu"
    assert by_reason["LayoutHeld"]["involvedObject"]["kind"] == "Node"
    assert seen.cluster.counts().notes_failed == 0


async def test_a_bad_token_is_refused_and_the_replaced_file_is_read(plane: ControlPlane, token_file: Path) -> None:
    good = token_file.read_text()
    token_file.write_text("not.a.token")
    plane.run_pod("rotated", "node-t")
    async with watched(plane, token_file, "node-t") as seen:
        await seen.until(lambda view: "401" in view.trouble)
        token_file.write_text(good)
        await seen.synced("rotated")


async def test_a_server_killed_and_started_again_is_caught_up_with_by_itself(plane: ControlPlane, token_file: Path) -> None:
    plane.run_pod("survivor", "node-r")
    async with watched(plane, token_file, "node-r") as seen:
        before = await seen.synced("survivor")
        plane.kill_apiserver()
        stale = await seen.until(lambda view: not view.synced)
        assert stale.pods == before.pods
        seen.cluster.note(next(iter(before.pods.values())), PodNote("DuringOutage", "killed while nobody listened"))
        plane.compact()
        await trio.to_thread.run_sync(plane.start_apiserver)
        plane.delete_pod("survivor")
        plane.run_pod("successor", "node-r")
        await seen.synced("successor")
        with trio.fail_after(60):
            while seen.cluster.counts().notes_sent < 1:
                await trio.sleep(0.1)
    assert "DuringOutage" in {event["reason"] for event in plane.events()}
