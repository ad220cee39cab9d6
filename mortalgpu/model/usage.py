"""Who uses what on this node at one moment: the frozen result of one full process scan.

The scanner is the only writer; the enforcer, the device API and the exporters read. `None` always means unknown, never
zero. What is wrong with a scan (a device that gave no reading, a neighbour that did not answer) is a part of the value, so
that a reader never has to ask anybody else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mortalgpu.model.device import Memory, Utilization
from mortalgpu.model.pod import ContainerRef
from mortalgpu.model.share import SharedDevice

SCAN_BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds of the scan duration's histogram; one more bucket above the last takes the rest."""


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """One process of a container on one device. A process that works on two devices appears once under each.

    `pid` and `start_ticks` together name the process until the next boot. `user`, `command` and `pid_inside` are for
    people only: chosen by the tenant, and filled in when they are known, which may be some scans after the first.
    """

    pid: int
    start_ticks: int
    container: ContainerRef
    uuid: str
    used_bytes: int | None
    gpu_percent: int | None = None
    user: str = ""
    command: str = ""
    pid_inside: int | None = None


@dataclass(frozen=True, slots=True)
class DeviceClaim:
    """What one container holds and uses of one device.

    `shares` and `requested_bytes` (what these shares are worth) are zero on a device that the container was not given.
    `limit_bytes` is `requested_bytes`, or more with the overcommit annotation, or zero on a device that it was certainly
    not given, or None when it is not known for certain: nobody may be judged by it then.
    """

    uuid: str
    resource: str
    shares: int
    requested_bytes: int
    limit_bytes: int | None
    processes: tuple[ProcessUsage, ...] = ()
    meta_devices: tuple[str, ...] = ()
    """The ids of its shares there, sorted by number."""
    readable: bool = True
    """False when the driver gave no list of the device's processes: then nobody knows what is used there."""

    @property
    def known_bytes(self) -> int:
        """Sum over the processes whose memory the driver tells: the container holds at least this much."""
        return sum(process.used_bytes for process in self.processes if process.used_bytes is not None)

    @property
    def used_bytes(self) -> int | None:
        """Sum over all its processes there: zero without any, None when the memory of one of them is unknown."""
        if not self.readable or any(process.used_bytes is None for process in self.processes):
            return None
        return self.known_bytes

    @property
    def gpu_percent(self) -> int | None:
        """Per cent of the device its processes kept busy; zero without any, None when the driver tells of none of them."""
        known = [process.gpu_percent for process in self.processes if process.gpu_percent is not None]
        return sum(known) if known or not self.processes else None

    @property
    def over_limit(self) -> bool:
        """Whether it certainly uses more than it may: a known limit, exceeded by known memory alone."""
        return self.limit_bytes is not None and self.known_bytes > self.limit_bytes


@dataclass(frozen=True, slots=True)
class ContainerUsage:
    """One container that holds shares of ours, or whose pod does while it uses a device of ours.

    `container_id` and `pod_uid` are empty while nobody has told them: a container that holds shares and is not known by any
    process or pod view still has its entry. Order of `devices`: as in the inventory.
    """

    pod_namespace: str
    pod_name: str
    container_name: str
    pod_uid: str = ""
    container_id: str = ""
    devices: tuple[DeviceClaim, ...] = ()

    @property
    def resources(self) -> tuple[str, ...]:
        """The resources it holds shares of, each once."""
        return tuple(dict.fromkeys(claim.resource for claim in self.devices if claim.shares))

    @property
    def processes(self) -> tuple[ProcessUsage, ...]:
        """All its processes, device by device."""
        return tuple(process for claim in self.devices for process in claim.processes)

    def claim_on(self, uuid: str) -> DeviceClaim | None:
        """Return what it holds or uses of that device, or None."""
        return next((claim for claim in self.devices if claim.uuid == uuid), None)


@dataclass(frozen=True, slots=True)
class DeviceUsage:
    """One shared device as a whole. `fault` says why a figure is missing, and is empty when nothing is wrong."""

    shared: SharedDevice
    memory: Memory | None = None
    utilization: Utilization | None = None
    process_count: int = 0
    """Every process on it, whoever it belongs to."""
    stranger_count: int = 0
    """Those among them that belong to no container in `Usage.containers`: never touched."""
    shares_taken: int | None = None
    """Shares that containers hold, as kubelet says; None when kubelet has not told yet."""
    fault: str = ""

    @property
    def uuid(self) -> str:
        """The device's UUID."""
        return self.shared.uuid


@dataclass(frozen=True, slots=True)
class ScanCounts:
    """What the scanner did since it was started; every figure only grows."""

    looks: int = 0
    scans: int = 0
    overruns: int = 0
    """Scans that took longer than the quick look's period."""
    scan_seconds: float = 0.0
    """Time spent in full scans."""
    scan_buckets: tuple[int, ...] = (0,) * (len(SCAN_BUCKETS_SECONDS) + 1)
    """How many scans fell into each bucket of SCAN_BUCKETS_SECONDS; not cumulative."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Failed readings by whom they were asked: `driver`, `host`, `kubelet`."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Everything one full scan found. Order of devices: as in the inventory; of containers: namespace, pod, container."""

    sequence: int = 0
    """1 for the first scan; 0 means that there was none yet."""
    at: float = 0.0
    """Wall-clock seconds since the epoch at which the scan began."""
    looked_at: float = 0.0
    """Monotonic seconds at which the look was taken that caused this scan: reactions are measured from there."""
    books_at: float | None = None
    """Monotonic seconds at which the reading of kubelet's books began that says who holds what; None without one."""
    devices: tuple[DeviceUsage, ...] = ()
    containers: tuple[ContainerUsage, ...] = ()
    troubles: tuple[str, ...] = ()
    """One line for each neighbour that does not answer at present; empty when all is well."""
    counts: ScanCounts = field(default_factory=ScanCounts)

    def device(self, uuid: str) -> DeviceUsage | None:
        """Return one device's entry, or None."""
        return next((found for found in self.devices if found.uuid == uuid), None)

    def container(self, container_id: str) -> ContainerUsage | None:
        """Return the container with this runtime id, or None. An empty id matches nothing."""
        if not container_id:
            return None
        return next((found for found in self.containers if found.container_id == container_id), None)

    def processes_of(self, pid: int) -> tuple[ProcessUsage, ...]:
        """Return this host pid's entries, one for each device it works on; empty when it is none of our containers'."""
        return tuple(process for holder in self.containers for process in holder.processes if process.pid == pid)


NO_USAGE = Usage()
"""What is known before the first scan."""
