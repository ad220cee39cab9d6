"""Enforcement as a whole, in virtual time: the cases of the contract, and neighbours that fall silent in the middle."""

import gc
import logging
import os
import tracemalloc
from collections.abc import Sequence

import pytest
import trio
import trio.testing

from mortalgpu.model.pod import Container
from mortalgpu.model.share import Inventory
from mortalgpu.scan.scanner import ScanSettings
from mortalgpu.simulation.host import Temper
from tests.unit.scan.making import RESOURCE, cid, holds, ids, partition, pod, ref, shared
from tests.unit.scan.node import Node, enforcing, looks, names

SETTLED = 10
"""Looks after which everything that was going to happen has happened."""


async def killed_on(node: Node, enough_looks: float = SETTLED) -> Sequence[int]:
    """Let scanner and enforcer run for a while and return the pids that were signalled."""
    async with enforcing(node):
        await looks(enough_looks)
        return node.killed


async def test_a_process_that_forks_children_holding_memory_is_stopped_with_the_largest_child(
    autojump_clock: trio.testing.MockClock,
) -> None:
    node = Node()
    parent = node.run(node.add_pod(1, 2), 50)
    small, large = node.host.fork(parent.pid), node.host.fork(parent.pid)
    node.hold(small.pid, 60)
    node.hold(large.pid, 100)
    assert await killed_on(node) == [large.pid]


