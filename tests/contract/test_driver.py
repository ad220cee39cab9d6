"""What every GPU driver owes its callers, whichever one it is: the port's contract, held by twin, stand-in and real GPU."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path

import pytest
import trio

from mortalgpu.driver.base import GpuDriver
from mortalgpu.errors import DriverError, DriverLost, DriverTimeout
from mortalgpu.model.device import Fault, GpuProcess, HealthEvent, Memory, Utilization
from mortalgpu.simulation.driver import A100_UUID, partition_uuid, v100_uuid, worked_example
from tests.contract.driver_rigs import CALL_SECONDS, Rig, World, make_rig, make_world

GIB = 1024**3
V100_UUID = v100_uuid(0)
WELL_UUID = v100_uuid(1)
ALL_UUIDS = tuple(device.uuid for device in worked_example())


def never(_reading: Mapping[str, Memory | Fault]) -> bool:
    """Nothing has moved."""
    return False


VERBS: Mapping[str, Callable[[GpuDriver], Awaitable[object]]] = {
    "info": lambda driver: driver.info(),
    "devices": lambda driver: driver.devices(),
    "memory": lambda driver: driver.memory(ALL_UUIDS),
    "watch_memory": lambda driver: driver.watch_memory(ALL_UUIDS, never, 0.01, 20),
    "utilization": lambda driver: driver.utilization(ALL_UUIDS),
    "processes": lambda driver: driver.processes(ALL_UUIDS),
    "probe": lambda driver: driver.probe(ALL_UUIDS),
}


@pytest.fixture(params=["twin", "standin", pytest.param("gpu", marks=pytest.mark.gpu)])
def rig(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """A driver that may be the real one: to be read only."""
    yield from make_rig(request.param, tmp_path, monkeypatch)


@pytest.fixture(params=["twin", "standin"])
def world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A driver of the worked example's devices that the test may change."""
    yield from make_world(request.param, tmp_path, monkeypatch)


async def test_devices_come_by_gpu_index_then_instance_and_partitions_after_their_gpu(rig: Rig) -> None:
    async with rig.open() as driver:
        devices = await driver.devices()
    places = [(device.index, device.mig.gi_id if device.mig else -1) for device in devices]
    assert devices
    assert places == sorted(places)
    assert len({device.uuid for device in devices}) == len(devices)
    assert all(device.memory_bytes > 0 and device.model for device in devices)
    gpus = {device.uuid: device for device in devices if device.mig is None}
    assert all(gpus[device.gpu_uuid].mig_mode for device in devices if device.mig)


async def test_versions_are_told(rig: Rig) -> None:
    async with rig.open() as driver:
        info = await driver.info()
    major, _, minor = info.cuda_version.partition(".")
    assert int(major) >= 11
    assert minor.isdigit()
    assert info.driver_version
    assert info.driver_version in info.nvml_version


async def test_memory_of_each_device_adds_up_to_no_more_than_its_size(rig: Rig) -> None:
    async with rig.open() as driver:
        devices = await driver.devices()
        readings = await driver.memory([device.uuid for device in devices])
    assert list(readings) == [device.uuid for device in devices]
    for device in devices:
        memory = readings[device.uuid]
        assert isinstance(memory, Memory)
        assert memory.total_bytes == device.memory_bytes
        assert memory.used_bytes + memory.free_bytes <= memory.total_bytes


async def test_a_watch_makes_the_readings_asked_for_in_their_rhythm_and_gives_the_last(rig: Rig) -> None:
    async with rig.open() as driver:
        devices = await driver.devices()
        uuids = [device.uuid for device in devices]
        began = trio.current_time()
        readings, made = await driver.watch_memory(uuids, never, 0.02, 3)
        assert trio.current_time() - began >= 0.05
    assert made == 3
    assert list(readings) == uuids
    assert all(isinstance(reading, Memory) for reading in readings.values())


async def test_an_unknown_uuid_is_a_fault_in_its_place_and_spares_the_others(rig: Rig) -> None:
    async with rig.open() as driver:
        known = (await driver.devices())[0].uuid
        asked = ["GPU-00000000-dead-4bad-8000-000000000000", known]
        answers = (await driver.memory(asked), await driver.processes(asked), await driver.utilization(asked))
        probed = await driver.probe(asked)
    for answer in answers:
        assert isinstance(answer[asked[0]], Fault)
        assert not isinstance(answer[known], Fault)
    assert probed[asked[0]] is not None
    assert probed[known] is None


