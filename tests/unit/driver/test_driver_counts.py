"""What the metrics learn of a driver's trouble."""

import pytest
import trio
import trio.testing

from mortalgpu.driver.base import GpuDriver, OpenDriver
from mortalgpu.driver.lasting import keep_open
from mortalgpu.errors import DriverError, DriverLost, DriverTimeout
from mortalgpu.model.counts import DriverCounts
from mortalgpu.model.device import Fault
from mortalgpu.simulation.driver import SimulatedDriver, v100_uuid, worked_example
from tests.standin.nvml import StateFile

V100_UUID = v100_uuid(0)
MEMORY = "nvmlDeviceGetMemoryInfo_v2"


async def test_failures_are_counted_by_kind_and_reopenings_by_number(autojump_clock: trio.testing.MockClock) -> None:
    twin, counts = SimulatedDriver(worked_example()), DriverCounts()
    async with trio.open_nursery() as nursery:
        driver: GpuDriver = await nursery.start(
            lambda task_status: keep_open(twin.open, counts=counts, task_status=task_status)
        )
        twin.hang("memory")
        with pytest.raises(DriverTimeout):
            await driver.memory([V100_UUID])
        twin.heal()
        twin.fail("probe", DriverError("odd"))
        with pytest.raises(DriverError, match="odd"):
            await driver.probe([V100_UUID])
        twin.heal()
        twin.unload()
        with pytest.raises(DriverLost):
            await driver.info()
        twin.reload()
        await trio.sleep(3)
        await driver.info()
        nursery.cancel_scope.cancel()
    assert counts.errors == {"timeout": 1, "failed": 1, "lost": 1}
    assert counts.reopened == 1


async def test_calls_that_fail_while_the_driver_is_gone_are_not_counted_again(autojump_clock: trio.testing.MockClock) -> None:
    twin, counts = SimulatedDriver(worked_example()), DriverCounts()
    async with trio.open_nursery() as nursery:
        driver: GpuDriver = await nursery.start(
            lambda task_status: keep_open(twin.open, counts=counts, task_status=task_status)
        )
        twin.unload()
        for _ in range(5):
            with pytest.raises(DriverLost):
                await driver.info()
        nursery.cancel_scope.cancel()
    assert counts.errors == {"lost": 1}


async def test_a_probe_leaves_a_silent_gpu_behind_and_answers_for_the_others(
    open_driver: OpenDriver, machine: StateFile
) -> None:
    async with open_driver() as driver:
        uuids = [device.uuid for device in await driver.devices()]
        machine.add_fault(MEMORY, V100_UUID, hang=0)
        with trio.fail_after(2):
            probes = await driver.probe(uuids)
        assert [uuid for uuid, fault in probes.items() if fault is not None] == [V100_UUID]
        assert isinstance(probes[V100_UUID], Fault)
        machine.clear_faults()
        with trio.fail_after(2):
            while (await driver.probe([V100_UUID]))[V100_UUID] is not None:
                await trio.sleep(0.01)
