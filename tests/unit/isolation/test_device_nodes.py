"""Which device nodes a container needs: those that exist, and the capabilities of its partition only."""

from dataclasses import replace
from pathlib import Path

import pytest

from mortalgpu.isolation.devicenodes import device_nodes
from mortalgpu.model.device import Device
from mortalgpu.simulation.driver import worked_example

GPU, PARTITION = worked_example(1)[0], worked_example(1)[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with two GPUs, of which the second is in MIG mode."""
    caps = tmp_path / "proc/driver/nvidia/capabilities/gpu1/mig"
    for number, instance in enumerate((2, 3)):
        (caps / f"gi{instance}/ci0").mkdir(parents=True)
        (caps / f"gi{instance}/access").write_text(f"DeviceFileMinor: {20 + number}\nDeviceFileMode: 444\n")
        (caps / f"gi{instance}/ci0/access").write_text(f"DeviceFileMinor: {30 + number}\nDeviceFileMode: 444\n")
    (tmp_path / "dev/nvidia-caps").mkdir(parents=True)
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", *(f"nvidia-caps/nvidia-cap{n}" for n in (20, 21, 30, 31))):
        (tmp_path / "dev" / name).touch()
    return tmp_path


def test_a_gpu_has_its_node_and_the_control_nodes_that_exist(root: Path) -> None:
    assert device_nodes(GPU, root) == ("/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm")


def test_a_partition_has_its_own_capabilities_too(root: Path) -> None:
    assert device_nodes(PARTITION, root) == (
        *("/dev/nvidia1", "/dev/nvidiactl", "/dev/nvidia-uvm"),
        *("/dev/nvidia-caps/nvidia-cap20", "/dev/nvidia-caps/nvidia-cap30"),
    )


def test_a_device_without_a_minor_number_has_the_control_nodes_only(root: Path) -> None:
    for device in (replace(GPU, minor=None), replace(PARTITION, minor=None)):
        assert device_nodes(device, root) == ("/dev/nvidiactl", "/dev/nvidia-uvm")


@pytest.mark.parametrize(
    "text", ["", "DeviceFileMinor: x", "DeviceFileMinor: -1", "DeviceFileMinor: 99", "DeviceFileMinor: ../../0"]
)
def test_a_capability_that_cannot_be_read_or_has_no_node_is_left_out(root: Path, text: str) -> None:
    (root / "proc/driver/nvidia/capabilities/gpu1/mig/gi2/access").write_text(text)
    assert "/dev/nvidia-caps/nvidia-cap30" in device_nodes(PARTITION, root)
    assert len(device_nodes(PARTITION, root)) == 4


@pytest.mark.parametrize("device", [GPU, PARTITION], ids=["gpu", "partition"])
def test_a_machine_without_any_has_none(tmp_path: Path, device: Device) -> None:
    assert device_nodes(device, tmp_path) == ()
