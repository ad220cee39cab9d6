"""The scanner service: rhythms, faults of every neighbour, and what it publishes."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import pytest
import trio
import trio.testing

from mortalgpu.errors import DriverError, DriverLost, HostError
from mortalgpu.model.device import Fault, Memory
from mortalgpu.model.pod import Container
from mortalgpu.model.share import Inventory
from mortalgpu.scan.rhythm import Tempo
from mortalgpu.scan.scanner import ALIVE_SECONDS, Neighbours, ScanSettings, serve
from mortalgpu.units import MIB
from tests.unit.scan.making import RESOURCE, cid, pod, ref, shared
from tests.unit.scan.node import Node, looks, names, scanning


async def test_the_first_usage_is_there_when_the_service_is_started(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    node.add_pod(1, 2)
    async with scanning(node):
        assert node.usage.value.sequence == 1
        assert node.container(1).devices[0].requested_bytes == 200 * MIB


async def test_growth_is_seen_at_the_next_look(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    process = node.run(node.add_pod(1, 2), 50)
    async with scanning(node):
        await looks(5)
        node.hold(process.pid, 250)
        await looks(1.5)
        claim = node.container(1).devices[0]
        assert (claim.over_limit, claim.used_bytes) == (True, 250 * MIB)


async def test_an_idle_node_is_scanned_once_a_period(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    node.run(node.add_pod(1, 2), 50)
    async with scanning(node):
        await trio.sleep(10)
        before = node.usage.value.counts
        await trio.sleep(50)
        after = node.usage.value.counts
    assert after.scans - before.scans == 10
    assert 480 <= after.looks - before.looks <= 500


async def test_a_node_without_gpu_processes_is_looked_at_half_as_often(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    async with scanning(node):
        await trio.sleep(50.1)
    assert 240 <= node.usage.value.counts.looks <= 252


async def test_a_new_container_is_known_within_two_looks(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    node.run(None, 1)
    async with scanning(node):
        await looks(7.5)
        node.run(node.add_pod(1, 2), 900)
        await looks(4)
        assert node.container(1).devices[0].limit_bytes == 200 * MIB


async def test_processes_that_nobody_names_make_the_pod_source_look_again(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    async with scanning(node):
        node.run(ref(1), 50)
        await trio.sleep(3)
        assert 1 <= node.cluster.refreshes <= 4
        node.add_pod(1, 2)
        await looks(5)
        assert node.container(1).processes[0].used_bytes == 50 * MIB


async def test_texts_about_a_process_arrive_with_a_later_scan(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    process = node.host.start(node.add_pod(1, 2), user="ann", command="python a.py")
    node.hold(process.pid, 50)
    async with scanning(node):
        await trio.sleep(1)
        (shown,) = node.container(1).processes
        assert (shown.user, shown.command, shown.pid_inside) == ("ann", "python a.py", 1)


async def test_kubelet_is_asked_once_a_period_when_nothing_happens(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    node.run(node.add_pod(1, 2), 50)
    async with scanning(node):
        await trio.sleep(5)
        before = node.kubelet.readings
        await trio.sleep(50)
    assert 9 <= node.kubelet.readings - before <= 11


async def test_a_usage_tells_of_when_the_books_are_on_which_it_rests(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    node.kubelet.down = True
    async with scanning(node):
        first = node.usage.value
        assert first.books_at is None
        node.kubelet.down = False
        began = trio.current_time()
        await trio.sleep(20)
        books_at = node.usage.value.books_at
        assert books_at is not None
        assert began < books_at <= trio.current_time()
        assert books_at > trio.current_time() - 6


async def test_containers_that_kubelet_never_lists_do_not_make_it_asked_oftener(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    node.show(pod(1, Container("init", cid(1))))
    node.run(ref(1), 50)
    async with scanning(node):
        await trio.sleep(50)
    assert node.kubelet.readings <= 13


@pytest.mark.parametrize("hanging", [True, False])
async def test_kubelets_silence_never_holds_up_a_scan(hanging: bool, autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    process = node.run(node.add_pod(1, 2), 50)
    async with scanning(node):
        await trio.sleep(1)
        node.kubelet.hanging, node.kubelet.down = hanging, not hanging
        await trio.sleep(20)
        node.hold(process.pid, 250)
        await looks(1.5)
        assert node.container(1).devices[0].over_limit
        assert any("kubelet" in trouble for trouble in node.usage.value.troubles)
        assert node.usage.value.counts.failures["kubelet"] >= 2
        node.kubelet.hanging = node.kubelet.down = False
        await trio.sleep(15)
        assert node.usage.value.troubles == ()


async def test_a_kubelet_that_is_silent_from_the_start_delays_the_start_by_its_limit_only(
    autojump_clock: trio.testing.MockClock,
) -> None:
    node = Node()
    node.kubelet.hanging = True
    began = trio.current_time()
    async with scanning(node):
        assert trio.current_time() - began < 3
        assert node.usage.value.sequence == 1


@pytest.mark.parametrize("verb", ["memory", "processes", "utilization"])
@pytest.mark.parametrize("error", [DriverLost("gone"), DriverError("Unknown Error")])
async def test_trouble_of_the_driver_is_published_and_passes(
    verb: str, error: DriverError, autojump_clock: trio.testing.MockClock
) -> None:
    node = Node()
    node.run(node.add_pod(1, 2), 250)
    async with scanning(node):
        await looks(3)
        node.driver.fail(verb, error)
        await trio.sleep(8)
        assert any(str(error) in trouble for trouble in node.usage.value.troubles)
        assert str(error) in node.usage.value.devices[0].fault
        node.driver.heal()
        await trio.sleep(6)
        assert node.usage.value.troubles == ()
        assert node.usage.value.devices[0].fault == ""
        assert node.container(1).devices[0].used_bytes == 250 * MIB


async def test_a_hung_driver_call_leaves_use_unknown_and_the_service_alive(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    node.run(node.add_pod(1, 2), 250)
    async with scanning(node):
        await looks(3)
        node.driver.hang("processes")
        await trio.sleep(10)
        claim = node.container(1).devices[0]
        assert (claim.used_bytes, claim.over_limit) == (None, False)
        node.driver.heal()
        await trio.sleep(6)
        assert node.container(1).devices[0].over_limit


async def test_a_lost_device_leaves_the_others_as_they_are(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    node.run(node.add_pod(1, 2), 250, "GPU-a")
    node.run(node.add_pod(2, 2, uuid="GPU-b"), 250, "GPU-b")
    async with scanning(node):
        node.driver.lose("GPU-a")
        await trio.sleep(6)
        assert node.container(1).devices[0].used_bytes is None
        assert node.container(2).devices[0].used_bytes == 250 * MIB


class _BlindHost:
    """A process table that cannot be read."""

    def __init__(self, node: Node) -> None:
        self.describe = node.host.describe
        self.open = node.host.open

    async def inspect(self, pids: object) -> dict[int, object]:
        await trio.lowlevel.checkpoint()
        raise HostError("/proc is not mounted")


async def test_without_the_process_table_nothing_is_known_of_anybodys_use(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    node.run(node.add_pod(1, 2), 250)
    node.host = _BlindHost(node)  # type: ignore[assignment]
    async with scanning(node):
        await trio.sleep(1)
        assert node.container(1).devices[0].used_bytes is None
        assert any("/proc is not mounted" in trouble for trouble in node.usage.value.troubles)


async def test_a_pod_source_out_of_sync_is_said(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    node.add_pod(1, 2)
    async with scanning(node):
        node.lose_pod_source()
        await trio.sleep(6)
        assert any("pods are not known for certain" in trouble for trouble in node.usage.value.troubles)
        assert node.container(1).devices[0].shares == 2


async def test_processes_whose_memory_the_driver_does_not_tell_are_said(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    process = node.run(node.add_pod(1, 2), None)
    async with scanning(node):
        await trio.sleep(1)
        assert any("(now 1); what they hold counts towards no limit" in trouble for trouble in node.usage.value.troubles)
        node.hold(process.pid, 50)
        await trio.sleep(1)
        assert node.usage.value.troubles == ()


async def test_an_owner_is_told_once_of_an_annotation_that_is_not_followed(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    node.add_pod(1, 2)
    node.show(pod(1, annotations={f"gpu-mem-limit.{RESOURCE}": "much"}))
    async with scanning(node):
        await trio.sleep(30)
        assert names(node.cluster.notes) == [("pod-1", "GpuMemoryLimitAnnotation")]
        node.show(pod(1, annotations={f"gpu-mem-limit.{RESOURCE}": "more"}))
        await trio.sleep(6)
        assert len(node.cluster.notes) == 2


async def test_a_change_of_the_inventory_is_taken_up(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    async with scanning(node):
        node.inventory.publish(Inventory((shared("GPU-a"),)))
        await looks(3)
        assert [device.uuid for device in node.usage.value.devices] == ["GPU-a"]


async def test_a_change_of_the_inventory_during_a_look_is_taken_up_by_the_next_scan(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node()
    process = node.run(node.add_pod(1, 2), 50)
    read = node.driver.memory

    async def change_meanwhile(uuids: Sequence[str]) -> Mapping[str, Memory | Fault]:
        if not node.inventory.version:
            node.hold(process.pid, 60)
            node.inventory.publish(Inventory((shared("GPU-a"), shared("GPU-b", index=1, shares=20))))
        return await read(uuids)

    async with scanning(node, ScanSettings(tempo=Tempo(watch_seconds=0))):
        await looks(20)
        monkeypatch.setattr(node.driver, "memory", change_meanwhile)
        await looks(4)
        assert [device.shared.shares for device in node.usage.value.devices] == [10, 20]


async def test_a_node_without_shared_devices_is_scanned_all_the_same(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    node.inventory.publish(Inventory())
    async with scanning(node):
        await trio.sleep(20)
        assert node.usage.value.sequence >= 4
        assert node.usage.value.devices == ()


async def test_trouble_about_devices_that_are_shared_no_more_is_over(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    async with scanning(node):
        for verb in ("memory", "processes", "utilization"):
            node.driver.fail(verb, DriverError("failed"))
        await trio.sleep(6)
        assert [line.partition(":")[0] for line in node.usage.value.troubles] == [
            "the GPU driver does not tell memory",
            "the GPU driver does not tell processes",
            "the GPU driver does not tell utilization",
        ]
        node.inventory.publish(Inventory())
        await trio.sleep(6)
        assert not node.usage.value.troubles


async def test_churn_within_everybodys_limit_costs_no_more_than_the_duty(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    process = node.run(node.add_pod(1, 9), 50)
    settings = ScanSettings(tempo=Tempo(duty=0.1))
    slow = _SlowDriver(node, seconds=0.03)
    async with scanning(node, settings):
        for step in range(300):
            node.hold(process.pid, 50 + step % 2 * 20)
            await trio.sleep(0.1)
        counts = node.usage.value.counts
    assert counts.scan_seconds < 0.12 * 30
    assert counts.scans > 50
    assert slow.calls == counts.scans


class _SlowDriver:
    """Makes the listing of processes take its time."""

    def __init__(self, node: Node, seconds: float) -> None:
        self.calls = 0
        quick = node.driver.processes

        async def processes(uuids: list[str]) -> object:
            self.calls += 1
            await trio.sleep(seconds)
            return await quick(uuids)

        node.driver.processes = processes  # type: ignore[assignment,method-assign]


async def test_a_scan_longer_than_a_look_is_counted_as_an_overrun(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    _SlowDriver(node, seconds=0.3)
    async with scanning(node):
        await trio.sleep(1)
        counts = node.usage.value.counts
    assert counts.overruns == counts.scans >= 1
    assert counts.scan_buckets[8] == counts.scans


async def test_the_watchdog_is_fed_several_times_a_second(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    node.run(None, 1)
    fed: list[float] = []

    async def alive() -> None:
        fed.append(trio.current_time())

    neighbours = Neighbours(node.driver, node.host, node.kubelet, node.cluster, node.clock)
    async with node.driver.open():
        with trio.move_on_after(10.05):
            await serve(neighbours, node.inventory, node.pods, node.usage, ScanSettings(), alive=alive)
    assert max(later - sooner for sooner, later in pairwise(fed)) <= 0.61
    assert trio.current_time() - fed[-1] <= 0.61


async def test_looks_far_apart_leave_no_watchdog_waiting(autojump_clock: trio.testing.MockClock) -> None:
    node, beats = Node(), [0.0]
    neighbours = Neighbours(node.driver, node.host, node.kubelet, node.cluster, node.clock)

    async def alive() -> None:
        beats.append(trio.current_time())

    async with node.driver.open():
        with trio.move_on_after(200):
            settings = ScanSettings(look_seconds=60, idle_look_seconds=60)
            await serve(neighbours, node.inventory, node.pods, node.usage, settings, alive=alive)
    assert max(later - earlier for earlier, later in pairwise(beats)) <= ALIVE_SECONDS
    assert node.usage.value.counts.looks == 4


async def test_the_wall_clock_may_jump(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    process = node.run(node.add_pod(1, 2), 50)
    async with scanning(node):
        await trio.sleep(1)
        for seconds in (-86_400.0, 10 * 86_400.0):
            node.clock.jump(seconds)
            node.hold(process.pid, 250)
            await looks(1.5)
            assert node.container(1).devices[0].over_limit
            node.hold(process.pid, 50)
            await trio.sleep(1)


@pytest.mark.parametrize("after_seconds", [0.0, 0.05, 0.1, 0.5, 3.0])
async def test_the_scanner_can_be_cancelled_at_any_time(after_seconds: float, autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    node.run(node.add_pod(1, 2), 50)
    node.kubelet.hanging = True
    neighbours = Neighbours(node.driver, node.host, node.kubelet, node.cluster, node.clock)
    async with node.driver.open():
        with trio.move_on_after(after_seconds) as scope:
            await serve(neighbours, node.inventory, node.pods, node.usage, ScanSettings())
    assert scope.cancelled_caught
