"""From what is known to the messages of device.v1. Pure; decides nothing about who may see what.

Rules:
1. Memory is in MiB on this wire: sizes and limits rounded down, uses rounded up.
2. What is unknown is absent, never zero. A figure of the driver's that cannot be (less than nothing, more than all of the time)
   is unknown: it must not cost a caller the rest of the answer.
3. A container that holds several resources is one GpuContainer a resource, as clients of MetaGPU expect.
"""

from collections.abc import Iterable
from typing import TypeGuard

from mortalgpu import __version__
from mortalgpu.deviceapi.views import Sight
from mortalgpu.model.device import Memory, Utilization
from mortalgpu.model.kill import Enforcement, KillRecord
from mortalgpu.model.share import Inventory, SharedDevice
from mortalgpu.model.usage import ContainerUsage, DeviceClaim, DeviceUsage, ProcessUsage, Usage
from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb
from mortalgpu.units import mib_ceil, mib_floor

SHOWN_OUTCOMES = ("killed", "still_there", "dry_run")
"""Only what happened to a process is news for its owner."""
MOST_KILLS = 10
"""So many are told of each container, the newest ones."""
MOST_BYTES = 2**64 - 1
WHOLE = 100
"""Per cent."""


class WireFacts:
    """What is known at one moment, and how it reads on the wire."""

    def __init__(self, node: str, inventory: Inventory, usage: Usage, enforcement: Enforcement) -> None:
        self._node = node
        self._inventory = inventory
        self._usage = usage
        self._enforcement = enforcement
        self._shared = inventory.by_uuid()
        self._node_response: pb.GetGpuContainersResponse | None = None

    @property
    def usage(self) -> Usage:
        """The scan that this is about."""
        return self._usage

    def containers(self, sight: Sight) -> list[pb.GpuContainer]:
        """Return the containers in sight."""
        return [
            self._container(holder, resource, claims)
            for holder in sight.containers
            for resource, claims in _by_resource(holder).items()
        ]

    def devices(self, sight: Sight) -> dict[str, pb.Device]:
        """Return the devices in sight, by UUID."""
        return {uuid: self._device(uuid) for uuid in self._shared if sight.sees_device(uuid)}

    def other_kills(self, sight: Sight) -> list[pb.Kill]:
        """Return the kills in sight whose containers are not listed any more."""
        listed = {(holder.pod_uid, holder.container_name) for holder in sight.containers}
        uids = {holder.pod_uid for holder in sight.containers} - {""}
        found = (
            record
            for record in self._enforcement.history
            if (sight.sees_node or record.pod_uid in uids) and (record.pod_uid, record.container_name) not in listed
        )
        return _kills(found)

    def response(self, sight: Sight) -> pb.GetGpuContainersResponse:
        """Return the answer to GetGpuContainers. The node's is made once, however many watch it."""
        if not sight.sees_node:
            return self._response(sight)
        if self._node_response is None:
            self._node_response = self._response(sight)
        return self._node_response

    def _response(self, sight: Sight) -> pb.GetGpuContainersResponse:
        return pb.GetGpuContainersResponse(
            visibility_level=sight.level,
            gpu_containers=self.containers(sight),
            kills=self.other_kills(sight),
            server_version=__version__,
            troubles=self._usage.troubles if sight.sees_node else (),
        )

    def _container(self, holder: ContainerUsage, resource: str, claims: list[DeviceClaim]) -> pb.GpuContainer:
        return pb.GpuContainer(
            container_id=holder.container_id,
            container_name=holder.container_name,
            pod_id=holder.pod_name,
            pod_namespace=holder.pod_namespace,
            metagpu_requests=sum(claim.shares for claim in claims),
            metagpu_limits=sum(self._limit_shares(claim) for claim in claims),
            resource_name=resource,
            node_name=self._node,
            device_processes=[_process(process) for claim in claims for process in claim.processes],
            container_devices=[self._claim(claim) for claim in claims],
            kills=self._kills_of(holder, {claim.uuid for claim in claims}),
        )

    def _kills_of(self, holder: ContainerUsage, uuids: set[str]) -> list[pb.Kill]:
        """Kills in this container and in those it replaced within its pod: a killed container is often started again."""
        if not holder.pod_uid:
            return []
        key = (holder.pod_uid, holder.container_name)
        history = self._enforcement.history
        return _kills(record for record in history if (record.pod_uid, record.container_name) == key and record.uuid in uuids)

    def _limit_shares(self, claim: DeviceClaim) -> int:
        """How many shares the limit is worth: the inverse of SharedDevice.limit_bytes."""
        shared = self._shared.get(claim.uuid)
        if shared is None or claim.limit_bytes is None:
            return claim.shares
        return -(-claim.limit_bytes * shared.shares // shared.device.memory_bytes)

    def _claim(self, claim: DeviceClaim) -> pb.ContainerDevice:
        message = pb.ContainerDevice(
            device=self._device(claim.uuid),
            allocated_shares=claim.shares,
            memory_request=mib_floor(claim.requested_bytes),
        )
        if claim.limit_bytes is not None:
            message.memory_limit = mib_floor(claim.limit_bytes)
        if _can_be(claim.used_bytes):
            message.memory_used = mib_ceil(claim.used_bytes)
        return message

    def _device(self, uuid: str) -> pb.Device:
        shared, found = self._shared.get(uuid), self._usage.device(uuid)
        if shared is None:
            return pb.Device(uuid=uuid, node_name=self._node)
        message = _sizes(shared, self._node)
        health = self._inventory.health_of(uuid)
        message.health = "Healthy" if health.healthy else "Unhealthy"
        message.health_reason = health.reason
        if found is not None:
            _fill_in_use(message, found)
        return message


def _sizes(shared: SharedDevice, node: str) -> pb.Device:
    """What does not change from scan to scan."""
    device = shared.device
    message = pb.Device(
        uuid=device.uuid,
        index=device.index,
        shares=shared.shares,
        memory_total=mib_floor(device.memory_bytes),
        memory_share_size=mib_floor(shared.share_bytes),
        resource_name=shared.resource,
        node_name=node,
        model=device.model,
        reserved_shares=shared.reserved,
    )
    if device.mig is not None:
        message.parent_uuid = device.mig.parent_uuid
        message.mig_gpu_instance = device.mig.gi_id
    return message


def _fill_in_use(message: pb.Device, found: DeviceUsage) -> None:
    memory: Memory | None = found.memory
    utilization: Utilization | None = found.utilization
    if memory is not None and _can_be(memory.used_bytes):
        message.memory_used = mib_ceil(memory.used_bytes)
    if memory is not None and _can_be(memory.free_bytes):
        message.memory_free = mib_floor(memory.free_bytes)
    if utilization is not None and _can_be(utilization.gpu_percent, WHOLE):
        message.gpu_utilization = utilization.gpu_percent
    if utilization is not None and _can_be(utilization.memory_percent, WHOLE):
        message.memory_utilization = utilization.memory_percent
    if found.shares_taken is not None:
        message.allocated_shares = found.shares_taken
    message.health_reason = message.health_reason or found.fault


def _by_resource(holder: ContainerUsage) -> dict[str, list[DeviceClaim]]:
    groups: dict[str, list[DeviceClaim]] = {}
    for claim in holder.devices:
        groups.setdefault(claim.resource, []).append(claim)
    return groups


def _process(process: ProcessUsage) -> pb.DeviceProcess:
    message = pb.DeviceProcess(
        uuid=process.uuid,
        pid=process.pid,
        cmdline=process.command,
        user=process.user,
        container_id=process.container.container_id,
        container_pid=process.pid_inside or 0,
    )
    if _can_be(process.used_bytes):
        message.memory = mib_ceil(process.used_bytes)
    if _can_be(process.gpu_percent, WHOLE):
        message.gpu_utilization = process.gpu_percent
    return message


def _can_be(figure: int | None, most: int = MOST_BYTES) -> TypeGuard[int]:
    """Whether a figure is known, and one that can be."""
    return figure is not None and 0 <= figure <= most


def _kills(records: Iterable[KillRecord]) -> list[pb.Kill]:
    shown = [record for record in records if record.outcome in SHOWN_OUTCOMES]
    return [_kill(record) for record in shown[-MOST_KILLS:]]


def _kill(record: KillRecord) -> pb.Kill:
    return pb.Kill(
        time=int(record.at),
        pid=record.pid,
        container_pid=record.pid_inside or 0,
        cmdline=record.command,
        uuid=record.uuid,
        memory_used=mib_ceil(record.used_bytes),
        memory_limit=mib_floor(record.limit_bytes),
        reason=record.message,
        pod_id=record.pod_name,
        pod_namespace=record.pod_namespace,
        container_name=record.container_name,
        outcome=record.outcome,
    )
