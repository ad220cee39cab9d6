"""Figures as the driver gives them, older drivers and unanswered questions included."""

from dataclasses import replace

import pytest

from mortalgpu.driver.base import OpenDriver
from mortalgpu.errors import DriverLost
from mortalgpu.model.device import Fault, GpuProcess, Memory, Utilization
from mortalgpu.simulation.driver import A100_UUID, partition_uuid, v100_uuid
from tests.standin.nvml import Process, StateFile

GIB = 1024**3
V100_UUID, OTHER_UUID = v100_uuid(0), v100_uuid(1)
NOT_SUPPORTED, NO_PERMISSION, INSUFFICIENT_SIZE, FUNCTION_NOT_FOUND, VERSION_MISMATCH = 3, 4, 7, 13, 25
GPU_IS_LOST, UNKNOWN = 15, 999
DRIVER_IS_GONE = (1, 9, 12, 18)
ALL_OTHER_ERRORS = [code for code in (*range(2, 31), 999) if code not in DRIVER_IS_GONE]
COMPUTE = "nvmlDeviceGetComputeRunningProcesses"
GRAPHICS = "nvmlDeviceGetGraphicsRunningProcesses"
MULTI = "nvmlDeviceGetMPSComputeRunningProcesses"


async def processes_on(open_driver: OpenDriver, uuid: str) -> tuple[GpuProcess, ...] | Fault:
    async with open_driver() as driver:
        return (await driver.processes([uuid]))[uuid]


def pids_and_bytes(listed: tuple[GpuProcess, ...] | Fault) -> list[tuple[int, int | None]]:
    assert not isinstance(listed, Fault), listed
    return [(process.pid, process.used_bytes) for process in listed]


async def test_what_the_driver_reserves_is_neither_used_nor_free(open_driver: OpenDriver, machine: StateFile) -> None:
    machine.set_gpu(V100_UUID, reserved=GIB, used=2 * GIB)
    async with open_driver() as driver:
        assert await driver.memory([V100_UUID]) == {V100_UUID: Memory(32 * GIB, 2 * GIB, 29 * GIB)}


async def test_a_free_figure_that_cannot_be_is_no_memory(open_driver: OpenDriver, machine: StateFile) -> None:
    machine.set_gpu(V100_UUID, used=33 * GIB)  # The stand-in's figure of what is free goes below zero then, which is huge.
    async with open_driver() as driver:
        assert await driver.memory([V100_UUID]) == {V100_UUID: Memory(32 * GIB, 33 * GIB, 0)}


@pytest.mark.parametrize("error", [NOT_SUPPORTED, FUNCTION_NOT_FOUND, VERSION_MISMATCH])
async def test_an_older_driver_is_asked_in_the_older_form(open_driver: OpenDriver, machine: StateFile, error: int) -> None:
    machine.set_gpu(V100_UUID, reserved=GIB, used=2 * GIB)
    machine.add_fault("nvmlDeviceGetMemoryInfo_v2", error=error)
    async with open_driver() as driver:
        assert await driver.memory([V100_UUID]) == {V100_UUID: Memory(32 * GIB, 3 * GIB, 29 * GIB)}


@pytest.mark.parametrize("error", ALL_OTHER_ERRORS)
async def test_any_error_of_one_device_is_a_fault_with_its_code_and_spares_the_others(
    open_driver: OpenDriver, machine: StateFile, error: int
) -> None:
    for call in ("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetMemoryInfo_v2"):
        machine.add_fault(call, V100_UUID, error=error)
    async with open_driver() as driver:
        answers = await driver.memory([V100_UUID, OTHER_UUID])
    fault = answers[V100_UUID]
    assert isinstance(fault, Fault)
    assert f"(NVML error {error})" in fault.text
    assert isinstance(answers[OTHER_UUID], Memory)


@pytest.mark.parametrize(("error", "lost"), [(15, True), (16, True), (6, True), (999, False), (3, False), (4, False)])
async def test_a_fault_says_whether_the_device_is_gone(
    open_driver: OpenDriver, machine: StateFile, error: int, lost: bool
) -> None:
    machine.add_fault("*", V100_UUID, error=error)
    async with open_driver() as driver:
        fault = (await driver.probe([V100_UUID]))[V100_UUID]
    assert fault is not None
    assert fault.lost is lost


