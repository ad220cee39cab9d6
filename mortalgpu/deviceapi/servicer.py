"""The methods of device.v1.DeviceService, for the callers of one door. Who may what is decided in views, who calls in identity.

PingServer is public; every other method asks first who calls. No state is kept between calls and none is shared by them:
a caller's level travels as an argument.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio
from google.protobuf.message import Message

from mortalgpu import __version__
from mortalgpu.deviceapi import views
from mortalgpu.deviceapi.board import Board
from mortalgpu.deviceapi.identity import Identity
from mortalgpu.deviceapi.refusals import Refusals
from mortalgpu.deviceapi.tokens import NODE_LEVEL
from mortalgpu.deviceapi.views import Caller, Sight
from mortalgpu.errors import AccessError, DriverError, Forbidden, NotFound, Unauthenticated
from mortalgpu.host.base import HostProcess, KillOutcome, ProcessTable
from mortalgpu.model.device import DriverInfo
from mortalgpu.model.usage import ProcessUsage
from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb
from mortalgpu.rpc.server import Call, Code, Refusal, Send, Service, streaming, unary

log = logging.getLogger(__name__)

NAME = "device.v1.DeviceService"

LONGEST_SILENCE_SECONDS = 1.0
"""A stream sends at least so often."""
SHORTEST_GAP_SECONDS = 0.1
"""And no oftener, however fast the facts change."""
ASK_AGAIN_SECONDS = 2.0
"""How long a stream may go on after its caller has lost the right to it, if its container lives."""
NEXT_SCAN_SECONDS = 4.5
"""How long a container that no scan has found yet is waited for; below the time limit of a call."""
GONE_WITHIN_SECONDS = 3.0
"""How long a killed process may take to be gone before the caller is told that it is still there."""
INFO_SECONDS = 1.0

MOST_STREAMS = 256
MOST_STREAMS_PER_CALLER = 16


class Streams:
    """Counts the streams under way, over all doors: one caller's many cost the others nothing."""

    def __init__(self) -> None:
        self._open: dict[Hashable, int] = {}

    @asynccontextmanager
    async def place(self, caller: Caller) -> AsyncIterator[None]:
        """Hold a place for one stream; a caller's first one always has a place. Raises Refusal when there is none."""
        key = (caller.level, caller.container, caller.meta_devices, caller.email)
        own = self._open.get(key, 0)
        if own >= MOST_STREAMS_PER_CALLER or (own and sum(self._open.values()) >= MOST_STREAMS):
            raise Refusal(Code.RESOURCE_EXHAUSTED, "too many streams are open; end some of yours, or try again later")
        self._open[key] = self._open.get(key, 0) + 1
        try:
            yield
        finally:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]


@dataclass(frozen=True, slots=True)
class Backing:
    """What all doors have in common."""

    node: str
    board: Board
    processes: ProcessTable
    driver_info: Callable[[], Awaitable[DriverInfo]]
    refusals: Refusals
    streams: Streams
    kill_grace_seconds: float = 0.0


