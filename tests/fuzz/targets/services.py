"""Targets: requests to the services that anybody who reaches a port or a socket can call, and what opens these doors."""

from functools import partial

import trio
from trio.testing import MockClock, memory_stream_pair

from mortalgpu.deviceapi.identity import Door, Identity
from mortalgpu.deviceapi.servicer import NAME
from mortalgpu.deviceapi.tls import Certificate
from mortalgpu.errors import ConfigError, Unauthenticated
from mortalgpu.rpc.channel import open_channel
from mortalgpu.rpc.framing import frame
from mortalgpu.rpc.health import Health
from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb
from mortalgpu.rpc.pb.grpc.health.v1 import health_pb2
from mortalgpu.rpc.pb.grpc.reflection.v1 import reflection_pb2
from mortalgpu.rpc.reflection import reflection_services
from mortalgpu.rpc.server import Server
from mortalgpu.rpc.status import Unavailable
from tests.fuzz.target import Target, no_fault_logged, only, scratch
from tests.unit.deviceapi import node
from tests.unit.deviceapi.rig import Rig
from tests.unit.rpc.trial import RawClient

METHODS = (
    *("GetGpuContainers", "StreamGpuContainers", "GetDevices", "GetMetaDeviceInfo", "KillGpuProcess", "PatchConfigs"),
    "PingServer",
)
OF_OTHERS = (
    *(b"infer", b"young", b"job-2001", b"job-3001"),
    *(ref.container_id.encode() for ref in (node.OTHER_TRAIN, node.INFER)),
)
"""What a container of team-a/train may not read."""
GOOD_STATUSES = {"0", "3", "4", "5", "7", "8", "9", "12", "16", None}


async def _answer(server: Server, path: str, message: bytes, token: str) -> tuple[str | None, bytes]:
    """Call a method with these bytes as its message; return the status (None: a stream that goes on) and all that was said."""
    ours, theirs = memory_stream_pair()
    said = bytearray()
    status: str | None = None

    class Listening(RawClient):
        async def receive(self) -> None:
            nonlocal status
            status = await self.status_of(1)

    client = Listening(_Recorded(ours, said))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_connection, theirs)
        await client.greet()
        await client.send(client.headers(1, path, (), authorization=token), client.data(1, frame(message)))
        with trio.move_on_after(8):
            await client.receive()
        nursery.cancel_scope.cancel()
    return status, bytes(said)


class _Recorded(trio.abc.Stream):
    """A stream that keeps what came."""

    def __init__(self, stream: trio.abc.Stream, said: bytearray) -> None:
        self._stream = stream
        self._said = said

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(max_bytes)
        self._said += data
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _ask_device_api(data: bytes) -> None:
    rig = Rig(scratch())
    rig.populate()
    token = rig.token(*node.ids(node.GPU_A, 0, 1, 2, 3))
    method = METHODS[(data or b"\0")[0] % len(METHODS)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.api.board.watch)
        status, said = await _answer(rig.servers[Door.NETWORK], f"/{NAME}/{method}", data[1:], token)
        nursery.cancel_scope.cancel()
    assert status in GOOD_STATUSES, f"{method} ended with {status}"
    assert not [text for text in OF_OTHERS if text in said and text not in data], "a container has read what is another's"
    assert rig.host.running(node.OTHER_TRAIN_PID)
    assert rig.host.running(node.INFER_PID)


def check_device_api(data: bytes) -> None:
    """Whatever a container asks of the device API with its own token: it learns of its own pod, and ends only its own."""
    with no_fault_logged():
        trio.run(partial(_ask_device_api, data), clock=MockClock(autojump_threshold=0))


_STANDARD = (
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/Watch",
    "grpc.health.v1.Health/List",
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)


def check_standard_services(data: bytes) -> None:
    """Health and reflection answer anybody: with a status that the caller caused."""
    server = Server([Health().service(), *reflection_services([NAME, "grpc.health.v1.Health"])])
    path = "/" + _STANDARD[(data or b"\0")[0] % len(_STANDARD)]
    with no_fault_logged():
        ask = partial(_answer, server, path, data[1:], "rubbish")
        status, _ = trio.run(ask, clock=MockClock(autojump_threshold=0))
    assert status in GOOD_STATUSES, f"{path} ended with {status}"


