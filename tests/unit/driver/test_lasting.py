"""A driver that is lost and comes back, as those who use it see it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from mortalgpu.driver.base import GpuDriver, OpenDriver
from mortalgpu.driver.lasting import keep_open
from mortalgpu.errors import DriverError, DriverLost, DriverTimeout
from mortalgpu.model.device import HealthEvent
from mortalgpu.simulation.driver import SimulatedDriver, v100_uuid, worked_example
from tests.standin.nvml import StateFile

V100_UUID = v100_uuid(0)


async def back_again(driver: GpuDriver, seconds: float = 5) -> None:
    with trio.fail_after(seconds):
        while True:
            try:
                await driver.devices()
                return
            except DriverLost:
                await trio.sleep(0.01)


async def test_a_driver_that_cannot_be_opened_at_first_is_the_callers_to_hear() -> None:
    twin = SimulatedDriver(worked_example())
    twin.unload()
    with pytest.raises(DriverError, match="not loaded"):
        await keep_open(twin.open)


async def test_a_lost_driver_raises_at_once_with_the_last_reason_until_it_is_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    twin = SimulatedDriver(worked_example())
    async with trio.open_nursery() as nursery:
        driver: GpuDriver = await nursery.start(keep_open, twin.open)
        twin.unload()
        with pytest.raises(DriverLost, match="the simulated driver is gone"):
            await driver.memory([V100_UUID])
        await trio.sleep(3.5)
        began = trio.current_time()
        with pytest.raises(DriverLost, match="the simulated driver is not loaded"):
            await driver.probe([V100_UUID])
        assert trio.current_time() == began
        twin.reload()
        await trio.sleep(1)
        assert await driver.probe([V100_UUID]) == {V100_UUID: None}
        nursery.cancel_scope.cancel()


async def test_a_driver_is_lost_and_opened_anew_again_and_again(autojump_clock: trio.testing.MockClock) -> None:
    twin = SimulatedDriver(worked_example())
    async with trio.open_nursery() as nursery:
        driver: GpuDriver = await nursery.start(keep_open, twin.open)
        for _ in range(3):
            twin.reload()
            with pytest.raises(DriverLost):
                await driver.utilization([V100_UUID])
            await back_again(driver)
        nursery.cancel_scope.cancel()


async def test_errors_that_leave_the_driver_open_pass_through(autojump_clock: trio.testing.MockClock) -> None:
    twin = SimulatedDriver(worked_example())
    opened = 0

    @asynccontextmanager
    async def counted() -> AsyncIterator[GpuDriver]:
        nonlocal opened
        opened += 1
        async with twin.open() as driver:
            yield driver

    async with trio.open_nursery() as nursery:
        driver: GpuDriver = await nursery.start(keep_open, counted)
        twin.hang("processes")
        with pytest.raises(DriverTimeout):
            await driver.processes([V100_UUID])
        twin.fail("info", DriverError("unknown"))
        with pytest.raises(DriverError, match="unknown"):
            await driver.info()
        assert len(await driver.devices()) == len(worked_example())
        nursery.cancel_scope.cancel()
    assert opened == 1


async def test_who_waits_for_events_hears_of_the_loss_and_of_events_afterwards(autojump_clock: trio.testing.MockClock) -> None:
    twin = SimulatedDriver(worked_example())
    async with trio.open_nursery() as nursery:
        driver: GpuDriver = await nursery.start(keep_open, twin.open)
        nursery.start_soon(_reload_soon, twin)
        with pytest.raises(DriverLost):
            await driver.health_event()
        await back_again(driver)
        twin.push_event(HealthEvent("xid", V100_UUID, 79))
        assert await driver.health_event() == HealthEvent("xid", V100_UUID, 79)
        nursery.cancel_scope.cancel()


async def _reload_soon(twin: SimulatedDriver) -> None:
    await trio.sleep(0.1)
    twin.reload()


async def test_nvml_is_shut_down_and_initialised_anew_after_a_reload(open_driver: OpenDriver, machine: StateFile) -> None:
    async with trio.open_nursery() as nursery:
        driver: GpuDriver = await nursery.start(_keep_open_briskly, open_driver)
        for _ in range(2):
            machine.reload_driver()
            with pytest.raises(DriverLost):
                await driver.devices()
            await back_again(driver)
        nursery.cancel_scope.cancel()


async def test_opening_a_hung_driver_anew_does_not_pile_up_threads(open_driver: OpenDriver, machine: StateFile) -> None:
    async with trio.open_nursery() as nursery:
        driver: GpuDriver = await nursery.start(_keep_open_briskly, open_driver)
        machine.add_fault("nvmlDeviceGetMemoryInfo_v2", hang=0)
        timeouts = 0
        with trio.move_on_after(2.5):
            while True:
                try:
                    await driver.memory([v100_uuid(timeouts)])
                except DriverTimeout:
                    timeouts += 1
                except DriverLost:
                    await trio.sleep(0.01)
        assert timeouts == 2
        machine.clear_faults()
        await back_again(driver)
        nursery.cancel_scope.cancel()


async def _keep_open_briskly(open_driver: OpenDriver, *, task_status: trio.TaskStatus[GpuDriver]) -> None:
    await keep_open(open_driver, pause_seconds=0.05, task_status=task_status)
