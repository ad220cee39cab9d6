"""Against the reference implementation: its client on our server, our client on its server, and the standard tools."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
import trio

from mortalgpu.rpc.channel import Channel, open_channel
from mortalgpu.rpc.health import Health
from mortalgpu.rpc.limits import KUBELET_LIMITS, Limits
from mortalgpu.rpc.listener import UnixListener
from mortalgpu.rpc.pb.device.v1 import device_pb2
from mortalgpu.rpc.reflection import reflection_services
from mortalgpu.rpc.server import Server, Service, unary
from mortalgpu.rpc.status import Code, RpcError, Unavailable
from tests.unit.rpc.trial import CHAT, ECHO, FLOOD, HANG, WATCH, Note, Trial, served
from tests.waiting import until

T = TypeVar("T")
SERIALIZERS: dict[str, Any] = {"request_serializer": Note.SerializeToString, "response_deserializer": Note.FromString}


async def _in_thread(path: Path, client: Callable[[grpc.Channel], T], **options: int) -> T:
    """Run a blocking client against the server at `path`."""

    def run() -> T:
        arguments = [(f"grpc.{name}", value) for name, value in options.items()]
        with grpc.insecure_channel(f"unix:{path}", options=arguments) as channel:
            return client(channel)

    return await trio.to_thread.run_sync(run)


async def test_unary_calls_with_metadata(tmp_path: Path) -> None:
    trial = Trial()

    def client(channel: grpc.Channel) -> list[str]:
        echo = channel.unary_unary(ECHO, **SERIALIZERS)
        return [
            echo(Note(endpoint=str(n)), metadata=[("n", str(n)), ("k-bin", b"\xff")], timeout=5).endpoint for n in range(50)
        ]

    async with served(trial, tmp_path / "s"):
        assert await _in_thread(tmp_path / "s", client) == [str(n) for n in range(50)]
    assert [call.metadata["n"] for call in trial.calls] == [str(n) for n in range(50)]
    assert trial.calls[0].metadata["k-bin"] == b"\xff"


async def test_a_cancelled_stream_ends_its_handler_on_the_living_connection(tmp_path: Path) -> None:
    trial = Trial()

    def client(channel: grpc.Channel) -> str:
        answers = channel.unary_stream(WATCH, **SERIALIZERS)(Note(endpoint="w"))
        first: str = next(answers).endpoint
        answers.cancel()
        trio.from_thread.run(until, lambda: trial.running == 0)
        channel.unary_unary(ECHO, **SERIALIZERS)(Note(), timeout=5)
        return first

    async with served(trial, tmp_path / "s") as server:
        assert await _in_thread(tmp_path / "s", client) == "w"
        await until(lambda: server.connections == 0)


async def test_a_deadline_ends_its_handler(tmp_path: Path) -> None:
    trial = Trial()

    def client(channel: grpc.Channel) -> grpc.StatusCode:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(HANG, **SERIALIZERS)(Note(), timeout=0.1)
        return caught.value.code()

    async with served(trial, tmp_path / "s"):
        assert await _in_thread(tmp_path / "s", client) == grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: trial.running == 0)


async def test_a_closed_channel_ends_its_streams(tmp_path: Path) -> None:
    trial = Trial()

    def client(channel: grpc.Channel) -> None:
        for _ in range(5):
            next(channel.unary_stream(WATCH, **SERIALIZERS)(Note()))

    async with served(trial, tmp_path / "s") as server:
        await _in_thread(tmp_path / "s", client)
        await until(lambda: trial.running == 0 and server.connections == 0)


async def test_a_chat_goes_both_ways(tmp_path: Path) -> None:
    def client(channel: grpc.Channel) -> list[str]:
        chat = channel.stream_stream(CHAT, **SERIALIZERS)
        return [note.endpoint for note in chat(iter([Note(endpoint=str(n)) for n in range(1000)]), timeout=20)]

    async with served(Trial(), tmp_path / "s"):
        assert await _in_thread(tmp_path / "s", client) == [str(n) for n in range(1000)]


async def test_a_request_as_large_as_kubelets_largest_passes(tmp_path: Path) -> None:
    text = "d" * 5_000_000

    def client(channel: grpc.Channel) -> int:
        return len(channel.unary_unary(ECHO, **SERIALIZERS)(Note(endpoint=text), timeout=20).endpoint)

    async with served(Trial(), tmp_path / "s", KUBELET_LIMITS):
        size = await _in_thread(tmp_path / "s", client, max_receive_message_length=-1, max_send_message_length=-1)
    assert size == len(text)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (lambda c: c.unary_unary(ECHO, **SERIALIZERS)(Note(endpoint="x" * 200_000), timeout=5), "RESOURCE_EXHAUSTED"),
        (lambda c: c.unary_unary("/trial.Trial/No", **SERIALIZERS)(Note(), timeout=5), "UNIMPLEMENTED"),
        (lambda c: c.unary_unary(ECHO)(b"\xff\xff", timeout=5), "INVALID_ARGUMENT"),
        (lambda c: c.stream_unary(ECHO, **SERIALIZERS)(iter([]), timeout=5), "INVALID_ARGUMENT"),
        (lambda c: c.stream_unary(ECHO, **SERIALIZERS)(iter([Note(), Note()]), timeout=5), "INVALID_ARGUMENT"),
        (
            lambda c: c.unary_unary(ECHO, **SERIALIZERS)(Note(), metadata=[("big", "m" * 17_000)], timeout=5),
            "RESOURCE_EXHAUSTED",
        ),
        (
            lambda c: c.unary_unary(ECHO, **SERIALIZERS)(
                Note(endpoint="z" * 9000), compression=grpc.Compression.Gzip, timeout=5
            ),
            "UNIMPLEMENTED",
        ),
    ],
    ids=["oversized", "no method", "not a message", "no request", "two requests", "giant metadata", "gzip"],
)
async def test_a_clients_fault_is_answered_and_costs_a_neighbour_nothing(
    tmp_path: Path, fault: Callable[[grpc.Channel], object], expected: str
) -> None:
    trial = Trial()

    def client(channel: grpc.Channel) -> str:
        neighbour = channel.unary_stream(WATCH, **SERIALIZERS)(Note())
        next(neighbour)
        with pytest.raises(grpc.RpcError) as caught:
            fault(channel)
        channel.unary_unary(ECHO, **SERIALIZERS)(Note(), timeout=5)
        assert trial.running == 1
        return str(caught.value.code().name)

    async with served(trial, tmp_path / "s"):
        assert await _in_thread(tmp_path / "s", client) == expected


async def test_more_calls_than_allowed_wait_for_their_turn(tmp_path: Path) -> None:
    trial = Trial()

    def client(channel: grpc.Channel) -> int:
        echo = channel.unary_unary(ECHO, **SERIALIZERS)
        echo(Note(), timeout=5)
        return sum(call.result().endpoint == "q" for call in [echo.future(Note(endpoint="q"), timeout=20) for _ in range(200)])

    async with served(trial, tmp_path / "s", Limits(max_streams=4)):
        assert await _in_thread(tmp_path / "s", client) == 200


async def test_a_client_that_reads_slowly_gets_all_in_order(tmp_path: Path) -> None:
    trial = Trial()

    def client(channel: grpc.Channel) -> int:
        answers = channel.unary_stream(FLOOD, **SERIALIZERS)(Note(endpoint="f" * 12_000))
        sizes = {len(next(answers).endpoint) for _ in range(200)}
        answers.cancel()
        return sizes.pop() if len(sizes) == 1 else 0

    async with served(trial, tmp_path / "s"):
        assert await _in_thread(tmp_path / "s", client) == 12_000
        await until(lambda: trial.running == 0)


# Our client on grpcio's server.


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    """What our trial does, as far as a client can tell, on grpcio."""

    def __init__(self) -> None:
        self.left = threading.Event()

    def service(self, details: Any) -> Any:
        codec = {"request_deserializer": Note.FromString, "response_serializer": Note.SerializeToString}
        match details.method:
            case "/trial.Trial/Echo":
                return grpc.unary_unary_rpc_method_handler(lambda note, _: note, **codec)
            case "/trial.Trial/Fail":
                return grpc.unary_unary_rpc_method_handler(self._fail, **codec)
            case "/trial.Trial/Hang" | "/trial.Trial/Watch":
                return grpc.unary_stream_rpc_method_handler(self._watch, **codec)
        return None

    @staticmethod
    def _fail(note: Note, context: Any) -> Note:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "größer: 100 %")
        return note

    def _watch(self, note: Note, context: Any) -> Iterator[Note]:
        context.add_callback(self.left.set)
        yield note
        self.left.wait(20)


@contextmanager
def _grpcio_server(path: Path) -> Iterator[tuple[_Handlers, Any]]:
    handlers = _Handlers()
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)])
        server.add_generic_rpc_handlers((handlers,))
        server.add_insecure_port(f"unix:{path}")
        server.start()
        yield handlers, server
        server.stop(None).wait()


async def test_our_client_calls_grpcio(tmp_path: Path) -> None:
    with _grpcio_server(tmp_path / "s"):
        async with open_channel(str(tmp_path / "s")) as channel:
            for size in (0, 1, 70_000, 5_000_000):
                answer = await channel.unary(ECHO, Note(endpoint="e" * size), Note, deadline_seconds=20)
                assert len(answer.endpoint) == size
            with pytest.raises(RpcError) as caught:
                await channel.unary("/trial.Trial/Fail", Note(), Note, deadline_seconds=5)
            assert (caught.value.code, caught.value.details) == (Code.FAILED_PRECONDITION, "größer: 100 %")
            with pytest.raises(RpcError) as caught:
                await channel.unary("/trial.Trial/No", Note(), Note, deadline_seconds=5)
            assert caught.value.code is Code.UNIMPLEMENTED


async def test_our_client_leaves_a_stream_of_grpcio(tmp_path: Path) -> None:
    with _grpcio_server(tmp_path / "s") as (handlers, _server):
        async with open_channel(str(tmp_path / "s")) as channel:
            async with channel.stream(WATCH, Note(endpoint="w"), Note) as answers:
                first = await answers.receive()
                assert first is not None
                assert first.endpoint == "w"
            await until(handlers.left.is_set)


async def test_our_client_notices_grpcios_end(tmp_path: Path) -> None:
    with _grpcio_server(tmp_path / "s") as (handlers, server):
        async with open_channel(str(tmp_path / "s")) as channel, channel.stream(WATCH, Note(), Note) as answers:
            await answers.receive()
            server.stop(None)
            with pytest.raises(RpcError) as caught:
                await answers.receive()
            assert caught.value.code in (Code.UNAVAILABLE, Code.CANCELLED)
            handlers.left.set()
            with trio.fail_after(10):
                while not await _is_lost(channel):
                    await trio.sleep(0.01)


async def _is_lost(channel: Channel) -> bool:
    try:
        await channel.unary(ECHO, Note(), Note)
    except RpcError as error:
        return isinstance(error, Unavailable)
    return False


# The standard services, by the standard clients. These bring their own descriptors of the same names, so: another process.

STANDARD_CLIENT = """
import sys, grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
with grpc.insecure_channel(sys.argv[1]) as channel:
    health = health_pb2_grpc.HealthStub(channel)
    print(health.Check(health_pb2.HealthCheckRequest()).status)
    print(health.Check(health_pb2.HealthCheckRequest(service="device.v1.DeviceService")).status)
    try:
        health.Check(health_pb2.HealthCheckRequest(service="nothing"))
    except grpc.RpcError as error:
        print(error.code().name)
    print(next(health.Watch(health_pb2.HealthCheckRequest(service="nothing"))).status)
    database = ProtoReflectionDescriptorDatabase(channel)
    print(*sorted(database.get_services()))
    service = DescriptorPool(database).FindServiceByName("device.v1.DeviceService")
    print(service.file.name, len(service.methods), service.methods_by_name["PingServer"].input_type.full_name)
    try:
        DescriptorPool(database).FindMessageTypeByName("v1beta1.Device")
    except KeyError:
        print("not described")
"""


async def test_the_standard_health_and_reflection_clients_understand_us(tmp_path: Path) -> None:
    health = Health()
    health.set("device.v1.DeviceService", serving=False)

    async def ping(_request: device_pb2.PingServerRequest, _call: object) -> device_pb2.PingServerResponse:
        return device_pb2.PingServerResponse()

    device = Service("device.v1.DeviceService", {"PingServer": unary(device_pb2.PingServerRequest, ping)})
    server = Server([device, health.service(), *reflection_services(["device.v1.DeviceService", "grpc.health.v1.Health"])])
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, [await UnixListener.bind(tmp_path / "s")])
        command = [sys.executable, "-c", STANDARD_CLIENT, f"unix:{tmp_path}/s"]
        done = await trio.run_process(command, capture_stdout=True, stderr=subprocess.DEVNULL)
        nursery.cancel_scope.cancel()
    own = "device.v1.DeviceService grpc.health.v1.Health"
    services = f"{own} grpc.reflection.v1.ServerReflection grpc.reflection.v1alpha.ServerReflection"
    described = "device/v1/device.proto 7 device.v1.PingServerRequest"
    assert done.stdout.decode().splitlines() == ["1", "2", "NOT_FOUND", "3", services, described, "not described"]
