"""Notes as Events: what is posted, what is folded, and that a deaf server costs nothing but the news."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from mortalgpu.cluster.access import ApiAccess
from mortalgpu.cluster.api import ApiCluster
from mortalgpu.cluster.session import ApiPace
from mortalgpu.cluster.throttle import Throttle
from mortalgpu.model.pod import Pod, PodNote
from tests.standin.apiserver import peer as say
from tests.standin.apiserver.peer import Answer, ApiPeer, Request, open_peer

POD = Pod("f" * 32, "notebook", "team-a", api_uid="uid-of-mirror")
NOTE = PodNote("OverMemoryLimit", "killed python3 (pid 42): 5 GiB used, 4 GiB granted")
QUICK = ApiPace(request_seconds=0.3, first_retry_seconds=0.02)


@asynccontextmanager
async def posting(*answers: Answer) -> AsyncIterator[tuple[ApiPeer, ApiCluster]]:
    """Give a peer that answers POSTs by the script, and lists and watches truly."""
    script = list(answers)
    async with open_peer() as peer:
        truth = peer._answer

        async def scripted(stream: trio.abc.Stream, request: Request) -> None:
            await (script.pop(0)(stream, request) if request.method == "POST" and script else truth(stream, request))

        peer._answer = scripted  # type: ignore[method-assign]
        cluster = ApiCluster(ApiAccess(peer.url), "node-1", pace=QUICK, now=lambda: 1_700_000_000.0, random=lambda: 0.0)
        async with cluster.pods():
            yield peer, cluster


def posts(peer: ApiPeer) -> list[Request]:
    return [each for each in peer.requests if each.method == "POST"]


async def counted(cluster: ApiCluster, *, sent: int = 0, failed: int = 0) -> None:
    with trio.fail_after(5):
        while (cluster.counts().notes_sent, cluster.counts().notes_failed) != (sent, failed):
            await trio.sleep(0.01)


async def test_a_note_on_a_pod_is_an_event_in_its_namespace_on_the_uid_the_api_knows() -> None:
    async with posting() as (peer, cluster):
        cluster.note(POD, NOTE)
        await counted(cluster, sent=1)
        [event] = peer.events
        assert posts(peer)[0].path == "/api/v1/namespaces/team-a/events"
        involved = {"kind": "Pod", "apiVersion": "v1", "namespace": "team-a", "name": "notebook", "uid": "uid-of-mirror"}
        assert event["involvedObject"] == involved
        assert (event["reason"], event["message"], event["type"], event["count"]) == (NOTE.reason, NOTE.message, "Warning", 1)
        assert (event["reportingComponent"], event["reportingInstance"]) == ("mortalgpu", "node-1")
        assert event["source"] == {"component": "mortalgpu", "host": "node-1"}
        assert event["firstTimestamp"] == "2023-11-14T22:13:20Z"
        assert event["metadata"]["namespace"] == "team-a"
        assert event["metadata"]["name"].startswith("notebook.")


async def test_a_note_on_the_node_is_found_where_kubectl_describe_node_looks() -> None:
    async with posting() as (peer, cluster):
        cluster.node_note(PodNote("LayoutHeld", "kept the old layout", warning=False))
        await counted(cluster, sent=1)
        [event] = peer.events
        assert posts(peer)[0].path == "/api/v1/namespaces/default/events"
        assert event["involvedObject"] == {"kind": "Node", "apiVersion": "v1", "name": "node-1", "uid": "node-1"}
        assert event["type"] == "Normal"


@pytest.mark.parametrize(
    "trouble",
    [
        say.refuse(500, "boom"),
        say.refuse(429, "wait"),
        say.refuse(401, "who?"),
        say.refuse(403, "roles not read yet"),
        say.slam,
        say.hang,
    ],
)
async def test_a_note_is_tried_again_under_the_same_name(trouble: Answer) -> None:
    async with posting(trouble) as (peer, cluster):
        cluster.note(POD, NOTE)
        await counted(cluster, sent=1)
        first, second = posts(peer)
        assert first.body == second.body


async def test_a_note_that_had_arrived_after_all_is_not_sent_twice() -> None:
    async with posting(say.slam, say.refuse(409, "exists", reason="AlreadyExists")) as (peer, cluster):
        cluster.note(POD, NOTE)
        await counted(cluster, sent=1)
        assert peer.events == []


@pytest.mark.parametrize(
    "answers", [[say.refuse(403, "events is forbidden")] * 5, [say.refuse(404, "no namespace")], [say.refuse(500, "x")] * 5]
)
async def test_a_note_that_is_refused_is_given_up_and_the_next_one_is_sent(answers: list[Answer]) -> None:
    async with posting(*answers) as (peer, cluster):
        cluster.note(POD, NOTE)
        cluster.note(replace(POD, uid="other", name="other"), NOTE)
        await counted(cluster, sent=1, failed=1)
        assert [event["involvedObject"]["name"] for event in peer.events] == ["other"]


async def test_notes_made_while_nobody_delivers_wait_and_too_many_are_dropped_and_counted() -> None:
    async with open_peer() as peer:
        cluster = ApiCluster(ApiAccess(peer.url), "node-1", pace=QUICK)
        for number in range(300):
            cluster.note(replace(POD, uid=f"uid-{number}"), NOTE)
        assert cluster.counts().notes_dropped == 300 - 256
        async with cluster.pods():
            await counted(cluster, sent=256)


async def test_the_same_note_again_and_again_is_one_event() -> None:
    async with posting() as (peer, cluster):
        for _ in range(50):
            cluster.note(POD, NOTE)
        await counted(cluster, sent=1)
        assert cluster.counts().notes_dropped == 49
        assert len(peer.events) == 1


async def test_an_endless_message_and_a_long_name_are_cut_to_what_the_api_takes() -> None:
    async with posting() as (peer, cluster):
        cluster.note(replace(POD, name="n" * 253), PodNote("R", "x" * 5000))
        await counted(cluster, sent=1)
        assert len(peer.events[0]["message"]) <= 1024
        assert len(peer.events[0]["metadata"]["name"]) <= 253


def test_folded_notes_are_told_with_the_next_event_that_passes() -> None:
    throttle = Throttle(burst=2, refill_seconds=10, fold_seconds=60)
    assert [throttle.admit("pod", "R", "same", now) for now in (0, 1, 2)] == [1, None, None]
    assert throttle.admit("pod", "R", "other", 3) == 3


def test_an_empty_purse_refills_with_time() -> None:
    throttle = Throttle(burst=2, refill_seconds=10)
    assert [throttle.admit("pod", "R", f"text {now}", now) for now in (0, 1, 2, 3)] == [1, 1, None, None]
    assert throttle.admit("pod", "R", "text 12", 12) == 3


def test_one_noisy_pod_does_not_silence_another_or_another_reason() -> None:
    throttle = Throttle(burst=1)
    assert throttle.admit("a", "R", "x", 0) == 1
    assert throttle.admit("a", "R", "y", 0) is None
    assert throttle.admit("b", "R", "x", 0) == 1
    assert throttle.admit("a", "S", "x", 0) == 1


def test_of_pods_that_came_and_went_nothing_is_kept() -> None:
    throttle = Throttle(burst=5, refill_seconds=10, fold_seconds=60)
    for now in range(3600):
        assert throttle.admit(f"pod {now}", "R", "told once", now) == 1
        assert len(throttle) <= 60


def test_what_is_not_told_yet_is_kept_until_it_is() -> None:
    throttle = Throttle(burst=1, refill_seconds=10, fold_seconds=60)
    assert [throttle.admit("pod", "R", text, 0) for text in ("x", "y")] == [1, None]
    assert throttle.admit("other", "R", "x", 1000) == 1
    assert throttle.admit("pod", "R", "z", 1001) == 2


def test_to_be_dropped_changes_no_answer() -> None:
    dice = random.Random(3)
    dropping, keeping = Throttle(), Throttle()
    keeping._full_seconds = float("inf")
    now = 0.0
    for _ in range(5000):
        now += dice.choice([0.1, 3.0, 20.0, 100.0])
        asked = (f"pod {dice.randrange(4)}", "R", f"text {dice.randrange(2)}", now)
        assert dropping.admit(*asked) == keeping.admit(*asked)
    assert len(dropping) < len(keeping)


def test_ten_thousand_pods_leave_a_bounded_memory_of_what_was_told() -> None:
    throttle = Throttle(keys=100)
    for number in range(10_000):
        assert throttle.admit(f"pod-{number}", "R", "x", number / 1000) == 1
    assert len(throttle) == 100
