"""What can come between a verdict and its signal, and between a signal and the death."""

from collections.abc import Sequence

import pytest
import trio
import trio.testing

from mortalgpu.enforcer.service import EnforcerSettings
from mortalgpu.errors import DriverError, HostError
from mortalgpu.model.device import GpuProcess
from mortalgpu.simulation.host import Temper
from mortalgpu.units import MIB
from tests.unit.scan.making import ref
from tests.unit.scan.node import Node, enforcing, names


class _Meddling:
    """Does something between the verdict and the last question, whenever a process is opened."""

    def __init__(self, node: Node, meddle: object) -> None:
        opened = node.host.open

        async def open_after(pid: int) -> object:
            assert callable(meddle)
            meddle(pid)
            return await opened(pid)

        node.host.open = open_after  # type: ignore[assignment,method-assign]


async def test_a_process_that_frees_its_memory_just_in_time_lives(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    process = node.run(node.add_pod(1, 2), 250)
    _Meddling(node, lambda pid: node.hold(pid, 150))
    async with enforcing(node):
        await trio.sleep(10)
    assert node.killed == []
    assert node.outcomes == {"withdrawn": 1}
    assert node.host.running(process.pid)


async def test_a_number_that_changed_hands_is_not_signalled(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    node.run(node.add_pod(1, 2), 250)

    def hand_over(pid: int) -> None:
        node.host.reuse(pid, ref(1))
        node.hold(pid, 30)

    _Meddling(node, hand_over)
    async with enforcing(node):
        await trio.sleep(10)
    assert node.killed == []


async def test_a_process_that_moved_to_another_container_is_not_signalled(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    node.run(node.add_pod(1, 2), 250)
    node.add_pod(2, 5, first=4)
    _Meddling(node, lambda pid: node.host.move(pid, ref(2)))
    async with enforcing(node):
        await trio.sleep(10)
    assert node.killed == []


async def test_a_process_that_the_driver_lists_no_more_is_not_signalled(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    process = node.run(node.add_pod(1, 2), 250)
    _Meddling(node, lambda pid: node.driver.set_processes("GPU-a"))
    async with enforcing(node):
        await trio.sleep(10)
    assert node.host.running(process.pid)
    assert node.killed == []


async def test_a_victim_that_the_driver_lists_no_more_is_not_signalled_for_what_its_siblings_hold(
    autojump_clock: trio.testing.MockClock,
) -> None:
    node = Node()
    container = node.add_pod(1, 2)
    victim, siblings = node.run(container, 160), [node.run(container, 150) for _ in range(2)]
    listed = [GpuProcess(sibling.pid, 150 * MIB) for sibling in siblings]
    _Meddling(node, lambda pid: node.driver.set_processes("GPU-a", *listed))
    async with enforcing(node):
        await trio.sleep(5)
    assert victim.pid not in node.killed
    assert len(node.killed) == 1


async def test_the_sum_is_asked_again_so_that_a_dying_sibling_saves_the_victim(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    container = node.add_pod(1, 2)
    victim, sibling = node.run(container, 110), node.run(container, 100)

    def end_sibling(pid: int) -> None:
        if node.host.running(sibling.pid):
            node.host.exit(sibling.pid)

    _Meddling(node, end_sibling)
    async with enforcing(node):
        await trio.sleep(10)
    assert node.killed == []
    assert node.host.running(victim.pid)


@pytest.mark.parametrize("hang", [True, False])
async def test_what_cannot_be_asked_again_is_not_answered_with_a_signal(
    hang: bool, autojump_clock: trio.testing.MockClock
) -> None:
    node = Node()
    process = node.run(node.add_pod(1, 2), 50)
    async with enforcing(node):
        await trio.sleep(1)
        quick = node.driver.processes

        async def fail_for_one(uuids: Sequence[str]) -> object:
            if len(uuids) == 1:
                if hang:
                    await trio.sleep_forever()
                raise DriverError("Unknown Error")
            return await quick(uuids)

        node.driver.processes = fail_for_one  # type: ignore[assignment,method-assign]
        node.hold(process.pid, 250)
        await trio.sleep(4)
        assert node.killed == []
        assert set(node.outcomes) == {"withdrawn"}
        node.driver.processes = quick  # type: ignore[method-assign]
        await trio.sleep(7)
        assert node.killed == [process.pid]


async def test_a_signal_that_the_kernel_refuses_is_tried_again_later_and_told(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    node.run(node.add_pod(1, 2), 250, temper=Temper(protected=True))
    async with enforcing(node, EnforcerSettings(retry_seconds=30)):
        await trio.sleep(45)
    assert node.outcomes == {"not_permitted": 2}
    assert names(node.cluster.notes) == [("pod-1", "GpuProcessCannotBeStopped")] * 2


async def test_a_host_that_cannot_hold_processes_is_reported_and_tried_again(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    process = node.run(node.add_pod(1, 2), 250)
    failures = 1
    opened = node.host.open

    async def no_open_files(pid: int) -> object:
        nonlocal failures
        if failures:
            failures -= 1
            raise HostError("too many open files")
        return await opened(pid)

    node.host.open = no_open_files  # type: ignore[assignment,method-assign]
    async with enforcing(node):
        await trio.sleep(15)
    assert node.outcomes == {"failed": 1, "killed": 1}
    assert node.killed == [process.pid]


async def test_an_order_whose_thread_never_returns_counts_as_failed(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    node.run(node.add_pod(1, 2), 250)

    async def hang(pid: int) -> object:
        await trio.sleep_forever()
        raise AssertionError("unreachable")

    node.host.open = hang  # type: ignore[assignment,method-assign]
    async with enforcing(node):
        await trio.sleep(20)
    assert node.outcomes == {"failed": 1}


async def test_memory_that_became_unknown_withdraws_the_order(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    node.run(node.add_pod(1, 2), 250)
    _Meddling(node, lambda pid: node.driver.set_processes("GPU-a", GpuProcess(pid, None)))
    async with enforcing(node):
        await trio.sleep(3)
    assert node.killed == []
