"""What the driver reports by itself, and what happens when waiting for it fails."""

from dataclasses import replace

import pytest
import trio

from mortalgpu.driver.base import GpuDriver, OpenDriver
from mortalgpu.errors import DriverError, DriverTimeout
from mortalgpu.model.device import HealthEvent
from mortalgpu.simulation.driver import A100_UUID, partition_uuid, v100_uuid
from tests.standin.nvml import StateFile

V100_UUID, OTHER_UUID = v100_uuid(0), v100_uuid(1)
NOT_SUPPORTED, GPU_IS_LOST, UNKNOWN = 3, 15, 999
SINGLE_BIT_ECC_ONLY = 1


async def next_event(driver: GpuDriver, seconds: float = 2) -> HealthEvent:
    with trio.fail_after(seconds):
        return await driver.health_event()


async def listen(driver: GpuDriver) -> None:
    """Enumerate, and wait once in vain: events count from here on."""
    await driver.devices()
    with trio.move_on_after(0.05) as scope:
        await driver.health_event()
    assert scope.cancelled_caught


@pytest.mark.parametrize(
    ("type_", "data", "event"),
    [
        ("xid", 79, HealthEvent("xid", V100_UUID, 79)),
        ("xid", 999, HealthEvent("xid", V100_UUID, 999)),
        ("ecc_double", 5, HealthEvent("ecc_double", V100_UUID, 0)),
        ("ecc_single", 0, HealthEvent("ecc_single", V100_UUID, 0)),
    ],
)
async def test_each_kind_of_event_is_told_with_its_device_and_code(
    open_driver: OpenDriver, machine: StateFile, type_: str, data: int, event: HealthEvent
) -> None:
    async with open_driver() as driver:
        await listen(driver)
        machine.push_event(V100_UUID, type_, data)
        assert await next_event(driver) == event


@pytest.mark.parametrize(
    ("gi", "ci", "uuids"),
    [
        (3, 0, [partition_uuid(3)]),
        (2, 1, ["MIG-second-compute-instance"]),
        (2, None, [partition_uuid(2), "MIG-second-compute-instance"]),
        (None, None, [A100_UUID]),
        (6, 0, [A100_UUID]),
    ],
)
async def test_an_event_on_a_gpu_instance_is_told_of_each_partition_it_hits(
    open_driver: OpenDriver, machine: StateFile, gi: int | None, ci: int | None, uuids: list[str]
) -> None:
    second = replace(machine.state.partitions[0], uuid="MIG-second-compute-instance", slot=5, ci=1)
    machine.write(replace(machine.state, partitions=(*machine.state.partitions, second)))
    async with open_driver() as driver:
        await listen(driver)
        machine.push_event(A100_UUID, "xid", 48, gi=gi, ci=ci)
        assert [await next_event(driver) for _ in uuids] == [HealthEvent("xid", uuid, 48) for uuid in uuids]


async def test_events_from_before_the_driver_was_opened_are_not_told(open_driver: OpenDriver, machine: StateFile) -> None:
    machine.push_event(V100_UUID, "xid", 31)
    async with open_driver() as driver:
        await listen(driver)
        machine.push_event(V100_UUID, "xid", 79)
        assert (await next_event(driver)).code == 79


async def test_a_gpu_without_events_does_not_deafen_the_others(open_driver: OpenDriver, machine: StateFile) -> None:
    machine.set_gpu(V100_UUID, events=0)
    machine.add_fault("nvmlDeviceGetSupportedEventTypes", A100_UUID, error=NOT_SUPPORTED)
    async with open_driver() as driver:
        await listen(driver)
        machine.push_event(V100_UUID, "xid", 31)
        machine.push_event(OTHER_UUID, "xid", 79)
        assert await next_event(driver) == HealthEvent("xid", OTHER_UUID, 79)


async def test_a_gpu_is_listened_to_for_the_events_it_has(open_driver: OpenDriver, machine: StateFile) -> None:
    machine.set_gpu(V100_UUID, events=SINGLE_BIT_ECC_ONLY)
    async with open_driver() as driver:
        await listen(driver)
        machine.push_event(V100_UUID, "xid", 79)
        machine.push_event(V100_UUID, "ecc_single")
        assert (await next_event(driver)).kind == "ecc_single"


