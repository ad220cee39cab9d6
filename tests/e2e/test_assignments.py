"""Our pod-resources client against the real server in kubelet's code, current and old: the ids are kubelet's own."""

from collections.abc import Iterator

import pytest
import trio

from mortalgpu.errors import KubeletError
from mortalgpu.kubelet.podresources import PodResources
from mortalgpu.model.pod import Assignment
from tests.e2e.device_manager import DeviceManager
from tests.e2e.plugin import Plugin
from tests.e2e.pods import pod_asking

pytestmark = pytest.mark.e2e
OURS, THEIRS = "example.test/ours", "example.test/theirs"


@pytest.fixture
def plugins(device_manager: DeviceManager) -> Iterator[None]:
    ours = [f"GPU-8b4d1b4e-0c4e-4b19-a0a5-4f6a3d4a7b11::{n}" for n in range(2000)]
    with (
        Plugin(device_manager.socket_dir, "ours", OURS, ours) as first,
        Plugin(device_manager.socket_dir, "theirs", THEIRS, ["x", "y"]) as second,
    ):
        first.register()
        second.register()
        device_manager.wait_allocatable({OURS: 2000, THEIRS: 2}, 5)
        yield


async def test_assignments_are_what_kubelet_granted_of_our_resources(device_manager: DeviceManager, plugins: None) -> None:
    one = device_manager.admit(pod_asking("one", main={OURS: 1500, THEIRS: 1}, side={OURS: 3}))
    device_manager.admit(pod_asking("other", main={THEIRS: 1}))
    found = await PodResources(device_manager.pod_resources_socket, [OURS]).assignments()
    granted = {holding.container: frozenset(holding.ids[OURS]) for holding in one.holdings}
    assert {each.container_name: frozenset(each.meta_devices[OURS]) for each in found} == granted
    assert {(each.pod_namespace, each.pod_name) for each in found} == {("default", "one")}
    assert all(set(each.meta_devices) == {OURS} for each in found)


async def test_a_deleted_pod_holds_nothing(device_manager: DeviceManager, plugins: None) -> None:
    pod = pod_asking("one", main={OURS: 2})
    device_manager.admit(pod)
    resources = PodResources(device_manager.pod_resources_socket, [OURS])
    assert len(await resources.assignments()) == 1
    device_manager.delete(pod)
    assert await resources.assignments() == ()


async def test_kubelets_limit_on_questions_is_an_error_and_passes(device_manager: DeviceManager, plugins: None) -> None:
    device_manager.admit(pod_asking("one", main={OURS: 2}))
    resources = PodResources(device_manager.pod_resources_socket, [OURS])
    answers: list[tuple[Assignment, ...]] = []
    refusals: list[str] = []

    async def ask() -> None:
        try:
            answers.append(await resources.assignments())
        except KubeletError as refused:
            refusals.append(str(refused))

    async with trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(ask)
    assert all("rejected by rate limit" in text for text in refusals)
    assert refusals
    assert set(map(len, answers)) == {1}
    with trio.fail_after(5):
        while True:
            try:
                assert len(await resources.assignments()) == 1
                break
            except KubeletError:
                await trio.sleep(0.05)


async def test_a_restart_of_kubelet_between_two_questions_makes_no_difference(
    device_manager: DeviceManager, plugins: None
) -> None:
    device_manager.admit(pod_asking("one", main={OURS: 2}))
    resources = PodResources(device_manager.pod_resources_socket, [OURS])
    before = await resources.assignments()
    device_manager.stop()
    with pytest.raises(KubeletError, match="does not answer"):
        await resources.assignments()
    device_manager.start()
    (after,) = await resources.assignments()
    assert frozenset(after.meta_devices[OURS]) == frozenset(before[0].meta_devices[OURS])
