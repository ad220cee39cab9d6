"""The committed wire modules are what the generator makes of proto/, and the numbers on the wire are the standard ones."""

import os
import subprocess
import sys
from pathlib import Path

from mortalgpu.rpc.pb.device.v1 import device_pb2
from mortalgpu.rpc.pb.deviceplugin.v1beta1 import deviceplugin_pb2

ROOT = Path(__file__).parents[3]


def _contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*.py*") if "__pycache__" not in p.parts}


def test_committed_modules_are_what_the_generator_makes(tmp_path: Path) -> None:
    made = tmp_path / "pb"
    subprocess.run([ROOT / "packaging/proto.sh", made], check=True, env={**os.environ, "PYTHON": sys.executable})
    assert _contents(made) == _contents(ROOT / "mortalgpu/rpc/pb"), "run `just proto` and commit what it writes"


def test_metagpu_field_numbers_are_kept() -> None:
    assert {f.name: f.number for f in device_pb2.DeviceProcess.DESCRIPTOR.fields if f.number <= 10} == {
        "uuid": 1,
        "pid": 2,
        "memory": 3,
        "cmdline": 4,
        "user": 5,
        "container_id": 6,
        "gpu_utilization": 10,
    }
    assert [f.number for f in device_pb2.GpuContainer.DESCRIPTOR.fields] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12]
    assert device_pb2.DESCRIPTOR.services_by_name["DeviceService"].full_name == "device.v1.DeviceService"


def test_an_unknown_measurement_is_absent_and_not_zero() -> None:
    silent = device_pb2.DeviceProcess(uuid="GPU-1", pid=7)
    assert not silent.HasField("memory")
    assert device_pb2.DeviceProcess.FromString(device_pb2.DeviceProcess(memory=0).SerializeToString()).HasField("memory")


def test_an_allocate_answer_has_kubelets_bytes() -> None:
    answer = deviceplugin_pb2.ContainerAllocateResponse(
        envs={"A": "b"},
        devices=[deviceplugin_pb2.DeviceSpec(container_path="/c", host_path="/h", permissions="rw")],
        cdi_devices=[deviceplugin_pb2.CDIDevice(name="n")],
    )
    assert (
        answer.SerializeToString()
        == b"\x0a\x06\x0a\x01A\x12\x01b" + b"\x1a\x0c\x0a\x02/c\x12\x02/h\x1a\x02rw" + b"\x2a\x03\x0a\x01n"
    )
