"""kubelet's assignments over its pod-resources socket, against a gRPC peer that also fails."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from mortalgpu.errors import KubeletError
from mortalgpu.kubelet.podresources import MAX_ANSWER_BYTES, PodResources
from mortalgpu.model.pod import Assignment
from mortalgpu.rpc.listener import UnixListener
from mortalgpu.rpc.pb.podresources.v1 import podresources_pb2 as wire
from mortalgpu.rpc.server import Server
from mortalgpu.rpc.service import Call, Service, unary
from mortalgpu.rpc.status import Code, Refusal

OURS, THEIRS = "mortalgpu/v100", "nvidia.com/gpu"


class KubeletPeer:
    """Answers List with `listed`, or with `refusal`."""

    def __init__(self, *pods: wire.PodResources) -> None:
        self.listed = wire.ListPodResourcesResponse(pod_resources=pods)
        self.refusal: Refusal | None = None
        self.asleep = False

    async def list(self, request: wire.ListPodResourcesRequest, call: Call) -> wire.ListPodResourcesResponse:
        if self.asleep:
            await trio.sleep_forever()
        if self.refusal is not None:
            raise self.refusal
        return self.listed


@asynccontextmanager
async def serving(socket: Path, peer: KubeletPeer, version: str = "v1") -> AsyncIterator[None]:
    service = Service(f"{version}.PodResourcesLister", {"List": unary(wire.ListPodResourcesRequest, peer.list)})
    async with trio.open_nursery() as nursery:
        await nursery.start(Server([service]).serve, [await UnixListener.bind(socket)])
        yield
        nursery.cancel_scope.cancel()


def held(resource: str, *ids: str) -> wire.ContainerDevices:
    return wire.ContainerDevices(resource_name=resource, device_ids=ids)


def pod(name: str, **containers: list[wire.ContainerDevices]) -> wire.PodResources:
    inside = [wire.ContainerResources(name=each, devices=devices) for each, devices in containers.items()]
    return wire.PodResources(name=name, namespace="team-a", containers=inside)


async def ask(socket: Path, *pods: wire.PodResources) -> tuple[Assignment, ...]:
    async with serving(socket, KubeletPeer(*pods)):
        return await PodResources(socket, [OURS, "mortalgpu/a100"]).assignments()


async def test_one_entry_a_device_and_one_entry_for_all_mean_the_same(tmp_path: Path) -> None:
    new = pod("p", main=[held(OURS, "g::0"), held(OURS, "g::1"), held(OURS, "g::2")])
    old = pod("p", main=[held(OURS, "g::0", "g::1", "g::2")])
    expected = (Assignment("p", "team-a", "main", {OURS: ("g::0", "g::1", "g::2")}),)
    assert await ask(tmp_path / "new.sock", new) == expected
    assert await ask(tmp_path / "old.sock", old) == expected


async def test_an_id_listed_once_for_each_numa_node_is_held_once(tmp_path: Path) -> None:
    twice = pod("p", main=[held(OURS, "g::0"), held(OURS, "g::0"), held(OURS, "g::1")])
    assert (await ask(tmp_path / "k.sock", twice))[0].meta_devices == {OURS: ("g::0", "g::1")}


async def test_other_resources_and_containers_that_hold_nothing_of_ours_are_left_out(tmp_path: Path) -> None:
    mixed = pod("p", main=[held(THEIRS, "GPU-1"), held(OURS, "g::0")], side=[held(THEIRS, "GPU-2")], empty=[held(OURS)])
    assert await ask(tmp_path / "k.sock", mixed, pod("bare")) == (Assignment("p", "team-a", "main", {OURS: ("g::0",)}),)


async def test_a_sibling_without_any_device_is_known_to_hold_nothing(tmp_path: Path) -> None:
    found = await ask(tmp_path / "p.sock", pod("p", main=[held(OURS, "g::0")], helper=[], other=[held(THEIRS, "gpu-1")]))
    assert found == (Assignment("p", "team-a", "helper", {}), Assignment("p", "team-a", "main", {OURS: ("g::0",)}))


async def test_the_order_in_which_kubelet_lists_makes_no_difference(tmp_path: Path) -> None:
    one = (
        pod("p", main=[held(OURS, "g::0"), held(OURS, "g::1")], side=[held(OURS, "h::0")]),
        pod("q", main=[held(OURS, "g::2")]),
    )
    other = (pod("q", main=[held(OURS, "g::2")]), pod("p", side=[held(OURS, "h::0")], main=[held(OURS, "g::1", "g::0")]))
    assert await ask(tmp_path / "one.sock", *one) == await ask(tmp_path / "other.sock", *other)


async def test_a_pod_that_holds_nothing_of_ours_is_left_out_with_all_its_containers(tmp_path: Path) -> None:
    assert await ask(tmp_path / "p.sock", pod("p", main=[], gpu=[held(THEIRS, "gpu-1")])) == ()


async def test_two_resources_of_one_container_stay_apart(tmp_path: Path) -> None:
    both = pod("p", main=[held(OURS, "g::0"), held("mortalgpu/a100", "h::0")])
    assert (await ask(tmp_path / "k.sock", both))[0].meta_devices == {OURS: ("g::0",), "mortalgpu/a100": ("h::0",)}


async def test_a_name_that_a_pod_has_twice_is_told_twice(tmp_path: Path) -> None:
    """What they hold differs: whoever decides must see that, and not the last of them for both."""
    twice = pod("p", main=[held(OURS, "g::0", "g::1")])
    twice.containers.append(wire.ContainerResources(name="main", devices=[held(OURS, "g::2")]))
    found = await ask(tmp_path / "k.sock", twice)
    assert [each.meta_devices for each in found] == [{OURS: ("g::0", "g::1")}, {OURS: ("g::2",)}]


async def test_an_answer_far_above_four_mebibytes_is_taken(tmp_path: Path) -> None:
    ids = [f"GPU-{number:032d}::{number}" for number in range(5000)]
    many = [pod(f"p{number}", main=[held(OURS, *ids)]) for number in range(50)]
    assert len(wire.ListPodResourcesResponse(pod_resources=many).SerializeToString()) > 10 * 2**20
    assert len(await ask(tmp_path / "k.sock", *many)) == 50


async def test_an_answer_beyond_all_measure_is_an_error_and_not_an_empty_list(tmp_path: Path) -> None:
    giant = pod("p", main=[held(OURS, "x" * (MAX_ANSWER_BYTES + 1))])
    async with serving(tmp_path / "k.sock", KubeletPeer(giant)):
        with pytest.raises(KubeletError, match="RESOURCE_EXHAUSTED"):
            await PodResources(tmp_path / "k.sock", [OURS]).assignments()


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (Refusal(Code.RESOURCE_EXHAUSTED, "rejected by rate limit"), "rejected by rate limit"),
        (Refusal(Code.UNKNOWN, "not ready"), "not ready"),
        (Refusal(Code.UNIMPLEMENTED, "unknown service"), "does not speak v1"),
    ],
)
async def test_a_refusal_is_an_error_and_the_next_question_may_succeed(tmp_path: Path, refusal: Refusal, words: str) -> None:
    peer = KubeletPeer(pod("p", main=[held(OURS, "g::0")]))
    resources = PodResources(tmp_path / "k.sock", [OURS])
    async with serving(tmp_path / "k.sock", peer):
        peer.refusal = refusal
        with pytest.raises(KubeletError, match=words):
            await resources.assignments()
        peer.refusal = None
        assert len(await resources.assignments()) == 1


async def test_a_kubelet_without_v1_is_named_as_such(tmp_path: Path) -> None:
    async with serving(tmp_path / "k.sock", KubeletPeer(), version="v1alpha1"):
        with pytest.raises(KubeletError, match="does not speak v1"):
            await PodResources(tmp_path / "k.sock", [OURS]).assignments()


async def test_a_kubelet_that_hangs_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    peer = KubeletPeer()
    peer.asleep = True
    async with serving(tmp_path / "k.sock", peer):
        began = trio.current_time()
        with pytest.raises(KubeletError, match="DEADLINE_EXCEEDED"):
            await PodResources(tmp_path / "k.sock", [OURS], deadline_seconds=0.1).assignments()
        assert trio.current_time() - began < 2


async def test_a_kubelet_that_is_away_is_an_error_and_one_that_returns_is_asked_anew(tmp_path: Path) -> None:
    resources = PodResources(tmp_path / "k.sock", [OURS])
    for _ in range(2):
        with pytest.raises(KubeletError, match=r"does not answer.*k\.sock"):
            await resources.assignments()
        async with serving(tmp_path / "k.sock", KubeletPeer(pod("p", main=[held(OURS, "g::0")]))):
            assert len(await resources.assignments()) == 1
            assert len(await resources.assignments()) == 1
