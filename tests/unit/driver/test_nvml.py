"""The adapter's life: opening, closing, and devices or a driver that hang."""

from dataclasses import replace

import pytest
import trio

from mortalgpu.driver.base import GpuDriver, OpenDriver
from mortalgpu.driver.nvml import NvmlDriver, NvmlSettings, nvml_driver
from mortalgpu.errors import DriverError, DriverLost, DriverTimeout
from mortalgpu.model.device import DriverInfo, Fault, Memory
from mortalgpu.simulation.driver import A100_UUID, partition_uuid, v100_uuid, worked_example
from tests.standin.nvml import StateFile
from tests.unit.driver.conftest import CALL_SECONDS

V100_UUID, OTHER_UUID = v100_uuid(0), v100_uuid(1)
UUIDS = [V100_UUID, OTHER_UUID]
MEMORY = "nvmlDeviceGetMemoryInfo_v2"


async def test_one_hanging_gpu_costs_the_others_a_single_deadline(open_driver: OpenDriver, machine: StateFile) -> None:
    async with open_driver() as driver:
        await driver.devices()
        machine.add_fault(MEMORY, V100_UUID, hang=0)
        with pytest.raises(DriverTimeout, match=f"reading the memory of {V100_UUID}"):
            await driver.memory(UUIDS)
        started = trio.current_time()
        answers = await driver.memory(UUIDS)
        assert trio.current_time() - started < CALL_SECONDS / 2
        assert answers[V100_UUID] == Fault("does not answer: reading the memory has not returned")
        assert isinstance(answers[OTHER_UUID], Memory)
        machine.clear_faults()


async def test_a_watch_of_any_length_is_over_within_the_deadline_of_a_call(open_driver: OpenDriver) -> None:
    async with open_driver() as driver:
        await driver.devices()
        _, made = await driver.watch_memory(UUIDS, lambda _: False, CALL_SECONDS / 6, 1000)
        assert made == 3
        assert await driver.watch_memory(UUIDS, lambda _: False, CALL_SECONDS, 1) == ({}, 0)


async def test_a_gpu_that_hangs_during_a_watch_is_left_out_of_the_next_look(
    open_driver: OpenDriver, machine: StateFile
) -> None:
    async with open_driver() as driver:
        await driver.devices()
        machine.add_fault(MEMORY, V100_UUID, hang=0)
        started = trio.current_time()
        with pytest.raises(DriverTimeout, match=f"watching the memory of {V100_UUID}"):
            await driver.watch_memory(UUIDS, lambda _: False, 0.02, 100)
        assert trio.current_time() - started < CALL_SECONDS + 0.3
        answers = await driver.memory(UUIDS)
        assert answers[V100_UUID] == Fault("does not answer: watching the memory has not returned")
        assert isinstance(answers[OTHER_UUID], Memory)
        machine.clear_faults()


async def test_a_watch_that_is_cancelled_ends_in_its_thread_too(settings: NvmlSettings, machine: StateFile) -> None:
    readings = 0

    def count(_: object) -> bool:
        nonlocal readings
        readings += 1
        return False

    async with nvml_driver(replace(settings, call_seconds=60.0))() as driver:
        await driver.devices()
        with trio.move_on_after(0.1):
            await driver.watch_memory(UUIDS, count, 0.01, 3000)
        began = trio.current_time()
    assert trio.current_time() - began < 1.0, "closing waits for every thread that is in the driver"
    assert 0 < readings < 3000


async def test_partitions_share_the_lot_of_a_gpu_in_which_a_call_hangs(open_driver: OpenDriver, machine: StateFile) -> None:
    async with open_driver() as driver:
        await driver.devices()
        machine.add_fault(MEMORY, partition_uuid(3), hang=0)
        with pytest.raises(DriverTimeout):
            await driver.memory([partition_uuid(3)])
        probed = await driver.probe([partition_uuid(2), A100_UUID, V100_UUID])
        assert [uuid for uuid, fault in probed.items() if fault is None] == [V100_UUID]
        machine.clear_faults()


