"""What every cluster promises, asked of the twin and of each adapter in front of its stand-in alike."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest
import trio

from mortalgpu.cluster.access import ApiAccess
from mortalgpu.cluster.api import ApiCluster
from mortalgpu.cluster.auto import AutoCluster
from mortalgpu.cluster.base import Cluster, PodsView
from mortalgpu.cluster.cri import CriCluster
from mortalgpu.cluster.session import ApiPace
from mortalgpu.model.pod import Container, ContainerRef, Pod, PodNote
from mortalgpu.rpc.status import Code
from mortalgpu.simulation.cluster import SimulatedCluster
from tests.standin.apiserver.objects import JsonObject, container_status, pod_object
from tests.standin.apiserver.peer import ApiPeer, open_peer
from tests.standin.cri import RuntimePeer, open_runtime, refusing
from tests.waiting import until_view

ID_A, ID_B = "a" * 64, "b" * 64
LIMIT = "gpu-mem-limit.mortalgpu/v100"
NOTEBOOK = Pod("uid-1", "notebook", "team-a", (Container("main", ID_A),), {LIMIT: "20"}, "uid-1")
TRAINING = Pod("uid-2", "training", "team-b", (Container("main", ID_B),), api_uid="uid-2")
NOTE = PodNote("OverMemoryLimit", "killed")
PACE = ApiPace(request_seconds=1, first_retry_seconds=0.02, last_retry_seconds=0.1)


class World(Protocol):
    """What lies behind a cluster: where pods come and go, and the source fails and recovers."""

    cluster: Cluster

    def hold(self, *pods: Pod) -> None: ...

    def fail(self) -> None: ...

    def recover(self) -> None: ...


class Twin:
    def __init__(self) -> None:
        self.twin = SimulatedCluster(lambda: 1_700_000_000.0)
        self.cluster: Cluster = self.twin
        self.held: set[str] = set()

    def hold(self, *pods: Pod) -> None:
        for uid in self.held - {pod.uid for pod in pods}:
            self.twin.remove(uid)
        self.twin.put(*pods)
        self.held = {pod.uid for pod in pods}

    def fail(self) -> None:
        self.twin.fail("simulated outage")

    def recover(self) -> None:
        self.twin.recover()


def as_object(pod: Pod) -> JsonObject:
    statuses = [container_status(each.name, each.container_id, running=each.running) for each in pod.containers]
    phase = "Succeeded" if pod.finished else "Running"
    return pod_object(
        pod.name, uid=pod.api_uid, namespace=pod.namespace, phase=phase, annotations=dict(pod.annotations), containers=statuses
    )


class Kubernetes:
    def __init__(self, peer: ApiPeer) -> None:
        self.peer = peer
        self.cluster: Cluster = ApiCluster(ApiAccess(peer.url), "node-1", pace=PACE)

    def hold(self, *pods: Pod) -> None:
        for uid in set(self.peer.pods) - {pod.api_uid for pod in pods}:
            self.peer.delete(uid)
        for pod in pods:
            self.peer.put(as_object(pod))

    def fail(self) -> None:
        self.peer.down = True
        self.peer.cut()

    def recover(self) -> None:
        self.peer.down = False


class Runtime:
    def __init__(self, peer: RuntimePeer, socket: Path) -> None:
        self.peer = peer
        self.cluster: Cluster = CriCluster([socket], poll_seconds=0.05, gap_seconds=0.01)

    def hold(self, *pods: Pod) -> None:
        self.peer.hold(*pods)

    def fail(self) -> None:
        self.peer.refusal = refusing(Code.UNAVAILABLE, "simulated outage")

    def recover(self) -> None:
        self.peer.refusal = None


class Both:
    def __init__(self, api: Kubernetes, cri: Runtime) -> None:
        self.api = api
        self.cri = cri
        self.cluster: Cluster = AutoCluster(api.cluster, cri.cluster, patience_seconds=0.05)

    def hold(self, *pods: Pod) -> None:
        self.api.hold(*pods)
        self.cri.hold(*pods)

    def fail(self) -> None:
        self.api.fail()
        self.cri.fail()

    def recover(self) -> None:
        self.api.recover()
        self.cri.recover()


@asynccontextmanager
async def world(kind: str, folder: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        if kind == "twin":
            yield Twin()
            return
        runtime = RuntimePeer()
        await stack.enter_async_context(open_runtime(folder / "cri.sock", runtime))
        below = Runtime(runtime, folder / "cri.sock")
        if kind == "cri":
            yield below
            return
        above = Kubernetes(await stack.enter_async_context(open_peer()))
        yield above if kind == "kubernetes" else Both(above, below)


every_kind = pytest.mark.parametrize("kind", ["twin", "kubernetes", "cri", "auto"])


async def until_held(views: AsyncIterator[PodsView], *pods: Pod) -> PodsView:
    return await until_view(views, lambda view: view.synced and set(view.pods) == {pod.uid for pod in pods})


async def until_settled(kind: str, views: AsyncIterator[PodsView], *pods: Pod) -> PodsView:
    """Wait for the source that is in force in the long run: of two, the runtime may be the first to answer."""
    source = "cri" if kind == "cri" else "kubernetes"
    return await until_view(
        views, lambda view: view.source == source and view.synced and set(view.pods) == {pod.uid for pod in pods}
    )


def without_api_uid(pods: dict[str, Pod]) -> dict[str, Pod]:
    return {uid: replace(pod, api_uid="") for uid, pod in pods.items()}


@every_kind
async def test_a_view_comes_at_once_even_when_nothing_answers(kind: str, tmp_path: Path) -> None:
    async with world(kind, tmp_path) as under:
        under.fail()
        async with under.cluster.pods() as views:
            with trio.fail_after(1):
                first = await anext(views)
            assert (dict(first.pods), first.synced, first.as_of) == ({}, False, 0.0)


@every_kind
async def test_a_view_is_complete(kind: str, tmp_path: Path) -> None:
    async with world(kind, tmp_path) as under:
        under.hold(NOTEBOOK, TRAINING)
        async with under.cluster.pods() as views:
            view = await until_held(views, NOTEBOOK, TRAINING)
            expected = {"uid-1": NOTEBOOK, "uid-2": TRAINING}
            assert without_api_uid(dict(view.pods)) == without_api_uid(expected)
            assert view.source in ("kubernetes", "cri")
            assert view.as_of > 0
            assert view.trouble == ""


@every_kind
async def test_a_pod_that_is_gone_is_gone_and_one_that_ended_is_flagged(kind: str, tmp_path: Path) -> None:
    async with world(kind, tmp_path) as under:
        under.hold(NOTEBOOK, TRAINING)
        async with under.cluster.pods() as views:
            await until_held(views, NOTEBOOK, TRAINING)
            ended = replace(TRAINING, containers=(Container("main", ID_B, running=False),), finished=True)
            under.hold(ended)
            view = await until_view(views, lambda view: set(view.pods) == {"uid-2"} and view.pods["uid-2"].finished)
            assert view.pods["uid-2"].containers == ended.containers


@every_kind
async def test_processes_find_their_container_by_ids_and_by_nothing_else(kind: str, tmp_path: Path) -> None:
    async with world(kind, tmp_path) as under:
        under.hold(NOTEBOOK, TRAINING)
        async with under.cluster.pods() as views:
            view = await until_held(views, NOTEBOOK, TRAINING)
            assert view.container_of(ContainerRef("uid-1", ID_A)) == Container("main", ID_A)
            assert view.container_of(ContainerRef("uid-2", ID_A)) is None
            assert view.container_of(ContainerRef("uid-1", "")) is None
            assert view.pod_of(ContainerRef("", ID_A)) is None


@every_kind
async def test_an_outage_keeps_the_last_truth_marks_it_stale_and_ends_by_itself(kind: str, tmp_path: Path) -> None:
    async with world(kind, tmp_path) as under:
        under.hold(NOTEBOOK)
        async with under.cluster.pods() as views:
            good = await until_settled(kind, views, NOTEBOOK)
            under.fail()
            stale = await until_view(views, lambda view: not view.synced and bool(view.trouble))
            assert stale.pods == good.pods
            assert stale.as_of >= good.as_of
            under.hold(TRAINING)
            under.recover()
            view = await until_held(views, TRAINING)
            assert (set(view.pods), view.synced) == ({"uid-2"}, True)
            assert under.cluster.counts().failures > 0


@every_kind
async def test_a_slow_reader_misses_views_but_never_the_last(kind: str, tmp_path: Path) -> None:
    async with world(kind, tmp_path) as under:
        async with under.cluster.pods() as views:
            await until_held(views)
            for number in range(20):
                under.hold(replace(NOTEBOOK, annotations={LIMIT: str(number)}))
                await trio.lowlevel.checkpoint()
            await until_view(views, lambda view: bool(view.pods) and view.pods["uid-1"].containers == NOTEBOOK.containers)
            under.hold(TRAINING)
            await until_held(views, TRAINING)


@every_kind
async def test_nothing_is_told_twice(kind: str, tmp_path: Path) -> None:
    async with world(kind, tmp_path) as under:
        under.hold(NOTEBOOK)
        async with under.cluster.pods() as views:
            await until_settled(kind, views, NOTEBOOK)
            with trio.move_on_after(0.3) as quiet:
                await anext(views)
            assert quiet.cancelled_caught


@every_kind
async def test_it_can_be_left_and_opened_again(kind: str, tmp_path: Path) -> None:
    async with world(kind, tmp_path) as under:
        under.hold(NOTEBOOK)
        for _ in range(3):
            async with under.cluster.pods() as views:
                await until_held(views, NOTEBOOK)


@every_kind
async def test_notes_and_refreshes_never_block_and_never_raise_open_or_not(kind: str, tmp_path: Path) -> None:
    async with world(kind, tmp_path) as under:
        under.fail()
        for _ in range(1000):
            under.cluster.note(NOTEBOOK, NOTE)
            under.cluster.node_note(NOTE)
            under.cluster.refresh()
        async with under.cluster.pods():
            under.cluster.note(NOTEBOOK, NOTE)
            under.cluster.refresh()
            await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("kind", ["twin", "kubernetes", "auto"])
async def test_a_note_is_delivered_and_counted(kind: str, tmp_path: Path) -> None:
    async with world(kind, tmp_path) as under, under.cluster.pods():
        under.cluster.note(NOTEBOOK, NOTE)
        with trio.fail_after(5):
            while under.cluster.counts().notes_sent != 1:
                await trio.sleep(0.01)