@pytest.mark.parametrize("error", DRIVER_IS_GONE)
@pytest.mark.parametrize(
    ("verb", "call"),
    [
        ("memory", "nvmlDeviceGetMemoryInfo_v2"),
        ("probe", "nvmlDeviceGetMemoryInfo_v2"),
        ("utilization", "nvmlDeviceGetUtilizationRates"),
        ("processes", f"{COMPUTE}_v3"),
        ("processes", f"{GRAPHICS}_v3"),
        ("processes", f"{MULTI}_v3"),
        ("processes", "nvmlDeviceGetProcessUtilization"),
    ],
)
async def test_an_error_that_concerns_the_driver_is_raised_and_not_a_devices_fault(
    open_driver: OpenDriver, machine: StateFile, verb: str, call: str, error: int
) -> None:
    machine.set_processes(V100_UUID, Process(V100_UUID, 7, GIB))
    async with open_driver() as driver:
        machine.add_fault(call, V100_UUID, error=error)
        with pytest.raises(DriverLost, match=f"NVML error {error}"):
            await getattr(driver, verb)([OTHER_UUID, V100_UUID])


async def test_a_pid_with_two_kinds_of_context_counts_once_with_the_larger_figure(
    open_driver: OpenDriver, machine: StateFile
) -> None:
    machine.set_processes(V100_UUID, Process(V100_UUID, 7, 3 * GIB, "C"), Process(V100_UUID, 7, 2 * GIB, "G"))
    assert pids_and_bytes(await processes_on(open_driver, V100_UUID)) == [(7, 3 * GIB)]


async def test_a_known_figure_counts_where_the_other_list_has_none(open_driver: OpenDriver, machine: StateFile) -> None:
    machine.set_processes(V100_UUID, Process(V100_UUID, 7, None, "C"), Process(V100_UUID, 7, 2 * GIB, "G"))
    assert pids_and_bytes(await processes_on(open_driver, V100_UUID)) == [(7, 2 * GIB)]


async def test_memory_that_is_not_available_is_unknown_and_never_a_number(open_driver: OpenDriver, machine: StateFile) -> None:
    machine.set_processes(V100_UUID, Process(V100_UUID, 7, None, "CG"))
    assert pids_and_bytes(await processes_on(open_driver, V100_UUID)) == [(7, None)]


async def test_a_devices_memory_that_is_not_available_is_a_fault_and_never_a_number(
    open_driver: OpenDriver, machine: StateFile
) -> None:
    machine.set_used(V100_UUID, 2**64 - 1)
    async with open_driver() as driver:
        reading = (await driver.memory([V100_UUID]))[V100_UUID]
    assert isinstance(reading, Fault)
    assert not reading.lost


async def test_graphics_and_multi_process_service_clients_are_listed(open_driver: OpenDriver, machine: StateFile) -> None:
    machine.set_processes(V100_UUID, Process(V100_UUID, 1, GIB, "G"), Process(V100_UUID, 2, GIB, "M"))
    assert pids_and_bytes(await processes_on(open_driver, V100_UUID)) == [(1, GIB), (2, GIB)]


async def test_a_partition_lists_its_own_processes_and_the_gpu_the_sum_over_its_partitions(
    open_driver: OpenDriver, machine: StateFile
) -> None:
    for gi_id, size in ((2, 4 * GIB), (3, GIB)):
        machine.set_processes(partition_uuid(gi_id), Process(partition_uuid(gi_id), 7, size))
    assert pids_and_bytes(await processes_on(open_driver, partition_uuid(3))) == [(7, GIB)]
    assert pids_and_bytes(await processes_on(open_driver, A100_UUID)) == [(7, 5 * GIB)]


async def test_an_unknown_part_makes_the_sum_over_partitions_unknown(open_driver: OpenDriver, machine: StateFile) -> None:
    machine.set_processes(partition_uuid(2), Process(partition_uuid(2), 7, None))
    machine.set_processes(partition_uuid(3), Process(partition_uuid(3), 7, GIB))
    assert pids_and_bytes(await processes_on(open_driver, A100_UUID)) == [(7, None)]


@pytest.mark.parametrize("missing", [(f"{COMPUTE}_v3",), (f"{COMPUTE}_v3", f"{GRAPHICS}_v3", f"{MULTI}_v3")])
async def test_a_driver_without_the_newest_listing_is_asked_for_the_one_before(
    open_driver: OpenDriver, machine: StateFile, missing: tuple[str, ...]
) -> None:
    machine.set_processes(V100_UUID, Process(V100_UUID, 7, GIB))
    for call in missing:
        machine.add_fault(call, error=FUNCTION_NOT_FOUND)
    assert pids_and_bytes(await processes_on(open_driver, V100_UUID)) == [(7, GIB)]


