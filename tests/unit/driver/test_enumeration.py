"""What is found when the driver answers only in part."""

from dataclasses import replace
from pathlib import Path

import pytest

from mortalgpu.driver.base import OpenDriver
from mortalgpu.driver.enumeration import profile_in, sysfs_name
from mortalgpu.errors import DriverError, DriverLost
from mortalgpu.model.device import Device
from mortalgpu.simulation.driver import A100_UUID, V100, partition_uuid, v100_uuid, worked_example
from tests.standin.nvml import Gpu, State, StateFile

NOT_SUPPORTED, NO_PERMISSION, UNINITIALIZED, GPU_IS_LOST, UNKNOWN = 3, 4, 1, 15, 999
V100_UUID = v100_uuid(0)


async def found(open_driver: OpenDriver) -> dict[str, Device]:
    async with open_driver() as driver:
        return {device.uuid: device for device in await driver.devices()}


@pytest.mark.parametrize("error", [NO_PERMISSION, GPU_IS_LOST, UNKNOWN])
@pytest.mark.parametrize(
    "call",
    [
        "nvmlDeviceGetHandleByIndex_v2",
        "nvmlDeviceGetUUID",
        "nvmlDeviceGetName",
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetMigMode",
    ],
)
async def test_a_gpu_that_does_not_answer_an_essential_question_is_left_out_alone(
    open_driver: OpenDriver, machine: StateFile, call: str, error: int
) -> None:
    machine.add_fault(call, V100_UUID, error=error)
    assert set(await found(open_driver)) == {device.uuid for device in worked_example()} - {V100_UUID}


@pytest.mark.parametrize(
    ("call", "field", "unknown"),
    [
        ("nvmlDeviceGetMinorNumber", "minor", None),
        ("nvmlDeviceGetPciInfo_v3", "pci_bus_id", ""),
        ("nvmlDeviceGetNumaNodeId", "numa_node", None),
    ],
)
@pytest.mark.parametrize("error", [NOT_SUPPORTED, UNKNOWN])
async def test_a_question_that_stays_unanswered_leaves_its_field_unknown(
    open_driver: OpenDriver, machine: StateFile, call: str, field: str, unknown: object, error: int
) -> None:
    machine.add_fault(call, V100_UUID, error=error)
    device = (await found(open_driver))[V100_UUID]
    assert getattr(device, field) == unknown
    assert (device.model, device.memory_bytes) == (V100, 32 * 1024**3)


async def test_a_gpu_whose_driver_does_not_know_mig_is_whole(open_driver: OpenDriver, machine: StateFile) -> None:
    machine.set_gpu(V100_UUID, mig=-1)
    assert not (await found(open_driver))[V100_UUID].mig_mode


@pytest.mark.parametrize(
    "call",
    [
        "nvmlDeviceGetMigDeviceHandleByIndex",
        "nvmlDeviceGetGpuInstanceId",
        "nvmlDeviceGetComputeInstanceId",
        "nvmlDeviceGetUUID",
        "nvmlDeviceGetMemoryInfo_v2",
    ],
)
async def test_a_partition_that_does_not_answer_is_left_out_alone(
    open_driver: OpenDriver, machine: StateFile, call: str
) -> None:
    machine.add_fault(call, partition_uuid(3), error=UNKNOWN)
    assert set(await found(open_driver)) == {device.uuid for device in worked_example()} - {partition_uuid(3)}


async def test_a_partition_without_a_name_has_no_profile(open_driver: OpenDriver, machine: StateFile) -> None:
    machine.add_fault("nvmlDeviceGetName", partition_uuid(3), error=NOT_SUPPORTED)
    mig = (await found(open_driver))[partition_uuid(3)].mig
    assert mig is not None
    assert (mig.gi_id, mig.profile) == (3, "")


async def test_slots_with_holes_and_compute_instances_are_ordered_by_instance(
    open_driver: OpenDriver, machine: StateFile
) -> None:
    parts = machine.state.partitions
    shuffled = [replace(part, slot=slot) for part, slot in zip(parts, (6, 4, 2, 0), strict=True)]
    shuffled.append(replace(parts[0], uuid="MIG-second-compute-instance", slot=1, ci=1))
    machine.write(replace(machine.state, partitions=tuple(shuffled)))
    placements = [device.mig for device in (await found(open_driver)).values() if device.mig]
    assert [(mig.gi_id, mig.ci_id) for mig in placements] == [(2, 0), (2, 1), (3, 0), (9, 0), (10, 0)]


async def test_a_gpu_in_mig_mode_without_partitions_is_found_and_marked(open_driver: OpenDriver, machine: StateFile) -> None:
    machine.write(replace(machine.state, partitions=()))
    assert (await found(open_driver))[A100_UUID].mig_mode


async def test_a_machine_without_gpus_has_no_devices(open_driver: OpenDriver, machine: StateFile) -> None:
    machine.write(State())
    assert await found(open_driver) == {}


