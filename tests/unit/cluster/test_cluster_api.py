"""The Kubernetes adapter against the scripted peer: what it asks, what it makes of answers, and the faults it must outlive."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from mortalgpu.cluster.access import ApiAccess
from mortalgpu.cluster.api import ApiCluster
from mortalgpu.cluster.session import ApiPace
from mortalgpu.model.pod import Container, ContainerRef
from tests.standin.apiserver import peer as say
from tests.standin.apiserver.objects import container_status, pod_object
from tests.standin.apiserver.peer import Answer, ApiPeer, open_peer
from tests.standin.apiserver.tls import OPENSSL, self_signed
from tests.waiting import Watched, until

ID_A, ID_B, ID_C = "a" * 64, "b" * 64, "c" * 64
QUICK = ApiPace(request_seconds=0.3, idle_seconds=0.5, first_retry_seconds=0.05, page_pods=2)
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="the openssl program makes the certificates")


@asynccontextmanager
async def watched(access: ApiAccess, pace: ApiPace = QUICK) -> AsyncIterator[Watched]:
    cluster = ApiCluster(access, "node-1", pace=pace, random=lambda: 0.0)
    async with cluster.pods() as views:
        yield Watched(cluster, views)


@asynccontextmanager
async def peer_and_cluster(*script: Answer, pods: tuple[str, ...] = ("a",)) -> AsyncIterator[tuple[ApiPeer, Watched]]:
    async with open_peer() as peer:
        for name in pods:
            peer.put(pod_object(name))
        peer.next(*script)
        async with watched(ApiAccess(peer.url)) as seen:
            yield peer, seen


async def test_pods_of_this_node_appear_change_and_vanish() -> None:
    async with peer_and_cluster() as (peer, seen):
        await seen.synced("a")
        peer.put(pod_object("b", containers=[container_status("main", ID_B)]))
        assert (await seen.synced("a", "b")).pods["uid-of-b"].containers == (Container("main", ID_B),)
        peer.put(pod_object("b", phase="Succeeded"))
        assert (await seen.until(lambda view: view.pods["uid-of-b"].finished)).pods["uid-of-b"].finished
        peer.delete("uid-of-b")
        await seen.synced("a")


async def test_pods_of_other_nodes_are_never_asked_for() -> None:
    async with peer_and_cluster() as (peer, seen):
        peer.put(pod_object("stranger", node="node-2"))
        peer.put(pod_object("b"))
        await seen.synced("a", "b")
        assert {each.query["fieldSelector"] for each in peer.requests} == {"spec.nodeName=node-1"}


MIRRORING = {"kubernetes.io/config.hash": "f" * 32, "kubernetes.io/config.mirror": "f" * 32}


async def test_a_static_pod_goes_by_the_uid_in_its_cgroup_and_keeps_the_mirrors_for_events() -> None:
    async with peer_and_cluster(pods=()) as (peer, seen):
        peer.put(pod_object("static", annotations=MIRRORING, containers=[container_status("m", ID_A)]))
        view = await seen.synced("static")
        pod = view.pods["f" * 32]
        assert (pod.uid, pod.api_uid) == ("f" * 32, "uid-of-static")
        assert view.container_of(ContainerRef("f" * 32, ID_A)) == Container("m", ID_A)


async def test_init_and_ephemeral_containers_count_and_unmade_ones_do_not() -> None:
    async with peer_and_cluster(pods=()) as (peer, seen):
        main = [container_status("main", ID_A, scheme="cri-o"), container_status("waiting", "", running=False)]
        early, late = [container_status("init", ID_B, running=False)], [container_status("debug", ID_C)]
        peer.put(pod_object("many", containers=main, init=early, ephemeral=late))
        view = await seen.synced("many")
        expected = {Container("init", ID_B, running=False), Container("main", ID_A), Container("debug", ID_C)}
        assert set(view.pods["uid-of-many"].containers) == expected
        assert view.container_of(ContainerRef("uid-of-many", "")) is None


async def test_a_list_is_read_page_by_page() -> None:
    async with peer_and_cluster(pods=("a", "b", "c", "d", "e")) as (peer, seen):
        await seen.synced("a", "b", "c", "d", "e")
        assert [each.query.get("continue") for each in peer.of(watch=False)] == [None, "15-3", "15-1"]
        assert seen.cluster.counts().lists == 1


async def test_a_cut_watch_resumes_where_it_was_without_a_list() -> None:
    async with peer_and_cluster() as (peer, seen):
        await seen.synced("a")
        peer.put(pod_object("b"))
        await seen.synced("a", "b")
        await until(lambda: peer.watching == 1)
        version = str(peer.version)
        peer.cut()
        assert len((await seen.unsynced()).pods) == 2
        peer.put(pod_object("c"))
        await seen.synced("a", "b", "c")
        assert len(peer.of(watch=False)) == 1
        assert peer.of(watch=True)[-1].query["resourceVersion"] == version


async def test_a_bookmark_moves_the_version_to_resume_from() -> None:
    async with peer_and_cluster() as (peer, seen):
        await seen.synced("a")
        await until(lambda: peer.watching == 1)
        began = seen.cluster.counts().failures
        peer.bookmark(versions_later=500)
        await trio.testing.wait_all_tasks_blocked(0.05)
        peer.oldest = peer.version
        peer.cut()
        await seen.until(lambda view: seen.cluster.counts().failures > began and view.synced)
        assert peer.of(watch=True)[-1].query["resourceVersion"] == str(peer.version)
        assert len(peer.of(watch=False)) == 1


async def test_a_version_gone_at_the_start_of_a_watch_leads_to_a_fresh_list() -> None:
    async with peer_and_cluster() as (peer, seen):
        await seen.synced("a")
        await until(lambda: peer.watching == 1)
        peer.down = True
        peer.cut()
        await seen.unsynced()
        peer.delete("uid-of-a")
        peer.put(pod_object("b"))
        peer.compact()
        peer.down = False
        await seen.unsynced("410")
        await seen.synced("b")
        first, second = peer.of(watch=False)
        assert first.query["resourceVersion"] == "0"
        assert "resourceVersion" not in second.query


async def test_a_version_gone_in_the_middle_of_a_watch_leads_to_a_fresh_list() -> None:
    async with peer_and_cluster() as (peer, seen):
        await seen.synced("a")
        await until(lambda: peer.watching == 1)
        peer.pods.pop("uid-of-a")
        peer.say("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version: 1 (2)"})
        await seen.unsynced("410", "too old resource version")
        await seen.synced()
        assert len(peer.of(watch=False)) == 2


async def test_another_error_in_a_watch_leads_to_a_list_no_older_than_what_was_seen() -> None:
    async with peer_and_cluster() as (peer, seen):
        await seen.synced("a")
        await until(lambda: peer.watching == 1)
        version = str(peer.version)
        peer.say("ERROR", {"kind": "Status", "code": 500, "message": "etcd is unwell"})
        await seen.unsynced("etcd is unwell")
        await seen.synced("a")
        assert peer.of(watch=False)[-1].query["resourceVersion"] == version
        assert peer.of(watch=False)[-1].query["resourceVersionMatch"] == "NotOlderThan"


async def test_a_list_from_the_future_of_a_restored_server_falls_back_to_the_newest_state() -> None:
    async with peer_and_cluster() as (peer, seen):
        await seen.synced("a")
        await until(lambda: peer.watching == 1)
        peer.next(say.refuse(504, "Too large resource version: 11, current: 3", reason="Timeout"))
        peer.cut()
        await seen.unsynced("Too large")
        await seen.synced("a")
        assert "resourceVersion" not in peer.of(watch=False)[-1].query


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (say.hang, ["did not answer"]),
        (say.drip, ["did not answer"]),
        (say.slam, ["no answer"]),
        (say.reply(b"<html>proxy</html>"), ["cannot be read"]),
        (say.reply(b'{"kind":"PodList","metadata":{},"items":[{"metadata":{"name":7}}]}'), ["cannot be read"]),
        (say.reply(b'{"kind":"PodList","metadata":{},"items":[{"metadata":{"name":"\xff"}}]}'), ["cannot be read"]),
        (say.reply(b'{"kind":"SecretList","metadata":{}}'), ["SecretList"]),
        (say.reply(b"[]"), ["cannot be read"]),
        (say.reply(b""), ["cannot be read"]),
        (say.reply(b"moved", status=302), ["302"]),
        (say.refuse(500, "boom"), ["500", "boom"]),
        (say.refuse(403, "pods is forbidden"), ["403", "pods is forbidden", "get, list and watch pods"]),
        (say.reply(b"<html>bad gateway</html>", status=502), ["502"]),
    ],
)
async def test_a_list_that_fails_is_a_stale_view_with_the_cause_and_is_asked_again(fault: Answer, words: list[str]) -> None:
    async with peer_and_cluster(fault) as (_, seen):
        view = await seen.unsynced(*words)
        assert (dict(view.pods), view.as_of) == ({}, 0.0)
        await seen.synced("a")
        assert seen.cluster.counts().failures == 1


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (say.hang, "did not answer a watch"),
        (say.slam, "no answer"),
        (say.stream_of(b"not json\n"), "cannot be read"),
        (say.stream_of(b'{"type":"ADDED","object":{"metadata":{"name":1}}}\n'), "cannot be read"),
        (say.stream_of(b'{"type":"INVENTED","object":{"metadata":{"name":"x"}}}\n'), "INVENTED"),
        (say.stream_of(b'{"type":"ADDED","object":{"metadata":{"na', then_end=False), "incomplete chunked read"),
        (say.stream_of(), "as soon as it had begun"),
        (say.refuse(403, "no watching"), "no watching"),
        (say.refuse(429, "slow down"), "slow down"),
    ],
)
async def test_a_watch_that_fails_keeps_the_last_known_pods_and_is_opened_again(fault: Answer, words: str) -> None:
    async with open_peer() as peer:
        peer.put(pod_object("a"))

        async def listed_then_fault(stream: trio.abc.Stream, request: say.Request) -> None:
            await peer._list(stream, request)

        peer.next(listed_then_fault, fault)
        async with watched(ApiAccess(peer.url)) as seen:
            view = await seen.unsynced(words)
            assert list(view.pods) == ["uid-of-a"]
            assert view.as_of > 0
            peer.put(pod_object("b"))
            await seen.synced("a", "b")


async def test_a_watch_that_falls_silent_is_opened_again() -> None:
    async with peer_and_cluster() as (peer, seen):
        await seen.synced("a")
        await seen.unsynced("did not send anything")
        await seen.synced("a")
        assert len(peer.of(watch=True)) >= 2


async def test_a_pod_in_pieces_and_several_in_one_piece_are_both_read() -> None:
    def line(name: str) -> bytes:
        return json.dumps({"type": "ADDED", "object": pod_object(name) | {"kind": "Pod"}}).encode() + b"\n"

    first, rest = line("x"), line("y") + line("z")
    answer = say.stream_of(first[:50], first[50:] + rest[:10], rest[10:])
    async with peer_and_cluster(say.reply(b'{"kind":"PodList","metadata":{"resourceVersion":"4"},"items":null}'), answer) as (
        _,
        seen,
    ):
        await seen.until(lambda view: {pod.name for pod in view.pods.values()} >= {"x", "y", "z"})


async def test_an_object_of_megabytes_is_read_and_only_its_limit_annotations_are_kept() -> None:
    async with peer_and_cluster() as (peer, seen):
        await seen.synced("a")
        giant = pod_object("giant", annotations={"last-applied": "x" * 3_000_000, "gpu-mem-limit.mortalgpu/v100": "20"})
        peer.put(giant)
        view = await seen.synced("a", "giant")
        assert dict(view.pods["uid-of-giant"].annotations) == {"gpu-mem-limit.mortalgpu/v100": "20"}


async def test_a_line_or_an_answer_beyond_all_measure_is_refused_instead_of_stored() -> None:
    async with open_peer() as peer:
        peer.put(pod_object("a"))
        small = ApiPace(request_seconds=2, line_bytes=100_000, answer_bytes=500_000)
        async with watched(ApiAccess(peer.url), small) as seen:
            await seen.synced("a")
            await until(lambda: peer.watching == 1)
            peer.put(pod_object("b", annotations={"x": "y" * 300_000}))
            await seen.unsynced("line larger")
            await seen.synced("a", "b")
            peer.put(pod_object("c", annotations={"x": "y" * 400_000}))
            await seen.unsynced("answer is larger")


async def test_a_server_in_trouble_is_asked_less_and_less_often() -> None:
    storm = [say.refuse(500, "storm")] * 4
    async with peer_and_cluster(*storm) as (peer, seen):
        began = trio.current_time()
        await seen.synced("a")
        assert trio.current_time() - began >= 0.025 + 0.05 + 0.1 + 0.2
        assert len(peer.of(watch=False)) == 5


async def test_pods_are_not_unseen_for_long_after_a_long_trouble() -> None:
    pace = replace(QUICK, longest_unseen_seconds=0.1)
    async with open_peer() as peer:
        peer.put(pod_object("a"))
        peer.next(*[say.refuse(500, "storm")] * 9)
        began = trio.current_time()
        async with watched(ApiAccess(peer.url), pace) as seen:
            await seen.synced("a")
        assert trio.current_time() - began < 3, "waits that go on doubling take 12 seconds"


async def test_retry_after_is_honoured() -> None:
    async with peer_and_cluster(say.refuse(429, "later", headers={"Retry-After": "1"})) as (_, seen):
        began = trio.current_time()
        await seen.synced("a")
        assert trio.current_time() - began >= 1


async def test_a_server_that_is_away_comes_back_without_a_restart() -> None:
    async with peer_and_cluster() as (peer, seen):
        before = await seen.synced("a")
        peer.down = True
        peer.cut()
        lost = await seen.unsynced("no answer")
        assert (lost.pods, lost.source) == (before.pods, "kubernetes")
        peer.put(pod_object("b"))
        peer.down = False
        await seen.synced("a", "b")


@needs_openssl
async def test_a_token_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    certificate, context = self_signed(tmp_path, "api")
    token = tmp_path / "token"
    token.write_text("first\n")
    async with open_peer(context) as peer:
        peer.put(pod_object("a"))
        peer.token = "first"
        async with watched(ApiAccess(peer.url, certificate, token)) as seen:
            await seen.synced("a")
            peer.token = "second"
            peer.cut()
            await seen.unsynced("401", str(token))
            token.write_text("second")
            peer.put(pod_object("b"))
            view = await seen.synced("a", "b")
            assert "first" not in view.trouble


@needs_openssl
async def test_a_server_that_another_ca_signed_is_told_nothing_until_the_right_ca_is_there(tmp_path: Path) -> None:
    certificate, context = self_signed(tmp_path, "api")
    other, _ = self_signed(tmp_path, "other")
    trusted, token = tmp_path / "ca.crt", tmp_path / "token"
    trusted.write_bytes(other.read_bytes())
    token.write_text("secret")
    async with open_peer(context) as peer:
        peer.put(pod_object("a"))
        async with watched(ApiAccess(peer.url, trusted, token)) as seen:
            await seen.unsynced("CERTIFICATE_VERIFY_FAILED", str(trusted))
            assert peer.requests == []
            trusted.write_bytes(certificate.read_bytes())
            await seen.synced("a")
            assert peer.requests[0].headers["authorization"] == "Bearer secret"


@pytest.mark.parametrize("broken", ["absent", "empty", "unencrypted", "garbled"])
async def test_without_a_usable_token_nothing_is_sent(tmp_path: Path, broken: str) -> None:
    token = tmp_path / "token"
    if broken != "absent":
        token.write_text({"empty": "\n", "unencrypted": "secret", "garbled": "two words"}[broken])
    async with open_peer() as peer:
        url = "http://api.invalid:1" if broken == "unencrypted" else peer.url
        async with watched(ApiAccess(url, None, token)) as seen:
            view = await seen.unsynced(str(token))
            assert peer.requests == []
            assert "secret" not in view.trouble


async def test_a_missing_ca_file_is_named(tmp_path: Path) -> None:
    async with watched(ApiAccess("https://127.0.0.1:1", tmp_path / "none.crt")) as seen:
        await seen.unsynced("none.crt", "CA cannot be read")


@pytest.mark.parametrize("url", ["api.example:443", "ftp://api.example", "http://[fd00::1", "http://127.0.0.1:99999", ""])
async def test_an_address_that_cannot_work_is_named_and_brings_nobody_down(url: str) -> None:
    async with watched(ApiAccess(url)) as seen:
        await seen.unsynced(f"at {url}:")


async def test_leaving_and_opening_again_starts_from_the_last_known_truth() -> None:
    async with open_peer() as peer:
        peer.put(pod_object("a"))
        cluster = ApiCluster(ApiAccess(peer.url), "node-1", pace=QUICK)
        async with cluster.pods() as views:
            await Watched(cluster, views).synced("a")
        await until(lambda: peer.watching == 0)
        async with cluster.pods() as views:
            first = await anext(views)
            assert (first.synced, list(first.pods)) == (False, ["uid-of-a"])
            await Watched(cluster, views).synced("a")
            assert len(peer.of(watch=False)) == 1
