"""A node's facts as its services would have published them: the worked example with two notebooks, one of them too large."""

from collections import Counter
from dataclasses import dataclass, field

from mortalgpu.cluster.base import ClusterCounts, PodsView
from mortalgpu.exporter.service import Sources
from mortalgpu.latest import Latest
from mortalgpu.model.counts import DriverCounts, PluginCounts, Pulse, ReloadCounts
from mortalgpu.model.device import Device, Health, Memory, Utilization
from mortalgpu.model.kill import Enforcement, KillTarget
from mortalgpu.model.pod import ContainerRef
from mortalgpu.model.share import Inventory, LayoutNotice, SharedDevice
from mortalgpu.model.usage import ContainerUsage, DeviceClaim, DeviceUsage, ProcessUsage, ScanCounts, Usage
from mortalgpu.simulation.driver import A100_UUID, partition_uuid, v100_uuid, worked_example
from mortalgpu.units import from_mib

SHARED, SMALL = "mortalgpu/a100-shared", "mortalgpu/a100-10g"
V100_ID, PARTITION_ID = v100_uuid(0), partition_uuid(9)
NOW, MONOTONIC = 1_790_000_000.0, 5000.0


class StoppedClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.wall, self.ticks = NOW, MONOTONIC

    def now(self) -> float:
        """Wall clock."""
        return self.wall

    def monotonic(self) -> float:
        """The other one."""
        return self.ticks


def _device(uuid: str) -> Device:
    return next(device for device in worked_example(1) if device.uuid == uuid)


def shared_devices() -> tuple[SharedDevice, ...]:
    """A V100 in 400 shares, 40 of them reserved, and a partition of the A100 in 100."""
    return (SharedDevice(_device(V100_ID), SHARED, 400, 40), SharedDevice(_device(PARTITION_ID), SMALL, 100))


def inventory() -> Inventory:
    """The V100 is well; the partition is sick, since its GPU is, and its configured layout waits."""
    return Inventory(
        shared_devices(),
        health={V100_ID: Health(True), PARTITION_ID: Health(False, "its GPU: XID 79", NOW - 30)},
        notices=(LayoutNotice(PARTITION_ID, SMALL, 100, 50, 25),),
    )


def claim(
    uuid: str,
    *processes: ProcessUsage,
    shares: int = 40,
    share_bytes: int = from_mib(80),
    resource: str = SHARED,
    limit_bytes: int | None = None,
    readable: bool = True,
) -> DeviceClaim:
    """A container's claim; the limit is the request unless said otherwise."""
    requested = shares * share_bytes
    ids = tuple(f"{uuid}::{number}" for number in range(shares))
    return DeviceClaim(uuid, resource, shares, requested, limit_bytes or requested, processes, ids, readable)


def running(
    number: int, mib: int | None, uuid: str = V100_ID, command: str = "python train.py", user: str = "u"
) -> ProcessUsage:
    """A process of container `number`, by pid 100 × number."""
    ref = ContainerRef(f"uid-{number}", f"{number:064x}")
    used = None if mib is None else from_mib(mib)
    return ProcessUsage(100 * number, 7, ref, uuid, used, gpu_percent=30, user=user, command=command)


def holder(number: int, *claims: DeviceClaim, pod: str = "") -> ContainerUsage:
    """Container `number`."""
    return ContainerUsage("ns", pod or f"jupyter-{number}", "notebook", f"uid-{number}", f"{number:064x}", claims)


def usage(*containers: ContainerUsage) -> Usage:
    """A scan of one second ago: the V100 read in full, the partition not at all."""
    good, bad = shared_devices()
    counts = ScanCounts(1000, 20, 1, 0.25, (*(0,) * 3, 18, 2, *(0,) * 8), {"kubelet": 2})
    return Usage(
        sequence=20,
        at=NOW - 1,
        looked_at=MONOTONIC - 1,
        devices=(
            DeviceUsage(good, Memory(from_mib(32768), from_mib(5000), from_mib(27768)), Utilization(61, 12), 3, 1, 80),
            DeviceUsage(bad, fault="GPU is lost"),
        ),
        containers=containers
        or (
            holder(1, claim(V100_ID, running(1, 1000))),
            holder(2, claim(V100_ID, running(2, 4000, command='sh -c "a\\b"\nc'))),
            holder(3, claim(PARTITION_ID, shares=25, share_bytes=from_mib(97), resource=SMALL, readable=False)),
        ),
        troubles=("kubelet does not answer",),
        counts=counts,
    )


def plugins() -> dict[str, PluginCounts]:
    """Both resources registered; one refused a request."""
    first = PluginCounts(registrations=2, failed_registrations=1, allocations=7, registered=True)
    first.refusals["would_split"] = 1
    for seconds in (0.0004, 0.002, 0.002):
        first.allocate.observe(seconds)
    first.preferred.observe(0.001)
    return {SHARED: first, SMALL: PluginCounts(registrations=1, registered=True)}


def enforcement() -> Enforcement:
    """Two kills of one container, and one of a container that is gone."""
    buckets = (0, 0, 1, 2, *(0,) * 8)
    kills = {
        KillTarget("ns", "jupyter-2", "notebook", V100_ID, SHARED): 2,
        KillTarget("ns", "gone", "notebook", V100_ID, SHARED): 1,
    }
    return Enforcement((), {"killed": 3, "withdrawn": 1}, kills, 0.09, buckets)


@dataclass
class Facts:
    """Everything a page is made from, in cells that a test may publish to."""

    clock: StoppedClock = field(default_factory=StoppedClock)
    inventory: Latest[Inventory] = field(default_factory=lambda: Latest(inventory()))
    usage: Latest[Usage] = field(default_factory=lambda: Latest(usage()))
    enforcement: Latest[Enforcement] = field(default_factory=lambda: Latest(enforcement()))
    plugins: dict[str, PluginCounts] = field(default_factory=plugins)
    driver: DriverCounts = field(default_factory=DriverCounts)
    reloads: ReloadCounts = field(default_factory=lambda: ReloadCounts(taken_at=NOW - 100))
    pulse: Pulse = field(default_factory=lambda: Pulse(MONOTONIC - 0.1))

    def sources(self) -> Sources:
        """Return them as the exporters take them."""
        self.driver.errors["timeout"] = 3
        return Sources(
            node="node-1",
            inventory=self.inventory,
            usage=self.usage,
            enforcement=self.enforcement,
            pods=Latest(PodsView(synced=True, as_of=NOW, source="kubernetes")),
            plugins=self.plugins,
            restarts={"pod watch": 1},
            driver=self.driver,
            events=Counter({(A100_UUID, "xid", 79): 1, (V100_ID, "ecc_single", 0): 3}),
            reloads=self.reloads,
            calls=Counter({"OK": 12, "UNAUTHENTICATED": 2}),
            pulse=self.pulse,
            cluster_counts=lambda: ClusterCounts(5, 1, 3, 0, 2),
            clock=self.clock,
        )


__all__ = ["A100_UUID", "MONOTONIC", "NOW", "PARTITION_ID", "SHARED", "SMALL", "V100_ID", "Facts"]