async def test_a_gpu_that_hangs_during_enumeration_is_left_out_of_the_next(open_driver: OpenDriver, machine: StateFile) -> None:
    async with open_driver() as driver:
        await driver.devices()
        machine.add_fault("nvmlDeviceGetName", A100_UUID, hang=0)
        with pytest.raises(DriverTimeout, match=f"enumerating devices of {A100_UUID}"):
            await driver.devices()
        assert [device.uuid for device in await driver.devices()] == UUIDS
        machine.clear_faults()


async def test_a_gpu_that_hangs_is_left_out_of_every_enumeration_until_it_answers(
    open_driver: OpenDriver, machine: StateFile
) -> None:
    async with open_driver() as driver:
        await driver.devices()
        machine.add_fault(MEMORY, A100_UUID, hang=0)
        with pytest.raises(DriverTimeout):
            await driver.memory([A100_UUID])
        for _ in range(3):
            assert [device.uuid for device in await driver.devices()] == UUIDS
        machine.clear_faults()
        with trio.fail_after(2):
            while len(await driver.devices()) < len(worked_example()):
                await trio.sleep(0.01)


async def test_a_gpu_that_hung_before_the_driver_was_opened_anew_is_left_out_of_the_first_enumeration(
    open_driver: OpenDriver, machine: StateFile
) -> None:
    machine.add_fault(MEMORY, A100_UUID, hang=0)
    async with open_driver() as driver:
        with pytest.raises(DriverTimeout):
            await driver.memory([A100_UUID])
    async with open_driver() as driver:
        assert [device.uuid for device in await driver.devices()] == UUIDS
    machine.clear_faults()


async def test_partitions_share_the_lot_of_a_gpu_that_was_left_out_of_an_enumeration(
    open_driver: OpenDriver, machine: StateFile
) -> None:
    async with open_driver() as driver:
        await driver.devices()
        machine.add_fault(MEMORY, partition_uuid(3), hang=0)
        with pytest.raises(DriverTimeout):
            await driver.memory([partition_uuid(3)])
        assert [device.uuid for device in await driver.devices()] == UUIDS
        probed = await driver.probe([partition_uuid(2), A100_UUID, V100_UUID])
        assert [uuid for uuid, fault in probed.items() if fault is None] == [V100_UUID]
        machine.clear_faults()


async def test_a_hanging_gpu_that_answers_again_is_read_and_enumerated_again(
    open_driver: OpenDriver, machine: StateFile
) -> None:
    async with open_driver() as driver:
        await driver.devices()
        machine.add_fault(MEMORY, V100_UUID, hang=0)
        with pytest.raises(DriverTimeout):
            await driver.memory(UUIDS)
        machine.clear_faults()
        with trio.fail_after(2):
            while (await driver.probe([V100_UUID]))[V100_UUID] is not None:
                await trio.sleep(0.01)
        assert len(await driver.devices()) == len(worked_example())


async def test_a_driver_in_which_too_many_calls_hang_is_lost(settings: NvmlSettings, machine: StateFile) -> None:
    driver = NvmlDriver(settings)
    await driver.open()
    await driver.devices()
    machine.add_fault(MEMORY, hang=0)
    for uuid in UUIDS:
        with pytest.raises(DriverTimeout):
            await driver.memory([uuid])
    assert driver.abandoned_calls == settings.max_abandoned
    with pytest.raises(DriverLost, match="2 earlier driver calls have not returned"):
        await driver.info()
    await driver.close()
    machine.clear_faults()


async def test_closing_does_not_wait_for_calls_that_hang(open_driver: OpenDriver, machine: StateFile) -> None:
    async with open_driver() as driver:
        await driver.devices()
        machine.add_fault(MEMORY, hang=0)
        with pytest.raises(DriverTimeout):
            await driver.memory(UUIDS)
        started = trio.current_time()
    assert trio.current_time() - started < 0.2
    machine.clear_faults()


