"""A tenant annotates its pods as it likes: from the API's JSON through pods view, ledger, scanner and enforcer."""

from collections.abc import Mapping

import msgspec
import pytest

from mortalgpu.cluster.base import PodsView
from mortalgpu.cluster.podwire import PodObject
from mortalgpu.cluster.watch import PodTable
from mortalgpu.model.pod import Container, ContainerRef
from tests.campaign import Tally
from tests.standin.apiserver.objects import JsonObject, container_status, pod_object
from tests.unit.scan.making import holds, ids
from tests.unit.scan.node import Node, enforcing, looks

pytestmark = pytest.mark.hostile

HASH, MIRROR, SOURCE = (f"kubernetes.io/config.{key}" for key in ("hash", "mirror", "source"))
VICTIM = ContainerRef("11111111-1111-4111-8111-111111111111", "a" * 64)
TENANT = ContainerRef("22222222-2222-4222-8222-222222222222", "b" * 64)
STATIC = ContainerRef("d41d8cd98f00b204e9800998ecf8427e", "c" * 64)

FORGERIES: Mapping[str, dict[str, str]] = {
    "a hash of nothing": {HASH: "f" * 32},
    "the victim's UID as hash": {HASH: VICTIM.pod_uid},
    "the victim's UID, as if from a file": {HASH: VICTIM.pod_uid, SOURCE: "file"},
    "the static pod's hash": {HASH: STATIC.pod_uid, SOURCE: "file"},
    "no hash but a word": {HASH: "static"},
    "an empty hash": {HASH: ""},
}
"""What a tenant can write on a pod that runs."""


def running(name: str, ref: ContainerRef, annotations: dict[str, str] | None = None, *, api_uid: str = "") -> JsonObject:
    """A pod of the API with one running container."""
    uid = api_uid or ref.pod_uid
    inside = [container_status("main", ref.container_id)]
    return pod_object(name, uid=uid, namespace="ns", annotations=annotations, containers=inside)


def view(*pods: JsonObject) -> PodsView:
    """What the daemon makes of the API's pods."""
    table = PodTable()
    table.replace(msgspec.convert(pods, tuple[PodObject, ...]), "1")
    return PodsView(table.pods(), synced=True, as_of=1.0, source="kubernetes")


def orders(pods: tuple[JsonObject, ...]) -> tuple[tuple[JsonObject, ...], ...]:
    """The API lists pods in any order."""
    return pods, pods[::-1]


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES)
async def test_who_calls_itself_another_is_held_and_the_other_lives(
    autojump_clock: object, tally: Tally, forgery: dict[str, str]
) -> None:
    for pods in orders((running("victim", VICTIM), running("tenant", TENANT, forgery), mirror_of_static())):
        node = Node()
        node.kubelet.books = (
            holds("victim", *ids("GPU-a", 0, 1)),
            holds("tenant", *ids("GPU-a", 2, 3)),
            holds("static", *ids("GPU-a", 4, 5)),
        )
        node.pods.publish(view(*pods))
        victim, tenant, static = (node.run(ref, 150) for ref in (VICTIM, TENANT, STATIC))
        async with enforcing(node):
            await looks(20)
            assert [found.pod_name for found in node.usage.value.containers] == ["static", "tenant", "victim"]
            node.hold(tenant.pid, 250)
            await looks(10)
        assert node.killed == [tenant.pid]
        assert node.host.running(victim.pid)
        assert node.host.running(static.pid)
        tally.add("attacks")


@pytest.mark.parametrize("claimed", [VICTIM.pod_uid, STATIC.pod_uid, "f" * 32])
def test_a_pod_that_pretends_to_mirror_a_static_one_takes_nobodys_place(tally: Tally, claimed: str) -> None:
    """kubelet runs no pod with the mirror's annotation, so that such a one never has containers."""
    pretender = pod_object("tenant", uid=TENANT.pod_uid, annotations={HASH: claimed, MIRROR: claimed, SOURCE: "file"})
    for pods in orders((running("victim", VICTIM), pretender, mirror_of_static())):
        found = view(*pods)
        assert found.pods[VICTIM.pod_uid].name == "victim"
        assert found.pods[STATIC.pod_uid].name == "static"
        assert found.container_of(STATIC) == Container("main", STATIC.container_id)
        tally.add("attacks")


def mirror_of_static() -> JsonObject:
    """The mirror that kubelet makes of a static pod."""
    annotations = {HASH: STATIC.pod_uid, MIRROR: STATIC.pod_uid, SOURCE: "file"}
    return running("static", STATIC, annotations, api_uid="33333333-3333-4333-8333-333333333333")
