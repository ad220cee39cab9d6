"""The twin of kubelet: a real gRPC peer on Unix sockets that registers plugins, admits pods, and misbehaves on command.

It does what was seen of the real device manager: it dials a plugin inside its Register call, keeps one ListAndWatch open,
asks for a preference before each allocation, completes a short preference at random, allocates with ids in random order,
frees nothing by itself, sweeps its directory at start and remembers allocations across restarts. The contract suite holds
the two to the same behaviour. What it adds for tests: it records registrations of one resource that overlap.
"""

import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from mortalgpu.errors import KubeletError
from mortalgpu.kubelet.registration import API_VERSION, SOCKET_NAME
from mortalgpu.model.grant import ContainerEdits, Mount
from mortalgpu.model.pod import Assignment
from mortalgpu.rpc.channel import Channel, open_channel
from mortalgpu.rpc.limits import KUBELET_LIMITS
from mortalgpu.rpc.listener import UnixListener
from mortalgpu.rpc.pb.deviceplugin.v1beta1 import deviceplugin_pb2 as pb
from mortalgpu.rpc.pb.podresources.v1 import podresources_pb2 as pr
from mortalgpu.rpc.server import Call, Refusal, Server, Service, unary
from mortalgpu.rpc.status import Code, RpcError

DIAL_SECONDS = 10.0
MAX_LIST_BYTES = 4194304
_METHOD = "/v1beta1.DevicePlugin/"


