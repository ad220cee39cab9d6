"""A node for the tests of the device API: two GPUs, four pods in two namespaces, and their names.

team-a/train   containers main (GPU-a 0-3) and helper (GPU-b 0-1)
team-b/train   container main (GPU-a 4-5): the same pod name in another namespace
team-b/infer   container main (GPU-b 2-3)
team-b/young   container main (GPU-b 4): kubelet knows it, nobody has seen it run yet
"""

from collections.abc import Mapping
from dataclasses import replace

from mortalgpu.model.device import Device, Health, Memory, Utilization
from mortalgpu.model.kill import Enforcement, KillRecord
from mortalgpu.model.pod import ContainerRef
from mortalgpu.model.share import Inventory, SharedDevice
from mortalgpu.model.usage import ContainerUsage, DeviceClaim, DeviceUsage, ProcessUsage, Usage
from mortalgpu.simulation.host import SimulatedHost, Temper
from mortalgpu.units import MIB

GPU_A, GPU_B = "GPU-aaaaaaaa-0000-4000-8000-00000000000a", "GPU-bbbbbbbb-0000-4000-8000-00000000000b"
RESOURCE = "mortalgpu/v100"
SHARE_MIB = 100


def cid(number: int) -> str:
    """A container id."""
    return f"{number:064x}"


def uid(number: int) -> str:
    """A pod UID."""
    return f"00000000-0000-4000-8000-{number:012x}"


TRAIN_MAIN = ContainerRef(uid(1), cid(11))
TRAIN_HELPER = ContainerRef(uid(1), cid(12))
OTHER_TRAIN = ContainerRef(uid(2), cid(21))
INFER = ContainerRef(uid(3), cid(31))

TRAIN_PID, HELPER_PID, OTHER_TRAIN_PID, INFER_PID = 1001, 1002, 2001, 3001

SHARED = {
    GPU_A: SharedDevice(Device(GPU_A, 0, "Tesla V100-PCIE-32GB", 10 * SHARE_MIB * MIB), RESOURCE, 10),
    GPU_B: SharedDevice(Device(GPU_B, 1, "Tesla V100-PCIE-32GB", 10 * SHARE_MIB * MIB), RESOURCE, 10),
}
INVENTORY = Inventory(tuple(SHARED.values()), health={GPU_B: Health(False, "XID 79: fallen off the bus", 1_700_000_000.0)})


def ids(uuid: str, *numbers: int) -> tuple[str, ...]:
    """Ids of shares."""
    return tuple(f"{uuid}::{number}" for number in numbers)


def process(pid: int, ref: ContainerRef, uuid: str, mib: int | None, percent: int | None = 7) -> ProcessUsage:
    """A GPU process; its pid inside is its pid outside modulo 1000."""
    used = None if mib is None else mib * MIB
    return ProcessUsage(pid, pid * 10, ref, uuid, used, percent, "alice", f"python job-{pid}.py", pid % 1000)


def claim(uuid: str, numbers: tuple[int, ...], *processes: ProcessUsage, limit_shares: int | None = None) -> DeviceClaim:
    """What a container holds on a device."""
    limit = len(numbers) if limit_shares is None else limit_shares
    size = SHARE_MIB * MIB
    return DeviceClaim(
        uuid, RESOURCE, len(numbers), len(numbers) * size, limit * size, processes, meta_devices=ids(uuid, *numbers)
    )


def usage(**changes: object) -> Usage:
    """The node as one scan found it."""
    train = claim(GPU_A, (0, 1, 2, 3), process(TRAIN_PID, TRAIN_MAIN, GPU_A, 250), limit_shares=5)
    helper = claim(GPU_B, (0, 1), process(HELPER_PID, TRAIN_HELPER, GPU_B, 40, None))
    other = claim(GPU_A, (4, 5), process(OTHER_TRAIN_PID, OTHER_TRAIN, GPU_A, 230))
    infer = claim(GPU_B, (2, 3), process(INFER_PID, INFER, GPU_B, None))
    found = Usage(
        sequence=1,
        at=1_700_000_000.0,
        devices=(
            DeviceUsage(SHARED[GPU_A], Memory(1000 * MIB, 480 * MIB, 520 * MIB), Utilization(35, 12), 2, 0, 6),
            DeviceUsage(SHARED[GPU_B], None, None, 2, 0, None, fault="driver: Unknown Error"),
        ),
        containers=(
            ContainerUsage("team-a", "train", "helper", TRAIN_HELPER.pod_uid, TRAIN_HELPER.container_id, (helper,)),
            ContainerUsage("team-a", "train", "main", TRAIN_MAIN.pod_uid, TRAIN_MAIN.container_id, (train,)),
            ContainerUsage("team-b", "infer", "main", INFER.pod_uid, INFER.container_id, (infer,)),
            ContainerUsage("team-b", "train", "main", OTHER_TRAIN.pod_uid, OTHER_TRAIN.container_id, (other,)),
            ContainerUsage("team-b", "young", "main", devices=(claim(GPU_B, (4,)),)),
        ),
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def started(usage: Usage, host: SimulatedHost, tempers: Mapping[str, Temper]) -> Usage:
    """Start each process of a usage on a host (tempers by `pid<number>`), and return the usage with the true start times."""
    begun = {
        found.pid: host.start(found.container, pid=found.pid, temper=tempers.get(f"pid{found.pid}"))
        for holder in usage.containers
        for found in holder.processes
    }

    def true(found: ProcessUsage) -> ProcessUsage:
        return replace(found, start_ticks=begun[found.pid].start_ticks)

    holders = []
    for holder in usage.containers:
        claims = (replace(claim, processes=tuple(map(true, claim.processes))) for claim in holder.devices)
        holders.append(replace(holder, devices=tuple(claims)))
    return replace(usage, containers=tuple(holders))


def kill(
    ref: ContainerRef, number: int = 1, *, name: str = "train", outcome: str = "killed", at: float = 1_699_999_990.0
) -> KillRecord:
    """A process of `main` that the enforcer has ended."""
    return KillRecord(
        number=number, at=at, pod_namespace="team-a", pod_name=name, pod_uid=ref.pod_uid, container_name="main",
        container_id=ref.container_id, uuid=GPU_A, resource=RESOURCE, pid=999, used_bytes=510 * MIB,
        limit_bytes=500 * MIB, process_bytes=300 * MIB, outcome=outcome, message="The container used 510 MiB of 500 MiB.",
        reaction_seconds=0.1, pid_inside=99, user="alice", command="python big.py",
    )  # fmt: skip


def enforcement(*records: KillRecord) -> Enforcement:
    """What the enforcer has published."""
    return Enforcement(history=records)