def check_authorization(data: bytes) -> None:
    """Of all that stands in `authorization`, only a token of ours is anybody."""
    rig = Rig(scratch())
    identity = Identity(
        Door.NETWORK, secrets=lambda: rig.keys.secrets, succession=rig.succession, processes=rig.host, now=lambda: rig.now
    )
    ours = {rig.node_token(): "l0", rig.token("GPU-0::0"): "l1"}
    signed = {token[:-1]: level for token, level in ours.items()}  # Some bits of the last letter are nobody's.
    for begin in (b"", *(f"Bearer {token}".encode() for token in ours)):
        header = begin + data
        for value in (header, header.decode("latin-1")):
            with only(Unauthenticated):
                level = identity.by_token(value).level
                assert signed[header.decode("latin-1").split()[-1][:-1]] == level


def check_certificate(data: bytes) -> None:
    """Files of a certificate are a pair, or one ConfigError; and no question goes to a terminal."""
    certificate, _, key = data.partition(b"\xfd")
    for name, text in (("tls.crt", certificate), ("tls.key", key)):
        (scratch() / name).write_bytes(text)
    with only(ConfigError):
        Certificate(str(scratch() / "tls.crt"), str(scratch() / "tls.key"))


async def _connect(address: str) -> None:
    with trio.move_on_after(0.2):
        async with open_channel(address):
            pass


def check_address(data: bytes) -> None:
    """An address of a daemon leads somewhere, or is refused by its name."""
    address = data.decode("utf-8", "surrogateescape")
    is_here = address.startswith(("/", "unix:", "localhost", "127.", "[::1]")) or "." not in address
    with only(Unavailable, longest=30_000):
        if is_here:
            trio.run(_connect, address)


_BODY = b"MC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
_KEY = b"-----BEGIN PRIVATE KEY-----\n" + _BODY + b"\n-----END PRIVATE KEY-----\n"

TARGETS = (
    Target(
        "device-api",
        check_device_api,
        (
            b"\0" + pb.GetGpuContainersRequest(pod_id="train").SerializeToString(),
            b"\0" + pb.GetGpuContainersRequest(pod_id="infer").SerializeToString(),
            b"\1" + pb.StreamGpuContainersRequest(pod_id="train").SerializeToString(),
            b"\2",
            b"\3",
            *(b"\4" + pb.KillGpuProcessRequest(pid=pid).SerializeToString() for pid in (node.TRAIN_PID, node.INFER_PID)),
            b"\5" + pb.PatchConfigsRequest(meta_gpus=7).SerializeToString(),
            b"\6",
        ),
        (b"infer", b"young", b"\xd1\x0f", b"\xb9\x17", b"\x08", b"\x0a", b"\xff" * 9 + b"\x01"),
        inputs=250,
    ),
    Target(
        "standard-services",
        check_standard_services,
        (
            b"\0" + health_pb2.HealthCheckRequest(service=NAME).SerializeToString(),
            b"\1" + health_pb2.HealthCheckRequest(service="x").SerializeToString(),
            b"\2",
            b"\3" + reflection_pb2.ServerReflectionRequest(file_containing_symbol=NAME).SerializeToString(),
            b"\4" + reflection_pb2.ServerReflectionRequest(list_services="*", host="h").SerializeToString(),
            b"\3" + reflection_pb2.ServerReflectionRequest(file_by_filename="device/v1/device.proto").SerializeToString(),
            b"\4" + reflection_pb2.ServerReflectionRequest(all_extension_numbers_of_type="a.b").SerializeToString(),
        ),
        (
            b"device.v1.",
            b".",
            b"grpc.",
            b"\x12",
            b"\x22",
            b"\x2a\x04\x0a\x01x\x10",
            b"\xff\xff\xff\xff\x0f",
            b"google.protobuf.",
        ),
        inputs=250,
    ),
    Target(
        "authorization",
        check_authorization,
        (b"Bearer a.b.c", b"bearer  x", b"", b"Basic YTpi"),
        (b"Bearer ", b" ", b"\t", b".", b"eyJhbGciOiJIUzI1NiJ9", b"\xff", b"\0"),
        inputs=600,
    ),
    Target(
        "tls-files", check_certificate, (b"rubbish\xfd" + _KEY, _KEY + b"\xfd" + _KEY), (b"ENCRYPTED ", b"-----"), inputs=200
    ),
    Target(
        "daemon-address",
        check_address,
        (b"localhost:1", b"unix:///nowhere", b"[::1]:1", b"/nowhere", b"127.0.0.1:1", b"a:b"),
        (b":", b"[", b"]", b"unix:", b"\0", b"\xff", b"9" * 5000, b"a" * 80, b"\xc3\xa9", "٣".encode(), b"/" * 200, b" "),
        inputs=300,
    ),
)
