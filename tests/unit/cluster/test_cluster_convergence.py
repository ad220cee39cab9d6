"""Whatever happens to the watch, what the adapter believes in the end is what is true."""

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mortalgpu.cluster.access import ApiAccess
from mortalgpu.cluster.api import ApiCluster
from mortalgpu.cluster.session import ApiPace
from tests.standin.apiserver import peer as say
from tests.standin.apiserver.objects import pod_object
from tests.standin.apiserver.peer import ApiPeer, open_peer

PACE = ApiPace(request_seconds=2, first_retry_seconds=0.001, last_retry_seconds=0.01, page_pods=2)
NAMES = ("a", "b", "c", "d", "e")

steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(NAMES)),
        st.tuples(st.just("delete"), st.sampled_from(NAMES)),
        st.tuples(
            st.sampled_from(["cut", "compact", "bookmark", "error", "garbage", "refuse", "stranger", "breathe"]), st.just("")
        ),
    ),
    max_size=25,
)


async def do(peer: ApiPeer, step: str, name: str) -> None:
    if step == "put":
        peer.put(pod_object(name))
    elif step == "delete" and f"uid-of-{name}" in peer.pods:
        peer.delete(f"uid-of-{name}")
    elif step == "stranger":
        peer.put(pod_object("stranger", node="node-2"))
    elif step == "error":
        peer.say("ERROR", {"kind": "Status", "code": 500, "message": "unwell"})
    elif step == "garbage":
        peer.say("INVENTED", pod_object("ghost"))
    elif step == "refuse":
        peer.next(say.refuse(503, "not now"))
    elif step == "breathe":
        await trio.sleep(0.005)
    elif step in ("cut", "compact", "bookmark"):
        getattr(peer, step)()
    await trio.lowlevel.checkpoint()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=steps)
def test_after_any_history_of_changes_and_faults_the_view_is_the_truth(history: list[tuple[str, str]]) -> None:
    async def live() -> None:
        async with open_peer() as peer:
            cluster = ApiCluster(ApiAccess(peer.url), "node-1", pace=PACE, random=lambda: 0.5)
            async with cluster.pods() as views:
                for step, name in history:
                    await do(peer, step, name)
                peer.put(pod_object("last"))
                truth = {uid for uid, pod in peer.pods.items() if pod["spec"]["nodeName"] == "node-1"}
                with trio.fail_after(10):
                    async for view in views:
                        if view.synced and set(view.pods) == truth:
                            break
                await trio.sleep(0.02)
                settled = cluster._view.value
                assert (set(settled.pods), settled.synced) == (truth, True)

    trio.run(live)
