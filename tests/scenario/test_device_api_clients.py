"""The device API for the clients that exist: grpcio, tools with reflection, MetaGPU's, TLS, and the sockets' own rules."""

import logging
import os
import ssl
import stat
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import grpc
import pytest
import trio

from mortalgpu import logs
from mortalgpu.deviceapi import keys, servicer, tls, tokens
from mortalgpu.deviceapi.keys import Keys, KeySettings
from mortalgpu.deviceapi.tls import Certificate
from mortalgpu.errors import ConfigError, HostError
from mortalgpu.host.table import ProcfsTable
from mortalgpu.rpc.channel import channel_over, open_channel
from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb
from mortalgpu.rpc.status import Code, RpcError, Unavailable
from tests.scenario import metagpu
from tests.scenario.device_api import Served, in_thread, served
from tests.unit.deviceapi import node
from tests.unit.deviceapi.rig import SECRET, STATIC_L1
from tests.unit.deviceapi.test_tokens import signed

SERVICE = "/device.v1.DeviceService"
THEIRS = metagpu.classes()


def ask(channel: grpc.Channel, method: str, classes: Any, token: str = "", **fields: object) -> Any:
    """Call a unary method with grpcio and given message classes."""
    request, answer = classes[f"{method}Request"], classes[f"{method}Response"]
    call = channel.unary_unary(
        f"{SERVICE}/{method}", request_serializer=request.SerializeToString, response_deserializer=answer.FromString
    )
    return call(request(**fields), metadata=[("authorization", token)] if token else None, timeout=10)


OURS = {name: getattr(pb, name) for name in THEIRS}


@pytest.mark.parametrize("door", ["network", "container_socket"])
async def test_grpcio_reads_every_answer_over_tcp_and_a_unix_socket(tmp_path: Path, door: str) -> None:
    async with served(tmp_path) as made:
        made.call_from(None)

        def client(channel: grpc.Channel) -> None:
            token = made.node_token()
            assert len(ask(channel, "GetGpuContainers", OURS, token).gpu_containers) == 5
            assert set(ask(channel, "GetDevices", OURS, f"Bearer {token}").device) == {node.GPU_A, node.GPU_B}
            assert ask(channel, "GetMetaDeviceInfo", OURS, token).node == "node-1"
            stream = channel.unary_stream(
                f"{SERVICE}/StreamGpuContainers",
                request_serializer=pb.StreamGpuContainersRequest.SerializeToString,
                response_deserializer=pb.StreamGpuContainersResponse.FromString,
            )(pb.StreamGpuContainersRequest(), metadata=[("authorization", token)])
            assert [len(next(stream).gpu_containers) for _ in range(2)] == [5, 5]
            stream.cancel()

        await in_thread(getattr(made, door), client)


async def test_a_client_of_metagpu_reads_our_answers_right(tmp_path: Path) -> None:
    async with served(tmp_path, container_token=STATIC_L1) as made:

        def client(channel: grpc.Channel) -> None:
            seen = ask(channel, "GetGpuContainers", THEIRS, made.node_token(), pod_id="some-host-name")
            main = next(
                found for found in seen.gpu_containers if found.container_name == "main" and found.pod_namespace == "team-a"
            )
            assert (seen.visibility_level, main.pod_id, main.metagpu_requests, main.node_name) == ("l0", "train", 4, "node-1")
            (process,) = main.device_processes
            assert (process.pid, process.memory, process.gpu_utilization, process.user) == (1001, 250, 7, "alice")
            (held,) = main.container_devices
            assert (held.allocated_shares, held.device.shares, held.device.memory_share_size) == (4, 10, 100)
            device = ask(channel, "GetDevices", THEIRS, made.node_token()).device[node.GPU_A]
            assert (device.memory_total, device.memory_used, device.memory_free, device.index) == (1000, 480, 520, 0)
            own = ask(channel, "GetGpuContainers", THEIRS, STATIC_L1, pod_id="infer")
            assert [found.pod_id for found in own.gpu_containers] == ["infer"]
            assert ask(channel, "GetMetaDeviceInfo", THEIRS, made.node_token()).metadata["driverVersion"] == "550.54"

        await in_thread(made.network, client)


TOOL = """
import sys, grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

address, token = sys.argv[1], sys.stdin.read()
with grpc.insecure_channel(address) as channel:
    pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    method = pool.FindServiceByName("device.v1.DeviceService").FindMethodByName("GetDevices")
    request, answer = map(message_factory.GetMessageClass, (method.input_type, method.output_type))
    call = channel.unary_unary("/device.v1.DeviceService/GetDevices", request.SerializeToString, answer.FromString)
    print(sorted(call(request(), metadata=[("authorization", token)], timeout=10).device))
    health = health_pb2_grpc.HealthStub(channel)
    print(health.Check(health_pb2.HealthCheckRequest(service="device.v1.DeviceService"), timeout=10).status)
"""
"""What grpcurl does: it knows nothing but the address, and asks the server for the rest."""