@pytest.mark.parametrize("call", ["nvmlDeviceGetSupportedEventTypes", "nvmlDeviceRegisterEvents", "nvmlEventSetCreate"])
async def test_a_driver_without_events_is_waited_for_quietly(open_driver: OpenDriver, machine: StateFile, call: str) -> None:
    machine.add_fault(call, error=NOT_SUPPORTED)
    async with open_driver() as driver:
        await driver.devices()
        with trio.move_on_after(0.4) as scope:
            await driver.health_event()
        assert scope.cancelled_caught


async def test_a_lost_gpu_is_told_once_and_the_others_are_still_listened_to(
    open_driver: OpenDriver, machine: StateFile
) -> None:
    async with open_driver() as driver:
        await listen(driver)
        machine.lose(V100_UUID)
        assert await next_event(driver) == HealthEvent("lost", V100_UUID)
        await driver.probe([V100_UUID])
        machine.push_event(OTHER_UUID, "xid", 79)
        assert await next_event(driver) == HealthEvent("xid", OTHER_UUID, 79)


async def test_an_event_of_a_gpu_that_cannot_say_its_uuid_any_more_is_that_gpus(
    open_driver: OpenDriver, machine: StateFile
) -> None:
    async with open_driver() as driver:
        await listen(driver)
        machine.add_fault("nvmlDeviceGetUUID", OTHER_UUID, error=GPU_IS_LOST)
        machine.push_event(OTHER_UUID, "xid", 79)
        assert await next_event(driver) == HealthEvent("xid", OTHER_UUID, 79)


async def test_a_gpu_that_came_back_is_listened_to_again(open_driver: OpenDriver, machine: StateFile) -> None:
    async with open_driver() as driver:
        await listen(driver)
        machine.lose(V100_UUID)
        assert await next_event(driver) == HealthEvent("lost", V100_UUID)
        machine.restore(V100_UUID)
        assert await driver.probe([V100_UUID]) == {V100_UUID: None}
        await listen(driver)
        machine.push_event(V100_UUID, "xid", 79)
        assert await next_event(driver) == HealthEvent("xid", V100_UUID, 79)


async def test_a_wait_that_fails_is_an_error_that_the_next_wait_survives(open_driver: OpenDriver, machine: StateFile) -> None:
    async with open_driver() as driver:
        await listen(driver)
        machine.add_fault("nvmlEventSetWait_v2", error=UNKNOWN)
        with pytest.raises(DriverError, match=r"waiting for events: unknown \(NVML error 999\)"):
            await next_event(driver)
        machine.clear_faults()
        await listen(driver)
        machine.push_event(V100_UUID, "xid", 79)
        assert (await next_event(driver)).code == 79


async def test_waits_that_fail_at_once_do_not_come_faster_than_a_wait_lasts(
    open_driver: OpenDriver, machine: StateFile
) -> None:
    failures = 0
    async with open_driver() as driver:
        await listen(driver)
        machine.add_fault("nvmlEventSetWait_v2", error=UNKNOWN)
        with trio.move_on_after(0.35):
            while True:
                with pytest.raises(DriverError):
                    await driver.health_event()
                failures += 1
    assert 2 <= failures <= 4


async def test_a_wait_that_hangs_is_a_timeout_and_does_not_end_the_driver(open_driver: OpenDriver, machine: StateFile) -> None:
    async with open_driver() as driver:
        await listen(driver)
        machine.add_fault("nvmlEventSetWait_v2", hang=0)
        for _ in range(3):
            with pytest.raises(DriverTimeout, match="waiting for events"):
                await next_event(driver)
        assert await driver.probe([V100_UUID]) == {V100_UUID: None}
        machine.clear_faults()
        await listen(driver)
        machine.push_event(V100_UUID, "xid", 79)
        assert (await next_event(driver)).code == 79


async def test_a_second_waiting_task_is_refused(open_driver: OpenDriver) -> None:
    async with open_driver() as driver, trio.open_nursery() as nursery:
        await driver.devices()
        nursery.start_soon(driver.health_event)
        await trio.sleep(0.02)
        with pytest.raises(trio.BusyResourceError):
            await driver.health_event()
        nursery.cancel_scope.cancel()
