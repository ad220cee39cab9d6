"""The standard health service, grpc.health.v1: which services are in a state to answer. Knows no service; it is told."""

import trio

from mortalgpu.rpc.pb.grpc.health.v1.health_pb2 import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListRequest,
    HealthListResponse,
)
from mortalgpu.rpc.service import Call, Send, Service, streaming, unary
from mortalgpu.rpc.status import Code, Refusal

NAME = "grpc.health.v1.Health"


class Health:
    """Keeps the state of services by name; the empty name is the whole server and serves from the start."""

    def __init__(self) -> None:
        self._serving = {"": True}
        self._changed = trio.Event()

    def set(self, service: str, *, serving: bool) -> None:
        """State that a service can answer, or cannot. Wakes all watchers; never blocks."""
        self._serving[service] = serving
        self._changed.set()
        self._changed = trio.Event()

    def service(self) -> Service:
        """The table for a server."""
        return Service(
            NAME,
            {
                "Check": unary(HealthCheckRequest, self._check),
                "List": unary(HealthListRequest, self._list),
                "Watch": streaming(HealthCheckRequest, self._watch),
            },
        )

    def _answer(self, service: str) -> HealthCheckResponse:
        serving = self._serving.get(service)
        if serving is None:
            return HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
        return HealthCheckResponse(status=HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING)

    async def _check(self, request: HealthCheckRequest, _call: Call) -> HealthCheckResponse:
        if request.service not in self._serving:
            raise Refusal(Code.NOT_FOUND, "there is no such service here")
        return self._answer(request.service)

    async def _list(self, _request: HealthListRequest, _call: Call) -> HealthListResponse:
        return HealthListResponse(statuses={name: self._answer(name) for name in self._serving})

    async def _watch(self, request: HealthCheckRequest, _call: Call, send: Send) -> None:
        told: HealthCheckResponse | None = None
        while True:
            changed = self._changed
            answer = self._answer(request.service)
            if answer != told:
                await send(answer)
                told = answer
            await changed.wait()
