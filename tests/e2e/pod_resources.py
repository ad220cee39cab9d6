"""A client of kubelet's PodResources API, by grpcio, so that nothing of ours stands between the test and kubelet."""

from dataclasses import dataclass
from pathlib import Path

import grpc

from mortalgpu.rpc.pb.podresources.v1 import podresources_pb2 as pb

SERVICE = "/v1.PodResourcesLister/"
MESSAGE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Held:
    """The ids of one resource that one container of a pod holds."""

    pod: str
    container: str
    resource: str
    ids: frozenset[str]


def allocatable(socket: Path) -> dict[str, frozenset[str]]:
    """Return the healthy ids of each resource, taken or not. Raises grpc.RpcError (above 100 calls a second too)."""
    with _channel(socket) as channel:
        call = channel.unary_unary(
            SERVICE + "GetAllocatableResources",
            request_serializer=pb.AllocatableResourcesRequest.SerializeToString,
            response_deserializer=pb.AllocatableResourcesResponse.FromString,
        )
        return _by_resource(call(pb.AllocatableResourcesRequest(), timeout=10, wait_for_ready=True).devices)


def held(socket: Path) -> list[Held]:
    """Return what every container holds; containers with nothing are left out. Raises as `allocatable` does."""
    with _channel(socket) as channel:
        call = channel.unary_unary(
            SERVICE + "List",
            request_serializer=pb.ListPodResourcesRequest.SerializeToString,
            response_deserializer=pb.ListPodResourcesResponse.FromString,
        )
        answer = call(pb.ListPodResourcesRequest(), timeout=10, wait_for_ready=True)
    return [
        Held(pod.name, container.name, resource, ids)
        for pod in answer.pod_resources
        for container in pod.containers
        for resource, ids in _by_resource(container.devices).items()
    ]


def _channel(socket: Path) -> grpc.Channel:
    return grpc.insecure_channel(f"unix:{socket}", options=[("grpc.max_receive_message_length", MESSAGE_BYTES)])


def _by_resource(devices: list[pb.ContainerDevices]) -> dict[str, frozenset[str]]:
    ids: dict[str, set[str]] = {}
    for device in devices:
        ids.setdefault(device.resource_name, set()).update(device.device_ids)
    return {resource: frozenset(found) for resource, found in ids.items()}