async def test_gpus_that_cannot_be_counted_are_an_error_that_names_the_action(
    open_driver: OpenDriver, machine: StateFile
) -> None:
    machine.add_fault("nvmlDeviceGetCount_v2", error=UNKNOWN)
    async with open_driver() as driver:
        with pytest.raises(DriverError, match=r"enumerating devices: unknown \(NVML error 999\)"):
            await driver.devices()


@pytest.mark.parametrize("call", ["nvmlDeviceGetUUID", "nvmlDeviceGetMigMode", "nvmlDeviceGetGpuInstanceId"])
async def test_a_driver_that_leaves_during_enumeration_is_lost(open_driver: OpenDriver, machine: StateFile, call: str) -> None:
    machine.add_fault(call, error=UNINITIALIZED)
    async with open_driver() as driver:
        with pytest.raises(DriverLost, match="uninitialized"):
            await driver.devices()


@pytest.mark.parametrize(("written", "numa_node"), [("1\n", 1), ("0\n", 0), ("-1\n", None), ("?\n", 7)])
async def test_the_kernel_tells_the_numa_node_before_nvml_does(
    open_driver: OpenDriver, machine: StateFile, tmp_path: Path, written: str, numa_node: int | None
) -> None:
    machine.write(State(gpus=(Gpu("GPU-x", "x", 1 << 30, bus="00000000:AF:00.0", numa=7),)))
    folder = tmp_path / "sys/bus/pci/devices/0000:af:00.0"
    folder.mkdir(parents=True)
    (folder / "numa_node").write_text(written, encoding="ascii")
    assert (await found(open_driver))["GPU-x"].numa_node == numa_node


@pytest.mark.parametrize(
    ("nvml", "kernel"), [("00000000:3B:00.0", "0000:3b:00.0"), ("00010000:01:00.0", "10000:01:00.0"), ("", "")]
)
def test_a_bus_id_is_written_as_sysfs_does(nvml: str, kernel: str) -> None:
    assert sysfs_name(nvml) == kernel


@pytest.mark.parametrize(
    ("name", "profile"),
    [("NVIDIA A100 80GB PCIe MIG 3g.40gb", "3g.40gb"), ("NVIDIA H100 MIG 1c.2g.20gb+me", "1c.2g.20gb+me"), ("Tesla V100", "")],
)
def test_the_profile_is_what_follows_mig_in_the_name(name: str, profile: str) -> None:
    assert profile_in(name) == profile


PARTITIONS = {device.uuid for device in worked_example() if device.mig}


@pytest.mark.parametrize("error", [NOT_SUPPORTED, NO_PERMISSION, GPU_IS_LOST, UNKNOWN])
@pytest.mark.parametrize(
    "call",
    [
        "nvmlDeviceGetMaxMigDeviceCount",
        "nvmlDeviceGetMigDeviceHandleByIndex",
        "nvmlDeviceGetGpuInstanceId",
        "nvmlDeviceGetComputeInstanceId",
    ],
)
async def test_a_partition_that_was_known_is_there_until_the_driver_says_otherwise(
    open_driver: OpenDriver, machine: StateFile, call: str, error: int
) -> None:
    async with open_driver() as driver:
        before = await driver.devices()
        machine.add_fault(call, error=error)
        for _ in range(3):
            assert await driver.devices() == before
        assert set(await driver.probe(sorted(PARTITIONS))) == PARTITIONS
        machine.clear_faults()
        gone = min(PARTITIONS)
        machine.remove(gone)
        assert {device.uuid for device in before} - {device.uuid for device in await driver.devices()} == {gone}


async def test_a_doubtful_slot_hides_no_partition_that_took_the_place_of_another(
    open_driver: OpenDriver, machine: StateFile
) -> None:
    (one, *_) = sorted(PARTITIONS)
    async with open_driver() as driver:
        before = {device.uuid for device in await driver.devices()}
        parts = tuple(replace(part, uuid="MIG-new") if part.uuid == one else part for part in machine.state.partitions)
        machine.write(replace(machine.state, partitions=parts))
        machine.add_fault("nvmlDeviceGetGpuInstanceId", sorted(PARTITIONS)[1], error=UNKNOWN)
        assert {device.uuid for device in await driver.devices()} == before - {one} | {"MIG-new"}


@pytest.mark.parametrize("error", [NOT_SUPPORTED, UNKNOWN])
async def test_a_gpu_that_was_cut_is_never_offered_whole_on_a_missing_answer(
    open_driver: OpenDriver, machine: StateFile, error: int
) -> None:
    async with open_driver() as driver:
        await driver.devices()
        machine.add_fault("nvmlDeviceGetMigMode", A100_UUID, error=error)
        for _ in range(3):
            assert {device.gpu_uuid for device in await driver.devices()} == {v100_uuid(0), v100_uuid(1)}
