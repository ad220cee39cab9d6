"""The adapter against a real GPU: what it finds, reads, and sees of a program that takes memory."""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import pytest
import trio

from mortalgpu.driver.base import GpuDriver
from mortalgpu.driver.nvml import NvmlSettings, nvml_driver
from mortalgpu.model.device import Device, Fault, Memory
from tests.contract.driver_rigs import reason_without_gpu
from tests.gpu.taker import taking

pytestmark = pytest.mark.gpu

TAKEN_BYTES = 256 * 1024**2


@pytest.fixture(autouse=True, scope="module")
def _a_gpu_is_here() -> None:
    if reason := reason_without_gpu():
        pytest.skip(reason)


@pytest.fixture
async def driver() -> AsyncIterator[GpuDriver]:
    """Yield the machine's driver."""
    async with nvml_driver(NvmlSettings())() as opened:
        yield opened


@pytest.fixture
def memory_taker() -> Iterator[subprocess.Popen[str]]:
    """Yield a program that takes memory on the first GPU when it is started; it ends with the test."""
    taker = subprocess.Popen(
        [sys.executable, "-c", taking(TAKEN_BYTES)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield taker
    taker.kill()
    taker.communicate()


async def shareable(driver: GpuDriver) -> list[Device]:
    return [device for device in await driver.devices() if not device.mig_mode]


async def test_every_device_is_described_in_full(driver: GpuDriver) -> None:
    for device in await driver.devices():
        assert device.uuid.startswith("MIG-" if device.mig else "GPU-")
        assert device.minor is not None
        assert device.pci_bus_id.count(":") == 2
        assert device.memory_bytes > 1024**3


async def test_every_device_answers_every_question(driver: GpuDriver) -> None:
    uuids = [device.uuid for device in await shareable(driver)]
    for answers in (await driver.memory(uuids), await driver.utilization(uuids), await driver.processes(uuids)):
        assert not [answer for answer in answers.values() if isinstance(answer, Fault)]
    assert set((await driver.probe(uuids)).values()) == {None}


async def test_memory_that_a_program_takes_is_seen_and_so_is_the_program(
    driver: GpuDriver, memory_taker: subprocess.Popen[str]
) -> None:
    first = (await shareable(driver))[0].uuid
    before = (await driver.memory([first]))[first]
    listed_before = (await driver.processes([first]))[first]
    with trio.fail_after(60):
        assert await trio.to_thread.run_sync(memory_taker.stdout.readline) == "taken\n"  # type: ignore[union-attr]
    after = (await driver.memory([first]))[first]
    listed = (await driver.processes([first]))[first]
    assert isinstance(before, Memory)
    assert isinstance(after, Memory)
    assert after.used_bytes - before.used_bytes >= TAKEN_BYTES
    assert not isinstance(listed_before, Fault)
    assert not isinstance(listed, Fault)
    known = {process.pid for process in listed_before}
    new = [process for process in listed if process.pid not in known]
    if not new:
        pytest.skip("the driver lists no processes here (a container that hides them)")
    # Its pid is the host's, which differs from ours in a pid namespace: the figure tells it from others.
    assert any(process.used_bytes is None or process.used_bytes >= TAKEN_BYTES for process in new)


async def test_the_quick_look_is_quick(driver: GpuDriver) -> None:
    uuids = [device.uuid for device in await shareable(driver)]
    await driver.memory(uuids)
    began = trio.current_time()
    for _ in range(50):
        await driver.memory(uuids)
    assert (trio.current_time() - began) / 50 < 0.02
