"""A small device plugin on grpcio, which misbehaves on command: the harness's partner, and proof that its checks can fail."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import grpc

from mortalgpu.rpc.pb.deviceplugin.v1beta1 import deviceplugin_pb2 as pb


class Plugin:
    """A plugin that serves `ids` as one resource on `socket_dir`/`name`.sock."""

    def __init__(self, socket_dir: Path, name: str, resource: str, ids: list[str]) -> None:
        """Bind and serve; `register` makes it known."""
        self.socket_dir = socket_dir
        self.endpoint = f"{name}.sock"
        self.resource = resource
        self.devices = [pb.Device(ID=id_, health="Healthy") for id_ in ids]
        self.refusal = ""
        """Text of the error that Allocate answers with; empty: it grants."""
        self.hold = threading.Event()
        """Allocate waits for it; set from the start."""
        self.hold.set()
        self._ended = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(8))
        self._server.add_generic_rpc_handlers((self._handlers(),))
        self._server.add_insecure_port(f"unix:{socket_dir / self.endpoint}")
        self._server.start()

    def register(self) -> None:
        """Register with kubelet. Raises grpc.RpcError."""
        with grpc.insecure_channel(f"unix:{self.socket_dir / 'kubelet.sock'}") as channel:
            call = channel.unary_unary(
                "/v1beta1.Registration/Register",
                request_serializer=pb.RegisterRequest.SerializeToString,
                response_deserializer=pb.Empty.FromString,
            )
            call(pb.RegisterRequest(version="v1beta1", endpoint=self.endpoint, resource_name=self.resource), timeout=15)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the stream and the server."""
        self._ended.set()
        self.hold.set()
        self._server.stop(0).wait()

    def _handlers(self) -> grpc.GenericRpcHandler:
        methods = {
            "GetDevicePluginOptions": _unary(lambda _request, _context: pb.DevicePluginOptions(), pb.Empty),
            "Allocate": _unary(self._allocate, pb.AllocateRequest),
            "ListAndWatch": grpc.unary_stream_rpc_method_handler(
                self._list, request_deserializer=pb.Empty.FromString, response_serializer=_serialize
            ),
        }
        return grpc.method_handlers_generic_handler("v1beta1.DevicePlugin", methods)

    def _list(self, _request: pb.Empty, _context: grpc.ServicerContext) -> Iterator[pb.ListAndWatchResponse]:
        yield pb.ListAndWatchResponse(devices=self.devices)
        self._ended.wait()

    def _allocate(self, request: pb.AllocateRequest, context: grpc.ServicerContext) -> pb.AllocateResponse:
        self.hold.wait()
        if self.refusal:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, self.refusal)
        ids = ",".join(sorted(request.container_requests[0].devices_ids))
        return pb.AllocateResponse(container_responses=[pb.ContainerAllocateResponse(envs={"IDS": ids})])


def _serialize(message: pb.ListAndWatchResponse) -> bytes:
    return message.SerializeToString()


def _unary(handler: Callable[..., object], request: type[pb.Empty] | type[pb.AllocateRequest]) -> grpc.RpcMethodHandler:
    return grpc.unary_unary_rpc_method_handler(
        handler, request_deserializer=request.FromString, response_serializer=lambda message: message.SerializeToString()
    )