async def test_asking_about_no_device_answers_nothing(rig: Rig) -> None:
    async with rig.open() as driver:
        assert await driver.memory([]) == {}
        assert await driver.processes([]) == {}


async def test_a_driver_can_be_opened_again_after_it_was_closed(rig: Rig) -> None:
    async with rig.open() as driver:
        first = await driver.devices()
    async with rig.open() as driver:
        assert await driver.devices() == first


async def test_waiting_for_an_event_can_be_cancelled_at_once(rig: Rig) -> None:
    async with rig.open() as driver:
        await driver.devices()
        started = trio.current_time()
        with trio.move_on_after(0.05) as scope:
            await driver.health_event()
        assert scope.cancelled_caught
        assert trio.current_time() - started < 0.2


async def test_the_worked_example_is_enumerated_as_it_stands(world: World) -> None:
    async with world.open() as driver:
        assert await driver.devices() == worked_example()


async def test_each_process_is_listed_with_its_memory_and_unknown_memory_stays_unknown(world: World) -> None:
    world.set_processes(V100_UUID, GpuProcess(200, 3 * GIB), GpuProcess(100, None))
    world.set_processes(partition_uuid(9), GpuProcess(200, GIB))
    async with world.open() as driver:
        await driver.devices()
        listed = await driver.processes(ALL_UUIDS)
        memory = await driver.memory([V100_UUID])
    on_v100, on_partition = listed[V100_UUID], listed[partition_uuid(9)]
    assert not isinstance(on_v100, Fault)
    assert not isinstance(on_partition, Fault)
    assert [(process.pid, process.used_bytes) for process in on_v100] == [(100, None), (200, 3 * GIB)]
    assert [(process.pid, process.used_bytes) for process in on_partition] == [(200, GIB)]
    assert listed[partition_uuid(10)] == ()
    assert memory[V100_UUID] == Memory(32 * GIB, 3 * GIB, 29 * GIB)


async def test_utilisation_is_known_of_a_whole_gpu_and_unknown_of_partitions(world: World) -> None:
    async with world.open() as driver:
        await driver.devices()
        busy = await driver.utilization([V100_UUID, A100_UUID, partition_uuid(2)])
    assert busy == {
        V100_UUID: Utilization(0, 0),
        A100_UUID: Utilization(None, None),
        partition_uuid(2): Utilization(None, None),
    }


async def test_a_lost_gpu_takes_its_partitions_along_and_spares_the_others(world: World) -> None:
    async with world.open() as driver:
        await driver.devices()
        world.lose(A100_UUID)
        probed = await driver.probe(ALL_UUIDS)
        left = await driver.devices()
    assert [uuid for uuid in ALL_UUIDS if probed[uuid] is None] == [V100_UUID, WELL_UUID]
    assert all(fault.lost for fault in probed.values() if fault)
    assert [device.uuid for device in left] == [V100_UUID, WELL_UUID]


async def test_a_gpu_that_came_back_answers_again_without_opening_anew(world: World) -> None:
    async with world.open() as driver:
        await driver.devices()
        world.lose(A100_UUID)
        await driver.probe(ALL_UUIDS)
        world.restore(A100_UUID)
        assert set((await driver.probe(ALL_UUIDS)).values()) == {None}
        assert await driver.devices() == worked_example()


async def test_a_partition_that_was_destroyed_is_a_fault_and_no_longer_enumerated(world: World) -> None:
    async with world.open() as driver:
        await driver.devices()
        world.remove(partition_uuid(9))
        memory = await driver.memory(ALL_UUIDS)
        left = await driver.devices()
    assert [uuid for uuid in ALL_UUIDS if isinstance(memory[uuid], Fault)] == [partition_uuid(9)]
    assert partition_uuid(9) not in [device.uuid for device in left]


async def test_events_arrive_in_order_with_the_device_they_are_about(world: World) -> None:
    async with world.open() as driver, trio.open_nursery() as nursery:
        await driver.devices()
        arrived: list[HealthEvent] = []
        nursery.start_soon(_collect, driver, 2, arrived)
        await trio.sleep(0.05)
        world.push_xid(79, V100_UUID)
        world.push_xid(94, A100_UUID, gi_id=3)
    assert sorted(arrived, key=lambda event: event.code) == [
        HealthEvent("xid", V100_UUID, 79),
        HealthEvent("xid", partition_uuid(3), 94),
    ]


async def _collect(driver: GpuDriver, count: int, into: list[HealthEvent]) -> None:
    with trio.fail_after(3):
        for _ in range(count):
            into.append(await driver.health_event())


