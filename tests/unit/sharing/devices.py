"""Devices for the tests of the policy: the worked example's node, and small ones by hand."""

from mortalgpu.model.device import Device, MigPlacement
from mortalgpu.model.share import SharedDevice
from mortalgpu.sharing.rules import ShareRule
from mortalgpu.units import MIB

V100 = "GPU-11111111-aaaa-4bbb-8ccc-000000000001"
A100 = "GPU-22222222-aaaa-4bbb-8ccc-000000000002"
V100_MODEL = "Tesla V100-PCIE-32GB"
A100_MODEL = "NVIDIA A100 80GB PCIe"


def gpu(uuid: str = V100, *, index: int = 0, model: str = V100_MODEL, mib: int = 32768, mig_mode: bool = False) -> Device:
    """A physical GPU."""
    return Device(uuid=uuid, index=index, model=model, memory_bytes=mib * MIB, mig_mode=mig_mode)


def partition(gi_id: int, mib: int, *, parent: str = A100, index: int = 1, model: str = A100_MODEL) -> Device:
    """A MIG partition; its UUID ends in its GPU-instance id."""
    uuid = f"MIG-33333333-aaaa-4bbb-8ccc-{gi_id:012d}"
    return Device(uuid=uuid, index=index, model=model, memory_bytes=mib * MIB, mig=MigPlacement(parent, gi_id, 0))


def worked_example() -> tuple[Device, ...]:
    """One V100, and one A100 in MIG mode cut into four partitions."""
    parent = gpu(A100, index=1, model=A100_MODEL, mib=81920, mig_mode=True)
    return (gpu(), parent, partition(2, 40192), partition(3, 19968), partition(9, 9728), partition(10, 9728))


WORKED_RULES = (
    ShareRule("mortalgpu/a100-shared", 400, models=(V100_MODEL,), field="config.deviceSharing[0]"),
    ShareRule("mortalgpu/a100-shared", 400, models=(A100_MODEL,), gi_ids=(2,), field="config.deviceSharing[1]"),
    ShareRule("mortalgpu/a100-20g", 200, models=(A100_MODEL,), gi_ids=(3,), field="config.deviceSharing[2]"),
    ShareRule("mortalgpu/a100-10g", 100, models=(A100_MODEL,), gi_ids=(9, 10), field="config.deviceSharing[3]"),
)


def shared(name: str, shares: int, *, reserved: int = 0, mib: int = 1000, resource: str = "example.com/gpu") -> SharedDevice:
    """A shared device with a short UUID."""
    return SharedDevice(gpu(name, mib=mib), resource, shares, reserved)