@pytest.mark.parametrize("door", ["network", "container_socket"])
async def test_a_tool_that_knows_only_the_address_can_call(tmp_path: Path, door: str) -> None:
    with ProcfsTable() as table:
        async with served(tmp_path, processes=table) as made:
            address = getattr(made, door).replace("unix://", "unix:")
            command = [sys.executable, "-c", TOOL, address]
            done = await trio.run_process(command, stdin=made.node_token().encode(), capture_stdout=True)
    assert done.stdout.decode().split("\n") == [str([node.GPU_A, node.GPU_B]), "1", ""]


async def test_a_refusal_reaches_grpcio_with_its_code_and_no_reason(tmp_path: Path) -> None:
    async with served(tmp_path) as made:

        def client(channel: grpc.Channel) -> list[tuple[Any, str]]:
            found = []
            for token in ("", "rubbish", signed({"visibilityLevel": "l0"}, b"x" * 32)):
                with pytest.raises(grpc.RpcError) as raised:
                    ask(channel, "GetDevices", OURS, token)
                found.append((raised.value.code(), raised.value.details()))
            return found

        assert set(await in_thread(made.network, client)) == {(grpc.StatusCode.UNAUTHENTICATED, "a valid token is needed")}


async def test_a_thousand_metadata_entries_and_two_tokens_open_nothing(tmp_path: Path) -> None:
    async with served(tmp_path) as made:

        def client(channel: grpc.Channel) -> Any:
            call = channel.unary_unary(f"{SERVICE}/GetDevices", response_deserializer=pb.GetDevicesResponse.FromString)
            with pytest.raises(grpc.RpcError) as raised:
                call(b"", metadata=[("authorization", "bad"), ("authorization", made.node_token())], timeout=10)
            return raised.value.code()

        assert await in_thread(made.network, client) == grpc.StatusCode.UNAUTHENTICATED


# The sockets.


async def test_the_kernel_names_the_container_on_the_socket_that_containers_get(tmp_path: Path) -> None:
    async with served(tmp_path) as made:
        made.call_from(node.INFER)
        async with open_channel(made.container_socket) as channel:
            answer = await channel.unary(
                f"{SERVICE}/GetGpuContainers", pb.GetGpuContainersRequest(), pb.GetGpuContainersResponse
            )
        assert [found.pod_id for found in answer.gpu_containers] == ["infer"]


async def test_the_real_process_table_says_that_this_process_is_in_no_container(tmp_path: Path) -> None:
    with ProcfsTable() as table:
        async with served(tmp_path, processes=table) as made:
            for address, code in ((made.container_socket, Code.UNAUTHENTICATED), (made.admin_socket, None)):
                expected = None if os.getuid() == 0 else Code.UNAUTHENTICATED
                async with open_channel(address) as channel:
                    try:
                        await channel.unary(f"{SERVICE}/GetDevices", pb.GetDevicesRequest(), pb.GetDevicesResponse)
                        found = None
                    except RpcError as error:
                        found = error.code
                assert found is (code or expected)


async def test_the_sockets_are_as_open_as_they_must_be_and_go_with_the_service(tmp_path: Path) -> None:
    async with served(tmp_path) as made:
        paths = [Path(address.removeprefix("unix://")) for address in (made.container_socket, made.admin_socket)]
        assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [0o666, 0o600]
        assert stat.S_IMODE(paths[0].parent.stat().st_mode) == 0o755
        assert paths[1].parent not in paths[0].parent.parents or paths[0].parent != paths[1].parent
    assert not any(path.exists() for path in paths)


async def test_a_socket_file_that_is_taken_away_ends_the_service_so_that_it_starts_anew(tmp_path: Path) -> None:
    async def lose_the_file() -> None:
        async with served(tmp_path) as made:
            Path(made.container_socket.removeprefix("unix://")).unlink()
            await trio.sleep(10)

    with pytest.raises(ExceptionGroup) as raised:
        await lose_the_file()
    assert raised.group_contains(HostError, match="taken away")
    async with served(tmp_path) as made:
        made.call_from(node.INFER)
        async with open_channel(made.container_socket) as channel:
            await channel.unary(f"{SERVICE}/PingServer", pb.PingServerRequest(), pb.PingServerResponse)


async def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    async with served(tmp_path / "first") as made:
        port = int(made.network.rpartition(":")[2])
        with pytest.raises(ExceptionGroup) as raised:
            async with served(tmp_path / "second", port=port):
                pass
    assert raised.group_contains(HostError, match=str(port))


# TLS.


def make_certificate(directory: Path, name: str) -> tuple[str, str]:
    """Make a self-signed certificate for localhost; return its file and its key's."""
    cert, key = str(directory / f"{name}.crt"), str(directory / f"{name}.key")
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*request, *subject, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