async def test_who_waits_for_events_is_told_when_the_driver_is_closed_over_a_hanging_call(
    open_driver: OpenDriver, machine: StateFile
) -> None:
    told = trio.Event()

    async def wait(driver: GpuDriver) -> None:
        with pytest.raises(DriverLost, match="the driver was closed"):
            await driver.health_event()
        told.set()

    async with trio.open_nursery() as nursery:
        async with open_driver() as driver:
            await driver.devices()
            nursery.start_soon(wait, driver)
            machine.add_fault(MEMORY, hang=0)
            with pytest.raises(DriverTimeout):
                await driver.memory(UUIDS)
        with trio.fail_after(2):
            await told.wait()
    machine.clear_faults()


async def test_a_driver_closed_over_a_hanging_call_recovers_from_the_next_reload(
    open_driver: OpenDriver, machine: StateFile
) -> None:
    async with open_driver() as driver:
        await driver.devices()
        machine.add_fault(MEMORY, hang=0)
        with pytest.raises(DriverTimeout):
            await driver.memory(UUIDS)
    machine.clear_faults()
    machine.reload_driver()
    async with open_driver() as driver:
        with trio.fail_after(2):
            while len(await driver.devices()) < len(worked_example()):
                await trio.sleep(0.01)


async def test_a_driver_that_hangs_while_it_is_opened_is_a_timeout(settings: NvmlSettings, machine: StateFile) -> None:
    machine.add_fault("nvmlInitWithFlags", hang=0)
    with pytest.raises(DriverTimeout, match="opening the NVIDIA driver"):
        async with nvml_driver(replace(settings, open_seconds=CALL_SECONDS))():
            pass
    machine.clear_faults()
    with trio.fail_after(10):
        async with nvml_driver(settings)() as driver:
            assert await driver.devices()


async def test_closing_gives_way_to_a_shutdown_that_hangs(open_driver: OpenDriver, machine: StateFile) -> None:
    async with open_driver():
        pass  # Pays a shutdown that an earlier test may owe, which would hang as well.
    machine.add_fault("nvmlShutdown", hang=0)
    with trio.fail_after(4):
        async with open_driver() as driver:
            await driver.devices()
    machine.clear_faults()


@pytest.mark.parametrize(
    ("error", "way_out"),
    [(9, "modprobe nvidia"), (18, "restart mortalgpu"), (4, "/dev/nvidiactl"), (999, r"unknown \(NVML error 999\)")],
)
async def test_a_driver_that_does_not_start_says_why_and_what_to_do(
    open_driver: OpenDriver, machine: StateFile, error: int, way_out: str
) -> None:
    machine.add_fault("nvmlInitWithFlags", error=error)
    with pytest.raises(DriverError, match=way_out):
        async with open_driver():
            pass


async def test_versions_that_the_driver_does_not_tell_are_empty(open_driver: OpenDriver, machine: StateFile) -> None:
    for call in ("nvmlSystemGetDriverVersion", "nvmlSystemGetNVMLVersion", "nvmlSystemGetCudaDriverVersion_v2"):
        machine.add_fault(call, error=3)
    async with open_driver() as driver:
        assert await driver.info() == DriverInfo("", "", "")


async def test_a_cuda_version_reads_as_people_write_it(open_driver: OpenDriver, machine: StateFile) -> None:
    machine.write(replace(machine.state, driver=replace(machine.state.driver, cuda=11020)))
    async with open_driver() as driver:
        assert (await driver.info()).cuda_version == "11.2"


async def test_devices_can_be_read_before_they_were_enumerated(open_driver: OpenDriver) -> None:
    async with open_driver() as driver:
        assert isinstance((await driver.memory([V100_UUID]))[V100_UUID], Memory)


async def test_a_library_that_is_not_there_is_an_error_on_opening(machine: StateFile) -> None:
    with pytest.raises(DriverError, match=r"looked at: /nowhere/libnvidia-ml\.so\.1"):
        async with nvml_driver(NvmlSettings(library="/nowhere/libnvidia-ml.so.1"))():
            pass