async def test_one_kind_of_list_is_enough(open_driver: OpenDriver, machine: StateFile) -> None:
    machine.set_processes(V100_UUID, Process(V100_UUID, 7, GIB))
    for call in (f"{GRAPHICS}_v3", f"{GRAPHICS}_v2", f"{MULTI}_v3", f"{MULTI}_v2"):
        machine.add_fault(call, error=NOT_SUPPORTED)
    assert pids_and_bytes(await processes_on(open_driver, V100_UUID)) == [(7, GIB)]


async def test_a_driver_without_any_list_is_a_fault_and_not_an_empty_list(open_driver: OpenDriver, machine: StateFile) -> None:
    for kind in (COMPUTE, GRAPHICS, MULTI):
        for version in ("v2", "v3"):
            machine.add_fault(f"{kind}_{version}", error=NOT_SUPPORTED)
    assert await processes_on(open_driver, V100_UUID) == Fault("not supported (NVML error 3)")


async def test_a_list_that_keeps_outgrowing_its_buffer_is_a_fault(open_driver: OpenDriver, machine: StateFile) -> None:
    machine.set_processes(V100_UUID, Process(V100_UUID, 7, GIB))
    machine.add_fault(f"{GRAPHICS}_v3", error=INSUFFICIENT_SIZE)
    assert await processes_on(open_driver, V100_UUID) == Fault("insufficient size (NVML error 7)")


async def test_a_process_that_kept_the_device_busy_has_its_per_cent_and_the_others_none_of_it(
    open_driver: OpenDriver, machine: StateFile
) -> None:
    machine.set_processes(V100_UUID, Process(V100_UUID, 7, GIB, util=42), Process(V100_UUID, 8, GIB))
    assert await processes_on(open_driver, V100_UUID) == (GpuProcess(7, GIB, 42), GpuProcess(8, GIB, 0))


async def test_an_idle_process_had_no_part_of_the_device(open_driver: OpenDriver, machine: StateFile) -> None:
    machine.set_processes(V100_UUID, Process(V100_UUID, 8, GIB))
    assert await processes_on(open_driver, V100_UUID) == (GpuProcess(8, GIB, 0),)


@pytest.mark.parametrize("error", [NOT_SUPPORTED, FUNCTION_NOT_FOUND, NO_PERMISSION, INSUFFICIENT_SIZE, GPU_IS_LOST, UNKNOWN])
async def test_without_samples_a_process_has_no_per_cent(open_driver: OpenDriver, machine: StateFile, error: int) -> None:
    machine.set_processes(V100_UUID, Process(V100_UUID, 8, GIB, util=42))
    machine.add_fault("nvmlDeviceGetProcessUtilization", error=error)
    assert await processes_on(open_driver, V100_UUID) == (GpuProcess(8, GIB, None),)


async def test_a_sample_above_all_per_cent_is_unknown(open_driver: OpenDriver, machine: StateFile) -> None:
    machine.set_processes(V100_UUID, Process(V100_UUID, 8, GIB, util=4_000_000))
    assert await processes_on(open_driver, V100_UUID) == (GpuProcess(8, GIB, None),)


async def test_processes_of_a_partition_have_no_per_cent(open_driver: OpenDriver, machine: StateFile) -> None:
    uuid = partition_uuid(2)
    machine.set_processes(uuid, Process(uuid, 8, GIB, util=42))
    assert await processes_on(open_driver, uuid) == (GpuProcess(8, GIB, None),)


async def test_utilisation_is_what_the_driver_measured(open_driver: OpenDriver, machine: StateFile) -> None:
    machine.set_gpu(V100_UUID, util=63, memutil=21)
    async with open_driver() as driver:
        assert await driver.utilization([V100_UUID]) == {V100_UUID: Utilization(63, 21)}


async def test_a_list_of_hundreds_of_processes_is_complete(open_driver: OpenDriver, machine: StateFile) -> None:
    machine.set_processes(V100_UUID, *(Process(V100_UUID, pid, GIB // 1024) for pid in range(1, 501)))
    assert len(pids_and_bytes(await processes_on(open_driver, V100_UUID))) == 500


async def test_a_device_that_was_replaced_under_its_uuid_is_found_again(open_driver: OpenDriver, machine: StateFile) -> None:
    async with open_driver() as driver:
        await driver.devices()
        whole = machine.state
        machine.remove(V100_UUID)
        assert isinstance((await driver.memory([V100_UUID]))[V100_UUID], Fault)
        machine.write(replace(whole, gpus=tuple(reversed(whole.gpus))))
        assert isinstance((await driver.memory([V100_UUID]))[V100_UUID], Memory)
