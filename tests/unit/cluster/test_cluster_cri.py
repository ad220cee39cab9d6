"""The runtime adapter: how sandboxes and containers become pods, and what it does when the socket fails."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from mortalgpu.cluster.cri import CriCluster, find_socket, join_pods
from mortalgpu.errors import ClusterError
from mortalgpu.model.pod import Container, Pod, PodNote
from mortalgpu.rpc.pb.cri.v1 import runtime_pb2 as cri
from mortalgpu.rpc.status import Code
from tests.standin.cri import RuntimePeer, containers_of, open_runtime, refusing, sandbox_of
from tests.waiting import Watched

ID_A, ID_B = "a" * 64, "b" * 64
POD = Pod("f" * 32, "notebook", "team-a", (Container("main", ID_A), Container("side", ID_B, running=False)))


def test_a_pod_is_its_sandbox_and_the_containers_whose_labels_name_it() -> None:
    assert join_pods([sandbox_of(POD)], containers_of(POD)) == {POD.uid: POD}


def test_the_newest_of_several_sandboxes_counts() -> None:
    old = sandbox_of(Pod(POD.uid, "notebook", "team-a", finished=True), created_at=1, sandbox_id="old")
    new = sandbox_of(POD, created_at=2, sandbox_id="new")
    for order in ([old, new], [new, old]):
        assert join_pods(order, [])[POD.uid].finished is False


def test_a_pod_whose_sandbox_stopped_is_finished_only_when_nothing_runs_in_it() -> None:
    stopped = sandbox_of(Pod(POD.uid, "notebook", "team-a", finished=True))
    assert join_pods([stopped], containers_of(POD))[POD.uid].finished is False
    assert join_pods([stopped], containers_of(POD)[1:])[POD.uid].finished is True


def test_limit_annotations_of_the_sandbox_are_kept_and_others_are_not() -> None:
    annotated = Pod("u", "p", "n", annotations={"gpu-mem-limit.mortalgpu/v100": "20", "kubernetes.io/config.source": "file"})
    assert join_pods([sandbox_of(annotated)], [])["u"].annotations == {"gpu-mem-limit.mortalgpu/v100": "20"}


def test_containers_without_labels_without_id_or_of_unknown_pods_belong_to_nobody() -> None:
    stray = cri.Container(id=ID_A, state=cri.CONTAINER_RUNNING)
    nameless = cri.Container(id="", labels={"io.kubernetes.pod.uid": "u"})
    elsewhere = cri.Container(id=ID_B, labels={"io.kubernetes.pod.uid": "gone"})
    nobody = cri.PodSandbox(metadata=cri.PodSandboxMetadata(name="x", namespace="y"))
    pods = join_pods([sandbox_of(Pod("u", "p", "n")), nobody], [stray, nameless, elsewhere])
    assert pods == {"u": Pod("u", "p", "n")}


def test_a_missing_socket_is_named_with_every_place_that_was_looked_at(tmp_path: Path) -> None:
    (tmp_path / "file.sock").write_text("no socket")
    with pytest.raises(ClusterError, match=r"file\.sock.*none\.sock.*configuration"):
        find_socket([tmp_path / "file.sock", tmp_path / "none.sock"])


@asynccontextmanager
async def polled(socket: Path, *, poll_seconds: float = 60) -> AsyncIterator[Watched]:
    cluster = CriCluster([socket], poll_seconds=poll_seconds, gap_seconds=0.02)
    async with cluster.pods() as views:
        yield Watched(cluster, views, seconds=10)


async def test_a_refresh_looks_now_and_not_at_the_next_turn(tmp_path: Path) -> None:
    peer = RuntimePeer()
    async with open_runtime(tmp_path / "cri.sock", peer), polled(tmp_path / "cri.sock") as seen:
        await seen.synced()
        peer.hold(POD)
        seen.cluster.refresh()
        assert (await seen.synced(POD.name)).pods == {POD.uid: POD}


async def test_without_a_refresh_changes_are_seen_at_the_next_turn(tmp_path: Path) -> None:
    peer = RuntimePeer()
    async with open_runtime(tmp_path / "cri.sock", peer), polled(tmp_path / "cri.sock", poll_seconds=0.1) as seen:
        await seen.synced()
        peer.hold(POD)
        await seen.synced(POD.name)


async def test_a_storm_of_refreshes_does_not_become_a_storm_of_questions(tmp_path: Path) -> None:
    peer = RuntimePeer()
    async with open_runtime(tmp_path / "cri.sock", peer), polled(tmp_path / "cri.sock") as seen:
        await seen.synced()
        began = trio.current_time()
        while trio.current_time() - began < 0.3:
            seen.cluster.refresh()
            await trio.lowlevel.checkpoint()
        assert peer.asked <= (trio.current_time() - began) / 0.02 + 3


@pytest.mark.parametrize("code", [Code.UNIMPLEMENTED, Code.INTERNAL, Code.RESOURCE_EXHAUSTED])
async def test_a_runtime_that_refuses_leaves_the_last_known_pods_marked_stale(tmp_path: Path, code: Code) -> None:
    peer = RuntimePeer()
    peer.hold(POD)
    async with open_runtime(tmp_path / "cri.sock", peer), polled(tmp_path / "cri.sock", poll_seconds=0.05) as seen:
        await seen.synced(POD.name)
        peer.refusal = refusing(code, "not today")
        view = await seen.unsynced("not today", code.name)
        assert (set(view.pods), view.source) == ({POD.uid}, "cri")
        peer.refusal = None
        await seen.synced(POD.name)


async def test_a_runtime_that_is_restarted_is_found_again(tmp_path: Path) -> None:
    peer = RuntimePeer()
    async with polled(tmp_path / "cri.sock", poll_seconds=0.05) as seen:
        await seen.unsynced("no container runtime socket found", str(tmp_path / "cri.sock"))
        async with open_runtime(tmp_path / "cri.sock", peer):
            await seen.synced()
        await seen.unsynced()
        peer.hold(POD)
        async with open_runtime(tmp_path / "cri.sock", peer):
            await seen.synced(POD.name)
        assert seen.cluster.counts().failures >= 2


async def test_a_runtime_that_sleeps_is_waited_for_no_longer_than_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mortalgpu.cluster.cri._DEADLINE_SECONDS", 0.2)
    peer = RuntimePeer()
    peer.asleep = True
    async with open_runtime(tmp_path / "cri.sock", peer), polled(tmp_path / "cri.sock", poll_seconds=0.05) as seen:
        await seen.unsynced("did not answer within")
        peer.asleep = False
        await seen.synced()


async def test_a_note_becomes_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    CriCluster([]).note(POD, PodNote("OverMemoryLimit", "killed"))
    CriCluster([]).node_note(PodNote("LayoutHeld", "waits"))
    fields = [(record.__dict__.get("pod"), record.__dict__["reason"], record.__dict__["cause"]) for record in caplog.records]
    assert fields == [("notebook", "OverMemoryLimit", "killed"), (None, "LayoutHeld", "waits")]
