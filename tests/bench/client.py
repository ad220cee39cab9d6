"""kubelet's calls to a device plugin, made by grpcio. Blocks: run it in a thread."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import grpc

from mortalgpu.rpc.pb.deviceplugin.v1beta1 import deviceplugin_pb2 as pb


class PluginClient(AbstractContextManager["PluginClient"]):
    """A connection of its own to a plugin's socket."""

    def __init__(self, socket: Path) -> None:
        options = [("grpc.max_receive_message_length", 2**24), ("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.insecure_channel(f"unix:{socket}", options=options)
        grpc.channel_ready_future(self._channel).result(timeout=10)

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def first_list(self) -> pb.ListAndWatchResponse:
        """Begin ListAndWatch, return the first list, and leave."""
        call = self._channel.unary_stream(
            "/v1beta1.DevicePlugin/ListAndWatch", pb.Empty.SerializeToString, pb.ListAndWatchResponse.FromString
        )(pb.Empty())
        answer: pb.ListAndWatchResponse = next(call)
        call.cancel()
        return answer

    def prefer(self, available: list[str], size: int) -> list[str]:
        """Ask for a preference."""
        wanted = pb.ContainerPreferredAllocationRequest(available_deviceIDs=available, allocation_size=size)
        request = pb.PreferredAllocationRequest(container_requests=[wanted])
        answer = self.call("/v1beta1.DevicePlugin/GetPreferredAllocation", request, pb.PreferredAllocationResponse)
        return list(answer.container_responses[0].deviceIDs)

    def allocate(self, ids: list[str]) -> pb.ContainerAllocateResponse:
        """Allocate."""
        request = pb.AllocateRequest(container_requests=[pb.ContainerAllocateRequest(devices_ids=ids)])
        answer: pb.ContainerAllocateResponse = self.call(
            "/v1beta1.DevicePlugin/Allocate", request, pb.AllocateResponse
        ).container_responses[0]
        return answer

    def call(self, method: str, request: Any, answer: Any) -> Any:
        """Make any unary call. Raises grpc.RpcError."""
        call = self._channel.unary_unary(method, lambda message: message.SerializeToString(), answer.FromString)
        return call(request, timeout=30)
