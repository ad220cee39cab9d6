"""The whole node daemon as a process, on the driver stand-in, beside a twin kubelet: what pods get and what befalls it."""

import signal
from collections.abc import Iterator

import pytest
import trio

from mortalgpu.simulation.driver import A100_UUID, partition_uuid, v100_uuid
from mortalgpu.simulation.kubelet import AdmissionRefused, SimulatedKubelet, running
from tests.scenario.machine import SHARED, TEN, TWENTY, WORKED_EXAMPLE, Daemon, Machine, daemon, machine

ALL = {SHARED: (800, 800), TWENTY: (200, 200), TEN: (200, 200)}


@pytest.fixture
def node() -> Iterator[Machine]:
    with machine() as made:
        yield made


async def until(kubelet: SimulatedKubelet, ours: Daemon, expected: dict[str, tuple[int, int]], seconds: float = 5) -> float:
    """Wait for capacity and allocatable of these resources; return the seconds it took."""
    begun = trio.current_time()
    await ours.until(
        lambda: all(kubelet.capacity(name) == figures for name, figures in expected.items()), str(expected), seconds
    )
    return trio.current_time() - begun


async def test_forty_shares_are_one_device_and_the_worked_examples_limit(node: Machine) -> None:
    async with running(SimulatedKubelet(node.kubelet_root)) as kubelet, daemon(node) as ours:
        await until(kubelet, ours, ALL)
        (shared,) = await kubelet.admit("one", {"main": {SHARED: 40}})
        assert shared.edits.envs["METAGPU_MAX_MEM"] in ("3276", "4019")
        (twenty, ten) = await kubelet.admit("two", {"a": {TWENTY: 100}, "b": {TEN: 50}})
        assert twenty.edits.envs["NVIDIA_VISIBLE_DEVICES"] == partition_uuid(3)
        assert ten.edits.envs["METAGPU_MAX_MEM"] == "4864"
        with pytest.raises(AdmissionRefused, match="noSplit"):
            await kubelet.admit("three", {"main": {SHARED: 401}})
        await ours.stop()


async def test_a_lost_gpu_is_unhealthy_within_a_second_and_back_when_it_returns(node: Machine) -> None:
    async with running(SimulatedKubelet(node.kubelet_root)) as kubelet, daemon(node) as ours:
        await until(kubelet, ours, ALL)
        node.driver.lose(A100_UUID)
        assert await until(kubelet, ours, {SHARED: (800, 400), TWENTY: (200, 0), TEN: (200, 0)}) < 1
        node.driver.restore(A100_UUID)
        assert await until(kubelet, ours, ALL) < 3
        await ours.stop()


async def test_a_driver_that_leaves_and_returns_does_not_end_the_daemon(node: Machine) -> None:
    async with running(SimulatedKubelet(node.kubelet_root)) as kubelet, daemon(node) as ours:
        await until(kubelet, ours, ALL)
        node.driver.unload_driver()
        await until(kubelet, ours, {SHARED: (800, 0), TWENTY: (200, 0), TEN: (200, 0)})
        node.driver.reload_driver()
        await until(kubelet, ours, ALL, 15)
        await ours.stop()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
async def test_a_restarted_daemon_hurts_no_pod_and_has_its_count_back(node: Machine, end: signal.Signals) -> None:
    async with running(SimulatedKubelet(node.kubelet_root)) as kubelet:
        async with daemon(node) as first:
            await until(kubelet, first, ALL)
            (before,) = await kubelet.admit("one", {"main": {SHARED: 40}})
            first.signal(end)
            await first.ended()
        async with daemon(node, number=2) as second:
            await until(kubelet, second, ALL)
            (after,) = await kubelet.admit("two", {"main": {SHARED: 40}})
            assert not set(before.meta_devices) & set(after.meta_devices)
            assert kubelet.overlaps == []
            await second.stop()


async def test_a_changed_count_waits_for_the_pods_and_then_takes_over(node: Machine) -> None:
    async with running(SimulatedKubelet(node.kubelet_root)) as kubelet:
        async with daemon(node) as first:
            await until(kubelet, first, ALL)
            (held,) = await kubelet.admit("one", {"main": {TWENTY: 100}})
            assert held.edits.envs["MORTALGPU_SHARES"] == f"{partition_uuid(3)}=100/200"
            await first.stop()
        node.configure(WORKED_EXAMPLE.replace("metagpusPerGpu: 200", "metagpusPerGpu: 50"))
        async with daemon(node, number=2) as second:
            await until(kubelet, second, ALL)
            (kept,) = await second.logged("share layout kept while containers hold shares of it")
            assert (kept["device"], kept["shares"], kept["shares_configured"], kept["held"]) == (
                partition_uuid(3),
                200,
                50,
                100,
            )
            (again,) = await kubelet.admit("two", {"main": {TWENTY: 100}})
            assert not set(held.meta_devices) & set(again.meta_devices)
            kubelet.delete("one")
            kubelet.delete("two")
            await until(kubelet, second, {TWENTY: (50, 50), SHARED: (800, 800)}, 25)
            await second.stop()


async def test_a_hanging_gpu_is_sick_alone(node: Machine) -> None:
    node.configure(f"driver: {{callTimeoutSeconds: 0.3}}\n{WORKED_EXAMPLE}")
    async with running(SimulatedKubelet(node.kubelet_root)) as kubelet, daemon(node) as ours:
        await until(kubelet, ours, ALL)
        node.driver.add_fault("nvmlDeviceGetMemoryInfo_v2", v100_uuid(0), hang=0)
        await until(kubelet, ours, {SHARED: (800, 400), TWENTY: (200, 200), TEN: (200, 200)}, 15)
        node.driver.clear_faults()
        await until(kubelet, ours, ALL, 15)
        await ours.stop()