async def test_an_event_is_not_lost_to_a_wait_that_was_cancelled(world: World) -> None:
    async with world.open() as driver:
        await driver.devices()
        with trio.move_on_after(0.05):
            await driver.health_event()
        world.push_xid(48, WELL_UUID)
        with trio.fail_after(3):
            assert await driver.health_event() == HealthEvent("xid", WELL_UUID, 48)


async def test_who_waits_for_events_hears_of_a_lost_gpu(world: World) -> None:
    async with world.open() as driver, trio.open_nursery() as nursery:
        await driver.devices()
        arrived: list[HealthEvent] = []
        nursery.start_soon(_collect, driver, 1, arrived)
        await trio.sleep(0.05)
        world.lose(A100_UUID)
    assert arrived == [HealthEvent("lost", A100_UUID)]


@pytest.mark.parametrize("verb", VERBS)
async def test_every_verb_says_that_the_driver_is_lost(world: World, verb: str) -> None:
    async with world.open() as driver:
        await driver.devices()
        world.unload()
        with pytest.raises(DriverLost):
            await VERBS[verb](driver)


async def test_who_waits_for_events_hears_of_a_lost_driver(world: World) -> None:
    async with world.open() as driver:
        await driver.devices()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_expect_driver_lost, driver)
            await trio.sleep(0.05)
            world.unload()


async def _expect_driver_lost(driver: GpuDriver) -> None:
    with trio.fail_after(3), pytest.raises(DriverLost):
        await driver.health_event()


async def test_a_reloaded_driver_stays_lost_to_who_had_it_open_and_serves_who_opens_anew(world: World) -> None:
    async with world.open() as driver:
        await driver.devices()
        world.reload()
        with pytest.raises(DriverLost):
            await driver.memory(ALL_UUIDS)
        with pytest.raises(DriverLost):
            await driver.devices()
    async with world.open() as driver:
        assert await driver.devices() == worked_example()


async def test_a_driver_that_is_not_loaded_cannot_be_opened(world: World) -> None:
    world.unload()
    with pytest.raises(DriverError):
        async with world.open():
            pass


@pytest.mark.parametrize("verb", VERBS)
async def test_a_hanging_verb_times_out_on_time_while_others_go_on(world: World, verb: str) -> None:
    async with world.open() as driver:
        await driver.devices()
        world.hang(verb)
        started = trio.current_time()
        ticks: list[float] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_tick, ticks)
            with pytest.raises(DriverTimeout):
                await VERBS[verb](driver)
            nursery.cancel_scope.cancel()
        assert CALL_SECONDS * 0.8 <= trio.current_time() - started < CALL_SECONDS + 0.4
        assert len(ticks) >= 10
        world.heal()


async def _tick(times: list[float]) -> None:
    while True:
        times.append(trio.current_time())
        await trio.sleep(0.01)


@pytest.mark.parametrize("verb", VERBS)
async def test_a_hanging_verb_can_be_cancelled_at_once(world: World, verb: str) -> None:
    async with world.open() as driver:
        await driver.devices()
        world.hang(verb)
        started = trio.current_time()
        with trio.move_on_after(0.05):
            await VERBS[verb](driver)
        assert trio.current_time() - started < 0.3
        world.heal()


async def test_a_watch_ends_with_the_reading_that_moved(world: World) -> None:
    seen: list[bool] = []

    def moved(reading: Mapping[str, Memory | Fault]) -> bool:
        found = reading[V100_UUID]
        seen.append(isinstance(found, Memory) and found.used_bytes > 0)
        if len(seen) == 2:
            world.set_processes(V100_UUID, GpuProcess(10, GIB))
        return seen[-1]

    async with world.open() as driver:
        await driver.devices()
        readings, made = await driver.watch_memory([WELL_UUID, V100_UUID], moved, 0.01, 20)
    assert seen[:2] == [False, False]
    assert seen[-1]
    assert moved(readings)
    assert 2 < made < 20


async def test_a_verb_that_hung_answers_again_when_the_driver_does(world: World) -> None:
    async with world.open() as driver:
        await driver.devices()
        world.hang("memory")
        with pytest.raises(DriverTimeout):
            await driver.memory(ALL_UUIDS)
        world.heal()
        with trio.fail_after(3):
            while any(isinstance(reading, Fault) for reading in (await driver.memory(ALL_UUIDS)).values()):
                await trio.sleep(0.01)
