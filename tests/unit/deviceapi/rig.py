"""A device API over memory streams: doors, callers and facts that a test moves. Safe under virtual time."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
import trio.testing
from google.protobuf.message import Message

from mortalgpu.deviceapi import tokens
from mortalgpu.deviceapi.identity import Door
from mortalgpu.deviceapi.keys import Keys, KeySettings, SecretSource
from mortalgpu.deviceapi.server import DeviceApi, DeviceApiFacts, DeviceApiSettings
from mortalgpu.deviceapi.servicer import NAME
from mortalgpu.deviceapi.succession import Succession
from mortalgpu.latest import Latest
from mortalgpu.model.device import DriverInfo
from mortalgpu.model.kill import NO_ENFORCEMENT, Enforcement
from mortalgpu.model.pod import ContainerRef
from mortalgpu.model.share import Inventory
from mortalgpu.model.usage import Usage
from mortalgpu.rpc.channel import Channel, channel_over
from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb
from mortalgpu.rpc.peer import STRANGER, Peer
from mortalgpu.rpc.status import Code, RpcError
from mortalgpu.simulation.host import SimulatedHost, Temper
from tests.unit.deviceapi import node

NOW = 1_700_000_000.0
SECRET = "a secret of the operator, long enough"
STATIC_L1 = "an opaque container token"

ANSWERS = {
    "GetGpuContainers": (pb.GetGpuContainersRequest, pb.GetGpuContainersResponse),
    "StreamGpuContainers": (pb.StreamGpuContainersRequest, pb.StreamGpuContainersResponse),
    "GetDevices": (pb.GetDevicesRequest, pb.GetDevicesResponse),
    "GetMetaDeviceInfo": (pb.GetMetaDeviceInfoRequest, pb.GetMetaDeviceInfoResponse),
    "KillGpuProcess": (pb.KillGpuProcessRequest, pb.KillGpuProcessResponse),
    "PatchConfigs": (pb.PatchConfigsRequest, pb.PatchConfigsResponse),
    "PingServer": (pb.PingServerRequest, pb.PingServerResponse),
}


class Client:
    """One connection to one door."""

    def __init__(self, channel: Channel, token: str) -> None:
        self.channel = channel
        self._metadata = [("authorization", token)] if token else []

    async def ask(self, method: str, **fields: object) -> Any:
        """Call a unary method, or a stream for its first answer."""
        request, answer = ANSWERS[method]
        if method.startswith("Stream"):
            async with self.stream(**fields) as answers:
                return await answers.receive()
        return await self.channel.unary(f"/{NAME}/{method}", request(**fields), answer, metadata=self._metadata)

    def stream(self, **fields: object) -> Any:
        """Open StreamGpuContainers."""
        request: Message = pb.StreamGpuContainersRequest(**fields)  # type: ignore[arg-type]
        return self.channel.stream(
            f"/{NAME}/StreamGpuContainers", request, pb.StreamGpuContainersResponse, metadata=self._metadata
        )


async def outcome(client: Client, method: str, fields: dict[str, object]) -> Code:
    """Return how a call ends; UNKNOWN for a refusal that tells more than it should."""
    try:
        await client.ask(method, **fields)
    except RpcError as error:
        told_why = error.code is Code.UNAUTHENTICATED and error.details != "a valid token is needed"
        return Code.UNKNOWN if told_why else error.code
    return Code.OK


class Rig:
    """The API, its facts and its host."""

    def __init__(self, directory: Path, *, container_token: str = "", grace_seconds: float = 0.0) -> None:
        self.usage: Latest[Usage] = Latest(node.usage())
        self.inventory: Latest[Inventory] = Latest(node.INVENTORY)
        self.enforcement: Latest[Enforcement] = Latest(NO_ENFORCEMENT)
        self.host = SimulatedHost()
        self.succession = Succession()
        secret = SecretSource("config.grpcSecurity.jwtSecret", SECRET)
        static = SecretSource("config.grpcSecurity.containerToken", container_token)
        self.keys = Keys(KeySettings(str(directory), jwt_secret=secret, container_token=static))
        self.now = NOW
        self.info: DriverInfo | Exception = DriverInfo("550.54", "12.550", "12.4")
        facts = DeviceApiFacts(self.inventory, self.usage, self.enforcement, self.host, self._driver_info)
        settings = DeviceApiSettings("node-1", kill_grace_seconds=grace_seconds)
        self.api = DeviceApi(settings, facts, self.keys, self.succession, now=lambda: self.now)
        self.servers = {door: self.api.server(door) for door in Door}

    async def _driver_info(self) -> DriverInfo:
        await trio.lowlevel.checkpoint()
        if isinstance(self.info, Exception):
            raise self.info
        return self.info

    def populate(self, **tempers: Temper) -> None:
        """Start the processes that the usage tells of, and publish it with their true start times."""
        self.usage.publish(node.started(self.usage.value, self.host, tempers))

    def token(self, *ids: str, at: float = NOW) -> str:
        """A container's own token."""
        return tokens.mint_container_token(self.keys.secrets.keyring, ids, now=at)

    def node_token(self, **options: Any) -> str:
        """An operator's token."""
        return tokens.mint(self.keys.secrets.keyring, "l0", now=NOW, email="op@site", **options)

    @asynccontextmanager
    async def client(self, token: str = "", door: Door = Door.NETWORK, peer: Peer = STRANGER) -> AsyncIterator[Client]:
        """Connect at a door."""
        ours, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.servers[door].serve_connection, theirs, peer)
            async with channel_over(ours, "rig") as channel:
                yield Client(channel, token)
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def client_inside(self, ref: ContainerRef | None, *, uid: int = 1000, token: str = "") -> AsyncIterator[Client]:
        """Connect at the containers' socket from a container (None: from the host)."""
        descriptor = os.pidfd_open(os.getpid())
        try:
            peer = Peer("unix", f"uid {uid}", self.host.start(ref).pid, uid, uid, descriptor)
            async with self.client(token, Door.CONTAINER_SOCKET, peer) as client:
                yield client
        finally:
            os.close(descriptor)


@asynccontextmanager
async def rig(directory: Path, **options: Any) -> AsyncIterator[Rig]:
    """A device API that watches its facts."""
    made = Rig(directory, **options)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.api.board.watch)
        yield made
        nursery.cancel_scope.cancel()
