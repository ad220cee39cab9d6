"""What our plugins rely on in kubelet: the twin, and the device managers of real kubelets, are held to it alike."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from mortalgpu.simulation.kubelet import AdmissionRefused
from tests.contract.kubelet_rigs import Kubelet, OpenKubelet, real, twin
from tests.e2e import build
from tests.folders import short_folder
from tests.needs import skipped_where_missing
from tests.unit.deviceplugin.rig import FIRST, Node, R, ids, shared

REAL = {"current": build.DEVICE_MANAGER, "1.30": build.OLD_DEVICE_MANAGER}


@pytest.fixture(params=["twin", *(pytest.param(name, marks=pytest.mark.e2e) for name in REAL)])
def open_kubelet(request: pytest.FixtureRequest) -> OpenKubelet:
    if request.param == "twin":
        return twin
    with skipped_where_missing():
        build.locate(REAL[request.param])
    return real(REAL[request.param].path)


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as made:
        yield made


@asynccontextmanager
async def registered(open_kubelet: OpenKubelet, folder: Path) -> AsyncIterator[tuple[Kubelet, Node]]:
    """Run a kubelet with a plugin of 2 devices with 4 shares each."""
    node = Node(folder)
    async with open_kubelet(folder) as kubelet, trio.open_nursery() as nursery:
        await nursery.start(node.plugin().serve)
        await until_capacity(kubelet, (8, 8))
        yield kubelet, node
        nursery.cancel_scope.cancel()


async def until_capacity(kubelet: Kubelet, expected: tuple[int, int], seconds: float = 5) -> float:
    """Wait for capacity and allocatable; return the seconds it took."""
    begun = trio.current_time()
    with trio.fail_after(seconds):
        while await kubelet.capacity(R) != expected:
            await trio.sleep(0.01)
    return trio.current_time() - begun


async def test_a_list_becomes_capacity_and_every_change_is_followed(open_kubelet: OpenKubelet, folder: Path) -> None:
    async with registered(open_kubelet, folder) as (kubelet, node):
        node.sicken(FIRST)
        await until_capacity(kubelet, (8, 4), 1)
        node.share(shared(0), shared(1), shared(2))
        await until_capacity(kubelet, (12, 8), 1)
        node.sicken()
        await until_capacity(kubelet, (12, 12), 1)
        node.share()
        await until_capacity(kubelet, (0, 0), 1)


async def test_a_pod_gets_what_it_asked_for_as_we_preferred_and_with_our_environment(
    open_kubelet: OpenKubelet, folder: Path
) -> None:
    async with registered(open_kubelet, folder) as (kubelet, _):
        ((held, env),) = await kubelet.admit("one", {"main": {R: 3}})
        assert sorted(held) == ids(0, 0, 1, 2)
        assert env["MORTALGPU_MEMORY_LIMIT_MIB"] == f"{FIRST}=24576"


async def test_nothing_is_given_out_twice_and_what_is_deleted_comes_free(open_kubelet: OpenKubelet, folder: Path) -> None:
    async with registered(open_kubelet, folder) as (kubelet, _):
        for number in range(4):
            await kubelet.admit(f"pod-{number}", {"main": {R: 2}})
        owners = await kubelet.held()
        assert len(owners) == 8
        assert all(len(pods) == 1 for pods in owners.values())
        with pytest.raises(AdmissionRefused, match=re.escape(f"unavailable for {R}. Requested: 1, Available: 0")):
            await kubelet.admit("late", {"main": {R: 1}})
        await kubelet.delete("pod-1")
        ((held, _),) = await kubelet.admit("later", {"main": {R: 2}})
        assert len(held) == 2


async def test_our_refusal_is_the_pods_reason(open_kubelet: OpenKubelet, folder: Path) -> None:
    async with registered(open_kubelet, folder) as (kubelet, node):
        expected = "code = FailedPrecondition desc = mortalgpu/a: 5 shares"
        with pytest.raises(AdmissionRefused, match=f"{expected}.*which is unexpected"):
            await kubelet.admit("split", {"main": {R: 5}})
        assert await kubelet.held() == {}
        await kubelet.admit("fits", {"main": {R: 4}})
        assert node.counts[R].refusals == {"would_split": 1}


async def test_a_plugin_that_ends_leaves_its_capacity_and_nothing_to_allocate(open_kubelet: OpenKubelet, folder: Path) -> None:
    node = Node(folder)
    async with open_kubelet(folder) as kubelet:
        async with trio.open_nursery() as nursery:
            await nursery.start(node.plugin().serve)
            await until_capacity(kubelet, (8, 8))
            nursery.cancel_scope.cancel()
        await until_capacity(kubelet, (8, 0))
        with pytest.raises(AdmissionRefused, match="no healthy devices present"):
            await kubelet.admit("late", {"main": {R: 1}})
        async with trio.open_nursery() as nursery:
            await nursery.start(node.plugin().serve)
            await until_capacity(kubelet, (8, 8))
            nursery.cancel_scope.cancel()


async def test_a_restarted_kubelet_sweeps_its_directory_remembers_its_pods_and_has_us_back_within_a_second(
    open_kubelet: OpenKubelet, folder: Path
) -> None:
    async with registered(open_kubelet, folder) as (kubelet, node):
        await kubelet.admit("one", {"main": {R: 3}})
        before = await kubelet.held()
        for _ in range(3):
            (old,) = node.ours()
            await kubelet.restart()
            assert await until_capacity(kubelet, (8, 8)) < 1
            assert old not in node.ours()
            assert await kubelet.held() == before
        ((held, _),) = await kubelet.admit("two", {"main": {R: 4}})
        assert not set(held) & set(before)
        assert kubelet.overlaps() == 0


async def test_a_socket_that_vanishes_brings_a_registration_that_overlaps_no_other(
    open_kubelet: OpenKubelet, folder: Path
) -> None:
    async with registered(open_kubelet, folder) as (kubelet, node):
        for _ in range(3):
            (name,) = node.ours()
            (node.sockets / name).unlink()
            with trio.fail_after(5):
                while not node.ours() - {name}:
                    await trio.sleep(0.01)
            await until_capacity(kubelet, (8, 8))
            await trio.sleep(0.1)
            assert await kubelet.capacity(R) == (8, 8)
        assert kubelet.overlaps() == 0
        assert node.counts[R].registrations == 4


async def test_a_sick_device_takes_no_new_pod_and_hurts_no_old_one(open_kubelet: OpenKubelet, folder: Path) -> None:
    async with registered(open_kubelet, folder) as (kubelet, node):
        await kubelet.admit("old", {"main": {R: 2}})
        node.sicken(FIRST)
        await until_capacity(kubelet, (8, 4), 1)
        ((held, _),) = await kubelet.admit("new", {"main": {R: 4}})
        assert sorted(held) == ids(1, 0, 1, 2, 3)
        assert len(await kubelet.held()) == 6