class Servicer:
    """Answers the callers of one door."""

    def __init__(self, identity: Identity, backing: Backing) -> None:
        self._identity = identity
        self._backing = backing
        self._board = backing.board

    def service(self) -> Service:
        """The table for a server."""
        return Service(
            NAME,
            {
                "GetGpuContainers": unary(pb.GetGpuContainersRequest, self._told(self._get_containers)),
                "StreamGpuContainers": streaming(pb.StreamGpuContainersRequest, self._stream_containers),
                "GetDevices": unary(pb.GetDevicesRequest, self._told(self._get_devices)),
                "GetMetaDeviceInfo": unary(pb.GetMetaDeviceInfoRequest, self._told(self._get_info)),
                "KillGpuProcess": unary(pb.KillGpuProcessRequest, self._told(self._kill)),
                "PatchConfigs": unary(pb.PatchConfigsRequest, self._told(self._patch)),
                "PingServer": unary(pb.PingServerRequest, self._ping),
            },
        )

    # The methods.

    async def _get_containers(self, request: pb.GetGpuContainersRequest, call: Call) -> pb.GetGpuContainersResponse:
        caller = await self._caller(call)
        sight = await self._sight(caller, request.pod_id)
        return self._board.facts.response(sight)

    async def _stream_containers(self, request: pb.StreamGpuContainersRequest, call: Call, send: Send) -> None:
        try:
            caller = await self._caller(call)
            await self._sight(caller, request.pod_id)
            async with self._backing.streams.place(caller):
                await self._push(caller, request.pod_id, call, send)
        except AccessError as error:
            self._backing.refusals.note(call.method, call.peer.address, error)
            raise

    async def _push(self, caller: Caller, pod_id: str, call: Call, send: Send) -> None:
        """Send snapshots for ever. Who calls is asked again now and then: tokens expire, and processes move."""
        asked_at = trio.current_time()
        while True:
            if trio.current_time() - asked_at >= ASK_AGAIN_SECONDS:
                caller, asked_at = await self._caller(call), trio.current_time()
            versions, facts = self._board.versions, self._board.facts
            sight = views.sight(caller, facts.usage, pod_id)
            # Both responses are the same on the wire; the stream's own would be a copy for each caller.
            await send(facts.response(sight))
            await trio.sleep(SHORTEST_GAP_SECONDS)
            await self._board.wait_beyond(versions, LONGEST_SILENCE_SECONDS - SHORTEST_GAP_SECONDS)

    async def _get_devices(self, _request: pb.GetDevicesRequest, call: Call) -> pb.GetDevicesResponse:
        caller = await self._caller(call)
        if caller.names_itself:
            raise Forbidden("the shared container token names no container, so its devices are not known")
        sight = await self._sight(caller)
        return pb.GetDevicesResponse(device=self._board.facts.devices(sight), server_version=__version__)

    async def _get_info(self, _request: pb.GetMetaDeviceInfoRequest, call: Call) -> pb.GetMetaDeviceInfoResponse:
        caller = await self._caller(call)
        views.refuse_unless_node(caller)
        devices = self._board.facts.devices(await self._sight(caller))
        metadata = {"mortalgpuVersion": __version__, **await self._driver_versions()}
        return pb.GetMetaDeviceInfoResponse(node=self._backing.node, metadata=metadata, devices=devices.values())

    async def _kill(self, request: pb.KillGpuProcessRequest, call: Call) -> pb.KillGpuProcessResponse:
        caller = await self._caller(call)
        target = views.process_to_kill(caller, self._board.facts.usage, request.pid)
        outcome = await self._end(caller, target)
        try:
            _refuse_unless_gone(outcome, target.pid)
        except Refusal as refusal:
            # Asked for again and again by its own container, one that cannot be ended would fill the log.
            self._backing.refusals.note(call.method, call.peer.address, refusal)
            raise
        extra = {"pid": target.pid, "container": target.container.container_id, "outcome": outcome.value}
        log.info("process killed on request", extra={**extra, "level": caller.level, "user": caller.email})
        return pb.KillGpuProcessResponse()

    async def _patch(self, _request: pb.PatchConfigsRequest, call: Call) -> pb.PatchConfigsResponse:
        await self._caller(call)
        raise Refusal(Code.UNIMPLEMENTED, "the configuration is a file; change it there, and the daemon takes it up")

    async def _ping(self, _request: pb.PingServerRequest, _call: Call) -> pb.PingServerResponse:
        return pb.PingServerResponse()

    # What they share.

    def _told(self, handler: Callable[..., Awaitable[Message]]) -> Callable[..., Awaitable[Message]]:
        """Wrap a unary handler so that the log learns of each refusal."""

        async def handle(request: Message, call: Call) -> Message:
            try:
                return await handler(request, call)
            except AccessError as error:
                self._backing.refusals.note(call.method, call.peer.address, error)
                raise

        return handle

    async def _caller(self, call: Call) -> Caller:
        return await self._identity.identify(call.peer, call.metadata.get("authorization"))

    async def _sight(self, caller: Caller, pod_id: str = "") -> Sight:
        """What the caller sees now. A container that no scan has found yet is given time until the next one has."""
        ends = trio.current_time() + NEXT_SCAN_SECONDS
        while not self._is_known(caller) and trio.current_time() < ends:
            await self._board.wait_beyond(self._board.versions, ends - trio.current_time())
        return views.sight(caller, self._board.facts.usage, pod_id)

    def _is_known(self, caller: Caller) -> bool:
        """Whether there is nothing to wait for."""
        if caller.names_itself or caller.level == NODE_LEVEL:
            return True
        try:
            return bool(views.sight(caller, self._board.facts.usage).own)
        except Unauthenticated:
            return False

    async def _end(self, caller: Caller, target: ProcessUsage) -> KillOutcome:
        """Kill exactly the process that the scan found, as long as the caller may."""
        handle = await self._backing.processes.open(target.pid)
        if handle is None:
            return KillOutcome.ALREADY_GONE

        async def still_wanted() -> bool:
            try:
                found = views.process_to_kill(caller, self._board.facts.usage, target.pid)
            except AccessError:
                return False
            return found.start_ticks == target.start_ticks

        with handle:
            return await handle.kill(
                HostProcess(target.pid, target.start_ticks, target.container),
                grace_seconds=self._backing.kill_grace_seconds,
                gone_within_seconds=GONE_WITHIN_SECONDS,
                still_wanted=still_wanted,
            )

    async def _driver_versions(self) -> dict[str, str]:
        try:
            with trio.fail_after(INFO_SECONDS):
                info = await self._backing.driver_info()
        except (DriverError, trio.TooSlowError):
            return {}
        versions = {
            "driverVersion": info.driver_version,
            "cudaVersion": info.cuda_version,
            "nvmlVersion": info.nvml_version,
        }
        return {name: version for name, version in versions.items() if version}


def _refuse_unless_gone(outcome: KillOutcome, pid: int) -> None:
    """Raise what the caller learns of a kill that did not succeed."""
    match outcome:
        case KillOutcome.KILLED:
            return
        case KillOutcome.ALREADY_GONE | KillOutcome.IDENTITY_CHANGED | KillOutcome.WITHDRAWN:
            raise NotFound(f"process {pid} has ended by itself")
        case KillOutcome.STILL_THERE:
            text = f"process {pid} was killed but has not ended yet; it is stuck in the kernel, most likely in the GPU driver"
            raise Refusal(Code.DEADLINE_EXCEEDED, text)
        case KillOutcome.NOT_PERMITTED:
            raise Refusal(Code.FAILED_PRECONDITION, "the kernel does not let the daemon kill; it lacks the capability KILL")