async def test_ten_processes_each_under_the_limit_are_judged_together(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    container = node.add_pod(1, 2)
    processes = [node.run(container, 20 + number % 2) for number in range(10)]
    assert await killed_on(node) == [processes[-1].pid]


async def test_a_process_on_a_device_that_it_was_not_given_is_stopped(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    container = node.add_pod(1, 2)
    own, foreign = node.run(container, 150), node.run(container, 1, "GPU-b")
    assert await killed_on(node) == [foreign.pid]
    assert node.host.running(own.pid)
    assert names(node.cluster.notes) == [("pod-1", "GpuDeviceNotGranted")]


async def test_a_device_that_is_not_shared_may_be_used_by_anybody(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    node.run(node.add_pod(1, 2), 900, "GPU-b")
    node.inventory.publish(Inventory((node.devices["GPU-a"],), left_alone=(node.devices["GPU-b"].device,)))
    assert await killed_on(node) == []


async def test_of_two_containers_in_one_pod_only_the_one_over_its_limit_is_stopped(
    autojump_clock: trio.testing.MockClock,
) -> None:
    node = Node()
    node.show(pod(1, Container("one", cid(1)), Container("two", cid(2))))
    node.kubelet.books = (
        holds("pod-1", *ids("GPU-a", 0, 1), container="one"),
        holds("pod-1", *ids("GPU-a", 2, 3, 4), container="two"),
    )
    one, two = node.run(ref(1, 1), 250), node.run(ref(1, 2), 250)
    assert await killed_on(node) == [one.pid]
    assert node.host.running(two.pid)


async def test_an_init_container_is_never_stopped_on_a_guess(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    node.show(pod(1, Container("init", cid(9))))
    node.kubelet.books = (holds("pod-1", *ids("GPU-a", 0), container="main"),)
    node.run(ref(1, 9), 900)
    node.run(ref(1, 9), 900, "GPU-b")
    assert await killed_on(node, 100) == []


async def test_the_overcommit_annotation_lets_a_container_use_more(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    node.add_pod(1, 2)
    node.show(pod(1, annotations={f"gpu-mem-limit.{RESOURCE}": "5"}))
    process = node.run(ref(1), 499)
    async with enforcing(node):
        await looks(SETTLED)
        assert node.killed == []
        node.hold(process.pid, 501)
        await looks(2)
        assert node.killed == [process.pid]


async def test_an_annotation_over_the_cap_holds_up_to_the_cap(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    node.add_pod(1, 2)
    node.show(pod(1, annotations={f"gpu-mem-limit.{RESOURCE}": "9"}))
    process = node.run(ref(1), 299)
    async with enforcing(node, scan=ScanSettings(max_overcommit=1.5)):
        await looks(SETTLED)
        assert node.killed == []
        node.hold(process.pid, 301)
        await looks(2)
    assert node.killed == [process.pid]
    assert names(node.cluster.notes) == [("pod-1", "GpuMemoryLimitAnnotation"), ("pod-1", "GpuMemoryLimitExceeded")]


async def test_an_unreadable_annotation_leaves_the_request_as_the_limit(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    node.add_pod(1, 2)
    node.show(pod(1, annotations={f"gpu-mem-limit.{RESOURCE}": "a lot"}))
    process = node.run(ref(1), 250)
    assert await killed_on(node) == [process.pid]


async def test_shares_of_different_size_in_one_resource_give_each_device_its_own_limit(
    autojump_clock: trio.testing.MockClock,
) -> None:
    node = Node(shared("GPU-a", mib=32_000, shares=400), shared("GPU-b", mib=40_000, shares=400, index=1))
    small = node.run(node.add_pod(1, 40, uuid="GPU-a"), 3500, "GPU-a")
    large = node.run(node.add_pod(2, 40, uuid="GPU-b"), 3500, "GPU-b")
    assert await killed_on(node) == [small.pid]
    assert node.host.running(large.pid)


async def test_a_partition_is_judged_by_itself_and_its_parent_is_nobodys_business(
    autojump_clock: trio.testing.MockClock,
) -> None:
    parent = shared("GPU-p", mib=80_000).device
    small, large = (
        partition("MIG-3", "GPU-p", 3, mib=20_000, shares=200),
        partition("MIG-2", "GPU-p", 2, mib=40_000, shares=400),
    )
    node = Node(large, small)
    node.driver.add(parent)
    node.inventory.publish(Inventory((large, small), left_alone=(parent,)))
    on_small = node.run(node.add_pod(1, 100, uuid="MIG-3"), 11_000, "MIG-3")
    on_large = node.run(node.add_pod(2, 300, uuid="MIG-2"), 11_000, "MIG-2")
    node.hold(on_large.pid, 70_000, "GPU-p")
    assert await killed_on(node) == [on_small.pid]


async def test_processes_outside_of_kubernetes_and_pods_with_other_resources_are_never_touched(
    autojump_clock: trio.testing.MockClock,
) -> None:
    node = Node()
    node.add_pod(1, 2)
    node.show(*node.pods.value.pods.values(), pod(2))
    node.run(None, 900)
    node.run(ref(2), 900)
    node.run(ref(77), 900)
    assert await killed_on(node, 100) == []


async def test_a_number_that_was_reused_is_judged_by_who_has_it_now(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    innocent_container = node.add_pod(2, 2, first=2)
    culprit = node.run(node.add_pod(1, 2), 190)
    async with enforcing(node):
        await looks(SETTLED)
        node.lingering = 60.0
        node.host.reuse(culprit.pid, innocent_container)
        for _ in range(100):
            await looks(1)
        assert node.killed == []
        assert node.container(2).processes == ()


async def test_a_new_daemon_takes_up_where_the_old_one_was_ended(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    process = node.run(node.add_pod(1, 2), 250, temper=Temper(kill_seconds=0.5))
    async with enforcing(node):
        await looks(0.5)
    async with enforcing(node):
        await looks(SETTLED)
    assert set(node.killed) <= {process.pid}
    assert not node.host.running(process.pid)


SILENCES = ("kubelet refuses", "kubelet hangs", "the pod source is lost", "both")


def silence(node: Node, which: str) -> None:
    """Let neighbours fall silent."""
    node.kubelet.down = which in ("kubelet refuses", "both")
    node.kubelet.hanging = which == "kubelet hangs"
    if which in ("the pod source is lost", "both"):
        node.lose_pod_source()


def speak(node: Node) -> None:
    """Let all neighbours answer again."""
    node.kubelet.down = node.kubelet.hanging = False
    node.show(*node.pods.value.pods.values())


@pytest.mark.parametrize("which", SILENCES)
async def test_enforcement_goes_on_while_a_neighbour_is_silent(which: str, autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    process = node.run(node.add_pod(1, 2), 150)
    neighbour = node.run(node.add_pod(2, 2, first=2), 150)
    async with enforcing(node):
        await trio.sleep(2)
        silence(node, which)
        await trio.sleep(600)
        node.hold(process.pid, 250)
        await looks(2)
        assert node.killed == [process.pid]
        assert node.host.running(neighbour.pid)


@pytest.mark.parametrize("which", SILENCES)
async def test_what_began_in_the_silence_is_not_judged_before_it_ends(
    which: str, autojump_clock: trio.testing.MockClock
) -> None:
    node = Node()
    node.run(None, 1)
    async with enforcing(node):
        await trio.sleep(2)
        silence(node, which)
        await trio.sleep(10)
        node.kubelet.books += (holds("pod-3", *ids("GPU-a", 0)),)
        if not which.startswith("kubelet"):
            process = node.run(ref(3), 900)
        else:
            node.show(pod(3))
            process = node.run(ref(3), 900)
        await trio.sleep(60)
        assert node.killed == []
        node.show(pod(3))
        speak(node)
        await trio.sleep(6)
        assert node.killed == [process.pid]


async def test_kubelet_the_pod_source_and_the_driver_fail_in_turn_while_a_container_is_over(
    autojump_clock: trio.testing.MockClock,
) -> None:
    node = Node()
    container = node.add_pod(1, 2)
    neighbour = node.run(node.add_pod(2, 2, first=2), 199)
    async with enforcing(node):
        await trio.sleep(2)
        for which in (*SILENCES, "the driver hangs"):
            silence(node, which)
            if which == "the driver hangs":
                node.driver.hang("processes")
            process = node.run(container, 250)
            await trio.sleep(5)
            if which == "the driver hangs":
                assert node.host.running(process.pid)
                node.driver.heal()
            speak(node)
            await trio.sleep(10)
            assert not node.host.running(process.pid)
        assert node.host.running(neighbour.pid)
        assert len(node.killed) == len(SILENCES) + 1
        assert node.usage.value.troubles == ()


async def test_a_container_that_ended_in_the_silence_is_gone_for_its_successor_of_the_same_name(
    autojump_clock: trio.testing.MockClock,
) -> None:
    node = Node()
    node.run(node.add_pod(1, 2), 150)
    async with enforcing(node):
        await trio.sleep(2)
        silence(node, "both")
        node.host.stop_container(ref(1))
        successor = node.run(ref(8), 350)
        await trio.sleep(30)
        assert node.host.running(successor.pid)
        node.kubelet.books = (holds("pod-1", *ids("GPU-a", 0, 1, 2, 3)),)
        node.show(pod(8, name="pod-1"))
        speak(node)
        await trio.sleep(30)
        assert node.host.running(successor.pid)
        node.hold(successor.pid, 450)
        await looks(2)
        assert node.killed == [successor.pid]


PODS_A_DAY = 10_000
LONG_LOOKS = ScanSettings(look_seconds=6.0, idle_look_seconds=6.0)
OURS = [tracemalloc.Filter(True, f"*/mortalgpu/{part}") for part in ("scan/*", "enforcer/*", "model/*", "latest.py")]


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_day_of_ten_thousand_pods_leaves_nothing_behind(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    figures = []
    tracemalloc.start()
    # What pytest keeps of ten thousand log lines is not what is measured here.
    logging.disable()
    try:
        async with enforcing(node, scan=LONG_LOOKS):
            for number in range(1, PODS_A_DAY + 1):
                await _live_and_die(node, number, 86_400 / PODS_A_DAY)
                if number % (PODS_A_DAY // 5) == 0:
                    figures.append(_footprint())
            assert node.outcomes["killed"] == PODS_A_DAY // 10
            assert trio.current_time() >= 86_400
    finally:
        logging.disable(logging.NOTSET)
        tracemalloc.stop()
    memory, tasks, files = zip(*figures, strict=True)
    assert max(memory) - memory[0] < 64 * 1024
    assert len(set(tasks)) == len(set(files)) == 1


async def _live_and_die(node: Node, number: int, seconds: float) -> None:
    """Let a pod come, use its share, every tenth more than that, and go."""
    process = node.run(node.add_pod(number, 1, first=number % 8), 90)
    await trio.sleep(seconds)
    if number % 10 == 0:
        node.hold(process.pid, 190)
        await trio.sleep(8)
    node.remove_pod(number)
    node.cluster.notes.clear()
    node.host.signals.clear()


def _footprint() -> tuple[int, int, int]:
    """Bytes that our code holds, living tasks, open files."""
    gc.collect()
    taken = tracemalloc.take_snapshot().filter_traces(OURS)
    size = sum(trace.size for trace in taken.traces)
    return size, trio.lowlevel.current_statistics().tasks_living, len(os.listdir("/proc/self/fd"))
