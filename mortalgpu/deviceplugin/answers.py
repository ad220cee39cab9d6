"""The messages that go to kubelet, built from our values: pure, and the only file that knows both.

1. A ListAndWatch answer is always the full list; what is left out is gone for kubelet.
2. Every share of a device carries the device's NUMA node; a device without one carries no topology at all.
3. kubelet takes exactly "Healthy" as healthy.
"""

from collections.abc import Sequence

from mortalgpu.model.grant import ContainerEdits
from mortalgpu.model.share import Inventory, SharedDevice
from mortalgpu.rpc.pb.deviceplugin.v1beta1 import deviceplugin_pb2 as pb
from mortalgpu.sharing.metaid import advertised_ids

HEALTHY_WORD = "Healthy"
UNHEALTHY_WORD = "Unhealthy"


def device_list(inventory: Inventory, resource: str) -> pb.ListAndWatchResponse:
    """Return the full list of a resource's meta-devices with their health."""
    answer = pb.ListAndWatchResponse()
    for shared in inventory.of_resource(resource):
        word = HEALTHY_WORD if inventory.health_of(shared.uuid).healthy else UNHEALTHY_WORD
        answer.devices.extend(_entries(shared, word))
    return answer


def _entries(shared: SharedDevice, word: str) -> list[pb.Device]:
    topology = _topology(shared.device.numa_node)
    return [pb.Device(ID=text, health=word, topology=topology) for text in advertised_ids(shared)]


def _topology(numa_node: int | None) -> pb.TopologyInfo | None:
    if numa_node is None or numa_node < 0:
        return None
    return pb.TopologyInfo(nodes=[pb.NUMANode(ID=numa_node)])


def allocate_response(edits: Sequence[ContainerEdits]) -> pb.AllocateResponse:
    """Return the answer to Allocate: one entry per container, in the order of the request."""
    return pb.AllocateResponse(container_responses=[_container_response(edit) for edit in edits])


def _container_response(edits: ContainerEdits) -> pb.ContainerAllocateResponse:
    return pb.ContainerAllocateResponse(
        envs=dict(edits.envs),
        mounts=[
            pb.Mount(container_path=mount.container_path, host_path=mount.host_path, read_only=mount.read_only)
            for mount in edits.mounts
        ],
        devices=[pb.DeviceSpec(container_path=node, host_path=node, permissions="rw") for node in edits.device_nodes],
    )


def preferred_response(choices: Sequence[Sequence[str]]) -> pb.PreferredAllocationResponse:
    """Return the answer to GetPreferredAllocation: one choice of ids per container, in the order of the request."""
    return pb.PreferredAllocationResponse(
        container_responses=[pb.ContainerPreferredAllocationResponse(deviceIDs=list(choice)) for choice in choices]
    )
