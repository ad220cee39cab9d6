"""The node as it really is: the twins, who was granted what, and what may be done to whom. The daemon never sees this file.

A signal is held against the truth at the moment it is sent; so is every grant at the moment it is made.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from mortalgpu.host.base import HostProcess
from mortalgpu.kubelet.checkpoint import FILE_NAME as CHECKPOINT
from mortalgpu.model.device import GpuProcess
from mortalgpu.model.pod import Container, ContainerRef, Pod
from mortalgpu.sharing.metaid import parse_id
from mortalgpu.simulation.cluster import SimulatedCluster
from mortalgpu.simulation.driver import A100, V100, SimulatedDriver, worked_example
from mortalgpu.simulation.host import RecordingServiceManager, SentSignal, SimulatedClock, SimulatedHost, Temper
from mortalgpu.simulation.kubelet import AdmissionRefused, SimulatedKubelet
from mortalgpu.units import MIB
from tests.faults.ports import Point

GPUS, PARTS = "example.com/gpu", "example.com/part"
SHARES = 10
DEVICE_TOKEN = "an-operators-token-for-the-fault-campaign"
CONTAINER = "main"


@dataclass(slots=True)
class Tenant:
    """A running pod as it really is: its ids, and what they are worth on its one device."""

    pod: Pod
    ref: ContainerRef
    resource: str
    ids: tuple[str, ...]
    uuid: str
    limit_bytes: int
    shares_in_force: int


@dataclass
class World:
    """Make one inside of a trio run, in a folder of its own."""

    root: Path
    driver: SimulatedDriver = field(init=False)
    tenants: dict[str, Tenant] = field(default_factory=dict)
    used: dict[tuple[str, int], int] = field(default_factory=dict)
    """Bytes by device and pid."""
    wrong: list[str] = field(default_factory=list)
    """What must never happen, and did."""
    asked_for: set[int] = field(default_factory=set)
    """Processes that an operator asked to end."""
    shares: dict[str, int] = field(default_factory=lambda: {GPUS: SHARES, PARTS: SHARES})
    """The configured shares of a device, by resource."""
    culprit: int = 0
    """The process that is above its container's limit at present; 0: none."""
    ghosts: dict[tuple[str, int], int] = field(default_factory=dict)
    """Memory of the dead, by device and pid, which the driver goes on listing for a while."""
    said: dict[str, list[dict[int, int]]] = field(default_factory=dict)
    """What the driver said of processes when it lied: bytes by pid, by device."""
    victims: set[int] = field(default_factory=set)
    """Processes that had to be stopped, because the driver lied about them again when it was asked again."""
    misinformed: int = 0
    """Containers whose environment says what is not so, by a lie."""
    needs_reset: bool = False
    """A device is said to need a reset, by a lie: it gets one in the end."""
    numbers: int = 0

    def __post_init__(self) -> None:
        _, _, a100, *partitions = worked_example(2)
        self.devices = {device.uuid: device for device in (*worked_example(2)[:2], a100, *partitions[:2])}
        self.driver = SimulatedDriver(self.devices.values())
        self.host = SimulatedHost()
        self.host.on_signal.append(self._check_signal)
        self.host.on_exit.append(self._freed)
        self.clock = SimulatedClock()
        self.cluster = SimulatedCluster(self.clock.now)
        self.kubelet = SimulatedKubelet(self.root)
        self.manager = RecordingServiceManager()

    def configuration(self) -> dict[str, Any]:
        """The operator's file, as the node wants it now."""
        return {
            "deviceSharing": [
                {"resourceName": GPUS, "metagpusPerGpu": self.shares[GPUS], "modelName": [V100]},
                {"resourceName": PARTS, "metagpusPerGpu": self.shares[PARTS], "modelName": [A100]},
            ],
            "nodeName": "node-1",
            "stateDir": str(self.root / "state"),
            "mgctl": {"hostMount": {"enabled": False}},
            "kubelet": {"devicePluginDir": str(self.root / "device-plugins")},
            "podSource": "cri",
            "deviceApi": {"address": "127.0.0.1:0"},
            "grpcSecurity": {"jwtSecret": "a-secret-for-the-fault-campaign-only", "deviceToken": DEVICE_TOKEN},
            "exporter": {"address": "127.0.0.1:0", "daemonAddress": "127.0.0.1:0"},
            "health": {"quietSeconds": 0.3},
        }

    # What happens.

    async def admit(self, name: str, resource: str, shares: int) -> Tenant | None:
        """Try to start a pod; None when kubelet refuses it."""
        try:
            (admitted,) = await self.kubelet.admit(name, {CONTAINER: {resource: shares}})
        except AdmissionRefused:
            return None
        self.numbers += 1
        ref = ContainerRef(f"5eed0000-0000-4000-8000-{self.numbers:012d}", f"{self.numbers:064x}")
        pod = Pod(ref.pod_uid, name, "default", (Container(CONTAINER, ref.container_id),), api_uid=ref.pod_uid)
        uuids = {parse_id(text)[0] for text in admitted.meta_devices}
        if len(uuids) != 1:
            self.wrong.append(f"{name} was given shares of {sorted(uuids)}, and splitting is off")
        uuid = min(uuids)
        in_force = self.shares_in_force(uuid, resource)
        limit = self.devices[uuid].memory_bytes * len(admitted.meta_devices) // in_force
        tenant = Tenant(pod, ref, resource, admitted.meta_devices, uuid, limit, in_force)
        self._check_grant(tenant, admitted.edits.envs)
        self.tenants[name] = tenant
        self._write_checkpoint()
        self.cluster.put(pod)
        return tenant

    def shares_in_force(self, uuid: str, resource: str) -> int:
        """Into how many shares a device is cut: as its holders have it, else as configured."""
        held = [tenant.shares_in_force for tenant in self.tenants.values() if tenant.uuid == uuid]
        return held[0] if held else self.shares[resource]

    def end(self, name: str) -> None:
        """Delete a pod with its processes."""
        tenant = self.tenants[name]
        self.host.stop_container(tenant.ref)
        self.kubelet.delete(name)
        self.cluster.remove(tenant.ref.pod_uid)
        del self.tenants[name]
        self._write_checkpoint()

    def run(
        self, ref: ContainerRef | None, mib: int, uuid: str, *, pid: int | None = None, temper: Temper | None = None
    ) -> int:
        """Start a process that holds memory on a device; return its pid."""
        process = self.host.start(ref, pid=pid, temper=temper)
        self.hold(process.pid, mib, uuid)
        return process.pid

    def hold(self, pid: int, mib: int, uuid: str) -> None:
        """Set what a process holds."""
        self.used[uuid, pid] = mib * MIB
        self._tell(uuid)

    def inherit(self, pid: int, heir: ContainerRef | None) -> None:
        """End a process and give its number to another at once, while the driver goes on listing the memory of the dead."""
        self.ghosts |= {listing: held for listing, held in self.used.items() if listing[1] == pid}
        self.host.reuse(pid, heir)

    def lay_ghosts(self) -> None:
        """Let the driver forget the dead."""
        forgotten = {uuid for uuid, _ in self.ghosts}
        self.ghosts.clear()
        for uuid in forgotten:
            self._tell(uuid)

    def mib(self, tenant: Tenant, part: float) -> int:
        """A part of a tenant's limit."""
        return int(tenant.limit_bytes * part) // MIB

    # What is so.

    def alive(self, pid: int) -> bool:
        """Whether a process runs."""
        return self.host.running(pid)

    def expected(self, resource: str) -> int:
        """How many shares kubelet should be able to give out, of all devices of a resource."""
        uuids = [uuid for uuid, device in self.devices.items() if device.model == {GPUS: V100, PARTS: A100}[resource]]
        return sum(self.shares_in_force(uuid, resource) for uuid in uuids if not self.devices[uuid].mig_mode)

    def is_allocatable(self) -> bool:
        """Whether kubelet counts right: every share, and every one healthy."""
        return all(self.kubelet.capacity(name) == (self.expected(name), self.expected(name)) for name in (GPUS, PARTS))

    def count(self) -> str:
        """What kubelet counts, for people."""
        return ", ".join(f"{name}: {self.kubelet.capacity(name)} of {self.expected(name)}" for name in (GPUS, PARTS))

    def check_holdings(self) -> None:
        """Every id has one owner, is still listed, and means what it meant."""
        held = self.kubelet.held()
        for text, owners in held.items():
            if len(owners) != 1:
                self.wrong.append(f"{text} belongs to {owners}")
        for name, tenant in self.tenants.items():
            if any(held.get(text) != [name] for text in tenant.ids):
                self.wrong.append(f"kubelet does not know what {name} holds")
            if not set(tenant.ids) <= self.kubelet.healthy(tenant.resource):
                self.wrong.append(f"an id of {name} is not in the list any more")

    def hear_lie(self, point: Point, truth: Any, told: Any) -> None:
        """Take note of a lie whose consequences nobody could prevent."""
        if point.name == "GpuDriver.processes":
            for uuid, listed in told.items():
                if isinstance(listed, tuple):
                    self.said.setdefault(uuid, []).append({each.pid: each.used_bytes or 0 for each in listed})
        elif point.name == "Isolation.edits":
            self.misinformed += 1
        elif point.name == "GpuDriver.health_event":
            self.needs_reset = True

    # How it is held together.

    def _write_checkpoint(self) -> None:
        """Write kubelet's checkpoint, as kubelet does when it has allocated."""
        entries = [
            {
                "PodUID": tenant.ref.pod_uid,
                "ContainerName": CONTAINER,
                "ResourceName": tenant.resource,
                "DeviceIDs": {"-1": list(tenant.ids)},
                "AllocResp": "",
            }
            for tenant in self.tenants.values()
        ]
        text = json.dumps({"Data": {"PodDeviceEntries": entries, "RegisteredDevices": {}}, "Checksum": 0})
        (self.kubelet.device_plugin_dir / CHECKPOINT).write_text(text)

    def _check_grant(self, tenant: Tenant, envs: Any) -> None:
        told = envs.get("METAGPU_MAX_MEM", "nothing")
        if self.misinformed:
            self.misinformed -= 1
        elif told != str(tenant.limit_bytes // MIB):
            self.wrong.append(f"{tenant.pod.name} was told {told[:40]} MiB for {tenant.limit_bytes // MIB}")

    def _check_signal(self, signal: SentSignal) -> None:
        why = self._why_wrong(signal.process)
        if why:
            self.wrong.append(f"at {trio.current_time():.2f} s {signal.name} to pid {signal.process.pid}: {why}")

    def _why_wrong(self, process: HostProcess) -> str:
        tenant = next((found for found in self.tenants.values() if found.ref == process.container), None)
        if tenant is None:
            return "a stranger, or of a pod without shares"
        if process.pid in self.asked_for:
            return ""
        for uuid in {uuid for uuid, pid in self.used if pid == process.pid}:
            if self.held_bytes(tenant, uuid) > (tenant.limit_bytes if uuid == tenant.uuid else 0):
                return ""
        if self._is_said_to_exceed(tenant):
            self.victims.add(process.pid)
            return ""
        return f"{tenant.pod.name} is within its limit of {tenant.limit_bytes // MIB} MiB"

    def _is_said_to_exceed(self, tenant: Tenant) -> bool:
        """Whether the driver has said so twice: in a scan, and when it was asked once more."""
        mine = {process.pid for process in self.host.processes() if process.container == tenant.ref}
        for uuid, said in self.said.items():
            limit = tenant.limit_bytes if uuid == tenant.uuid else 0
            if sum(sum(each.get(pid, 0) for pid in mine) > limit for each in said) >= 2:
                return True
        return False

    def held_bytes(self, tenant: Tenant, uuid: str) -> int:
        """What all processes of a tenant hold on a device."""
        mine = {process.pid for process in self.host.processes() if process.container == tenant.ref}
        return sum(held for (where, pid), held in self.used.items() if where == uuid and pid in mine)

    def _freed(self, process: HostProcess) -> None:
        for uuid, pid in [listing for listing in self.used if listing[1] == process.pid]:
            del self.used[uuid, pid]
            self._tell(uuid)

    def _tell(self, uuid: str) -> None:
        listed = (GpuProcess(pid, held) for (where, pid), held in {**self.ghosts, **self.used}.items() if where == uuid)
        self.driver.set_processes(uuid, *listed)