class AdmissionRefused(Exception):
    """A pod was refused; the text is what `kubectl describe pod` would show."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """What one container got."""

    resource: str
    meta_devices: tuple[str, ...]
    edits: ContainerEdits


@dataclass(slots=True)
class _Endpoint:
    """One registration: its connection, and the devices that it listed last (healthy or not, by id)."""

    resource: str
    channel: Channel
    scope: trio.CancelScope
    devices: dict[str, bool] = field(default_factory=dict)
    connected: bool = True


PodKey = tuple[str, str]
"""Namespace and name."""


class SimulatedKubelet:
    """A kubelet whose sockets lie below `root`, as the real one's below /var/lib/kubelet."""

    def __init__(self, root: Path, seed: int = 0) -> None:
        self.device_plugin_dir = root / "device-plugins"
        self.pod_resources_socket = root / "pod-resources" / "kubelet.sock"
        self.registrations: list[tuple[str, str]] = []
        """Every accepted Register, oldest first: resource and endpoint."""
        self.overlaps: list[str] = []
        """Resources that were registered while their registration before was still connected."""
        self.refusal = ""
        """When set, Register answers with this text instead of accepting."""
        self._random = random.Random(seed)
        self._endpoints: dict[str, _Endpoint] = {}
        self._held: dict[PodKey, dict[str, dict[str, Admitted]]] = {}
        self._restart = trio.Event()
        self._up = trio.Event()
        self._admission = trio.Lock()

    # Life.

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run, and start anew whenever `restart` is called, until cancelled."""
        while True:
            self._restart = trio.Event()
            async with trio.open_nursery() as nursery:
                await self._start(nursery)
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                await self._restart.wait()
                nursery.cancel_scope.cancel()
            self._endpoints.clear()

    async def restart(self) -> None:
        """Die and start anew: connections are cut, the directory is swept, allocations are remembered."""
        self._up = trio.Event()
        self._restart.set()
        await self._up.wait()

    async def _start(self, nursery: trio.Nursery) -> None:
        self.device_plugin_dir.mkdir(parents=True, exist_ok=True)
        self.pod_resources_socket.parent.mkdir(parents=True, exist_ok=True)
        for path in self.device_plugin_dir.iterdir():
            if not path.is_dir() and path.name != "kubelet_internal_checkpoint":
                path.unlink(missing_ok=True)
        self._nursery = nursery
        registration = Service("v1beta1.Registration", {"Register": unary(pb.RegisterRequest, self._register)})
        lister = Service("v1.PodResourcesLister", {"List": unary(pr.ListPodResourcesRequest, self._list)})
        for service, path in ((registration, self.device_plugin_dir / SOCKET_NAME), (lister, self.pod_resources_socket)):
            listener = await UnixListener.bind(path)
            await nursery.start(Server([service], KUBELET_LIMITS).serve, [listener])
        self._up.set()

    # Registration.

    async def _register(self, request: pb.RegisterRequest, _call: Call) -> pb.Empty:
        if self.refusal:
            raise Refusal(Code.UNKNOWN, self.refusal)
        if request.version != API_VERSION:
            raise Refusal(Code.UNKNOWN, f'requested API version "{request.version}" is not supported by kubelet')
        old = self._endpoints.get(request.resource_name)
        if old is not None and old.connected:
            self.overlaps.append(request.resource_name)
        endpoint = await self._dial(request)
        self._endpoints[request.resource_name] = endpoint
        self.registrations.append((request.resource_name, request.endpoint))
        return pb.Empty()

    async def _dial(self, request: pb.RegisterRequest) -> _Endpoint:
        """Connect to a plugin, ask for its options, and leave a task behind that listens to its list."""
        address = f"unix://{self.device_plugin_dir / request.endpoint}"
        try:
            with trio.fail_after(DIAL_SECONDS):
                endpoint: _Endpoint = await self._nursery.start(self._keep, request.resource_name, address)
        except (RpcError, trio.TooSlowError) as error:
            raise Refusal(Code.UNKNOWN, f"failed to dial device plugin: {error}") from None
        return endpoint

    async def _keep(
        self, resource: str, address: str, *, task_status: trio.TaskStatus[_Endpoint] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with trio.CancelScope() as scope:
            async with open_channel(address, max_message_bytes=MAX_LIST_BYTES) as channel:
                await channel.unary(
                    f"{_METHOD}GetDevicePluginOptions", pb.Empty(), pb.DevicePluginOptions, deadline_seconds=DIAL_SECONDS
                )
                endpoint = _Endpoint(resource, channel, scope)
                task_status.started(endpoint)
                try:
                    await self._listen(endpoint)
                except RpcError:
                    pass  # The plugin went, or its list was too long: kubelet says nothing to anybody.
                finally:
                    endpoint.connected = False
                    endpoint.devices = dict.fromkeys(endpoint.devices, False)

    async def _listen(self, endpoint: _Endpoint) -> None:
        async with endpoint.channel.stream(f"{_METHOD}ListAndWatch", pb.Empty(), pb.ListAndWatchResponse) as answers:
            async for answer in answers:
                endpoint.devices = {device.ID: device.health == "Healthy" for device in answer.devices}

    def drop(self, resource: str) -> None:
        """End a plugin's ListAndWatch without a word, as real kubelets do for reasons of their own."""
        self._endpoints[resource].scope.cancel()

    # Devices and pods.

    def capacity(self, resource: str) -> tuple[int, int]:
        """Return capacity and allocatable of a resource, as the node's status would show them."""
        endpoint = self._endpoints.get(resource)
        devices = endpoint.devices if endpoint else {}
        return len(devices), sum(devices.values())

    def healthy(self, resource: str) -> frozenset[str]:
        """Return the ids that are healthy at present."""
        endpoint = self._endpoints.get(resource)
        return frozenset(text for text, is_healthy in (endpoint.devices if endpoint else {}).items() if is_healthy)

    async def admit(self, name: str, containers: Mapping[str, Mapping[str, int]], namespace: str = "default") -> list[Admitted]:
        """Admit a pod: containers by name, each with the shares it asks for by resource. Serial, as kubelet's admission is.

        Raises AdmissionRefused, and then the pod holds nothing.
        """
        async with self._admission:
            held = self._held.setdefault((namespace, name), {})
            try:
                for container, requests in containers.items():
                    mine = held.setdefault(container, {})
                    for resource, size in requests.items():
                        mine[resource] = await self._allocate(resource, size)
            except AdmissionRefused:
                del self._held[namespace, name]
                raise
            return [admitted for resources in held.values() for admitted in resources.values()]

    def delete(self, name: str, namespace: str = "default") -> None:
        """Remove a pod and what it holds."""
        del self._held[namespace, name]

    def held(self) -> dict[str, list[str]]:
        """Return who holds which meta-device: pod names by id."""
        owners: dict[str, list[str]] = {}
        for (_, pod), containers in self._held.items():
            for resources in containers.values():
                for admitted in resources.values():
                    for text in admitted.meta_devices:
                        owners.setdefault(text, []).append(pod)
        return owners

    async def _allocate(self, resource: str, size: int) -> Admitted:
        endpoint = self._endpoints.get(resource)
        if endpoint is None:
            raise AdmissionRefused(f"cannot allocate unregistered device {resource}")
        healthy = self.healthy(resource)
        if not healthy:
            raise AdmissionRefused(f"no healthy devices present; cannot allocate unhealthy devices {resource}")
        taken = self.held()
        free = sorted(text for text in healthy if text not in taken)
        if len(free) < size:
            raise AdmissionRefused(
                f"requested number of devices unavailable for {resource}. Requested: {size}, Available: {len(free)}"
            )
        try:
            return await self._call_plugin(endpoint, size, free)
        except RpcError as error:
            code = "".join(word.capitalize() for word in error.code.name.split("_"))
            raise AdmissionRefused(
                f"Allocate failed due to rpc error: code = {code} desc = {error.details}, which is unexpected"
            ) from None

    async def _call_plugin(self, endpoint: _Endpoint, size: int, free: Sequence[str]) -> Admitted:
        asked = pb.PreferredAllocationRequest(
            container_requests=[pb.ContainerPreferredAllocationRequest(available_deviceIDs=free, allocation_size=size)]
        )
        answer = await endpoint.channel.unary(
            f"{_METHOD}GetPreferredAllocation", asked, pb.PreferredAllocationResponse, deadline_seconds=60
        )
        preferred = [text for text in answer.container_responses[0].deviceIDs if text in free][:size]
        rest = [text for text in free if text not in preferred]
        chosen = preferred + self._random.sample(rest, size - len(preferred))
        self._random.shuffle(chosen)
        request = pb.AllocateRequest(container_requests=[pb.ContainerAllocateRequest(devices_ids=chosen)])
        response = await endpoint.channel.unary(f"{_METHOD}Allocate", request, pb.AllocateResponse, deadline_seconds=60)
        return Admitted(endpoint.resource, tuple(sorted(chosen)), _edits(response.container_responses[0]))

    async def _list(self, _request: pr.ListPodResourcesRequest, _call: Call) -> pr.ListPodResourcesResponse:
        pods = [
            pr.PodResources(
                name=name,
                namespace=namespace,
                containers=[
                    pr.ContainerResources(
                        name=container,
                        devices=[
                            pr.ContainerDevices(resource_name=resource, device_ids=[text])
                            for resource, admitted in resources.items()
                            for text in admitted.meta_devices
                        ],
                    )
                    for container, resources in containers.items()
                ],
            )
            for (namespace, name), containers in self._held.items()
        ]
        return pr.ListPodResourcesResponse(pod_resources=pods)

    async def assignments(self) -> tuple[Assignment, ...]:
        """Return what `List` would say, without a socket. See kubelet.base.Assignments; raises KubeletError while down."""
        if not self._up.is_set():
            raise KubeletError("the twin kubelet is down")
        await trio.lowlevel.checkpoint()
        return tuple(
            Assignment(name, namespace, container, {resource: got.meta_devices for resource, got in resources.items()})
            for (namespace, name), containers in self._held.items()
            for container, resources in containers.items()
        )


def _edits(response: pb.ContainerAllocateResponse) -> ContainerEdits:
    mounts = tuple(Mount(mount.host_path, mount.container_path, mount.read_only) for mount in response.mounts)
    return ContainerEdits(dict(response.envs), mounts, tuple(node.host_path for node in response.devices))


@asynccontextmanager
async def running(kubelet: SimulatedKubelet) -> AsyncIterator[SimulatedKubelet]:
    """Run a twin for the length of a block."""
    async with trio.open_nursery() as nursery:
        await nursery.start(kubelet.serve)
        yield kubelet
        nursery.cancel_scope.cancel()