async def ask_over_tls(made: Served, cert: str) -> pb.GetDevicesResponse:
    host, port = made.network.split(":")
    context = ssl.create_default_context(cafile=cert)
    context.set_alpn_protocols(["h2"])
    stream = await trio.open_ssl_over_tcp_stream(host, int(port), ssl_context=context)
    metadata = [("authorization", made.node_token())]
    async with channel_over(stream, made.network) as channel:
        return await channel.unary(f"{SERVICE}/GetDevices", pb.GetDevicesRequest(), pb.GetDevicesResponse, metadata=metadata)


async def test_tls_guards_the_network_and_follows_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "RECHECK_SECONDS", 0.02)
    first, second = make_certificate(tmp_path, "first"), make_certificate(tmp_path, "second")
    live = (tmp_path / "live.crt", tmp_path / "live.key")

    def put(pair: tuple[str, str]) -> None:
        for source, target in zip(pair, live, strict=True):
            target.write_bytes(Path(source).read_bytes())

    put(first)
    async with served(tmp_path, cert_file=str(live[0]), key_file=str(live[1])) as made:
        assert len((await ask_over_tls(made, first[0])).device) == 2
        credentials = grpc.ssl_channel_credentials(Path(first[0]).read_bytes())
        address = made.network.replace("127.0.0.1", "localhost")
        answer = await in_thread(address, lambda channel: ask(channel, "GetDevices", OURS, made.node_token()), credentials)
        assert len(answer.device) == 2
        with pytest.raises(Unavailable):
            await ask_over_tls(made, second[0])
        put(second)
        with trio.fail_after(10):
            while not await answers_over_tls(made, second[0]):
                await trio.sleep(0.05)


async def answers_over_tls(made: Served, cert: str) -> bool:
    try:
        return len((await ask_over_tls(made, cert)).device) == 2
    except Unavailable:
        return False


async def test_without_tls_words_the_guarded_port_answers_nothing(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path, "one")
    async with served(tmp_path, cert_file=cert, key_file=key) as made, open_channel(made.network) as channel:
        with pytest.raises(RpcError) as raised:
            await channel.unary(f"{SERVICE}/PingServer", pb.PingServerRequest(), pb.PingServerResponse, deadline_seconds=10)
        assert raised.value.code is Code.UNAVAILABLE


def test_a_certificate_that_goes_bad_leaves_the_last_good_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (cert, key), (_, other_key) = make_certificate(tmp_path, "one"), make_certificate(tmp_path, "two")
    certificate = Certificate(cert, key)
    Path(key).write_bytes(Path(other_key).read_bytes())
    certificate.refresh()
    Path(cert).unlink()
    certificate.refresh()
    assert caplog.text.count("the old one stays") == 2
    assert "PRIVATE" not in caplog.text


def test_unusable_tls_files_stop_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.deviceApi\.tls: .*nowhere"):
        Certificate(str(tmp_path / "nowhere"), str(tmp_path / "nowhere"))


# Secrets stay secret.


async def test_no_token_or_key_gets_into_logs_errors_or_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servicer, "NEXT_SCAN_SECONDS", 0.05)
    text = StringIO()
    logs.set_up(verbose=True, as_json=True, stream=text)
    heard: list[str] = []
    try:
        async with served(tmp_path, container_token=STATIC_L1) as made:
            made.populate()
            given = {
                "operator": made.node_token(),
                "container": made.token(*node.ids(node.GPU_A, 0, 1, 2, 3)),
                "gone": made.token(*node.ids(node.GPU_A, 8)),
                "expired": made.node_token(lifetime_seconds=-60),
                "forged": signed({"visibilityLevel": "l0"}, b"x" * 32),
                "static": STATIC_L1,
                "broken": made.node_token()[:-5],
            }

            def client(channel: grpc.Channel) -> None:
                for token in given.values():
                    for method in ("GetGpuContainers", "GetDevices", "GetMetaDeviceInfo", "KillGpuProcess"):
                        try:
                            heard.append(str(ask(channel, method, OURS, token)))
                        except grpc.RpcError as error:
                            heard.append(f"{error} {error.trailing_metadata()}")

            await in_thread(made.network, client)
            generated = Keys(KeySettings(str(tmp_path / "state")))
            (tmp_path / "state" / keys.KEY_NAME).rename(tmp_path / "state" / keys.PREVIOUS_KEY_NAME)
            Keys(KeySettings(str(tmp_path / "state")))
    finally:
        logging.getLogger("mortalgpu").setLevel(logging.NOTSET)
        logging.basicConfig(handlers=[], force=True)
    secrets = [*given.values(), *(token.rpartition(".")[2] for token in given.values()), SECRET]
    secrets += [generated.secrets.keyring.current.decode()]
    told = text.getvalue() + "".join(heard) + Path("/proc/self/cmdline").read_text()
    assert "caller refused" in told
    assert [secret for secret in secrets if secret in told] == []
    open_files = [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]
    assert [path for path in open_files for secret in secrets if secret.encode() in path.read_bytes()] == []
    assert len(SECRET) >= tokens.MIN_SECRET_BYTES
