"""Clients that mean harm: slow ones, idle ones, giant ones, endless ones. The others, kubelet's among them, notice nothing."""

from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
import trio
from hyperframe.frame import ContinuationFrame, SettingsFrame

from mortalgpu.rpc.channel import open_channel
from mortalgpu.rpc.framing import frame
from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb
from mortalgpu.rpc.status import Code, RpcError
from tests.campaign import Tally
from tests.fuzz.device_api_siege import GET_DEVICES, Siege, siege
from tests.unit.deviceapi import node
from tests.unit.rpc.trial import PREFACE

STREAM = "/device.v1.DeviceService/StreamGpuContainers"
IDS = node.ids(node.GPU_A, 0, 1, 2, 3)

pytestmark = pytest.mark.hostile


@pytest.fixture(autouse=True)
def _counted(tally: Tally) -> Iterator[None]:
    yield
    tally.add("attacks")


async def test_a_thousand_idle_connections_keep_nobody_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with siege(tmp_path, caplog) as besieged:
        calls = besieged.calls
        async with AsyncExitStack() as stack:
            for number in range(1000):
                client = await besieged.raw(greet=number % 2 == 0)
                await stack.enter_async_context(client.stream)
            await trio.sleep(0.5)
            assert besieged.calls > calls


async def test_clients_that_send_a_byte_at_a_time_hold_up_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with siege(tmp_path, caplog) as besieged:

        async def drip() -> None:
            client = await besieged.raw(greet=False)
            async with client.stream:
                request = [client.headers(1, GET_DEVICES), client.data(1, frame(b""))]
                data = PREFACE + SettingsFrame(0).serialize() + b"".join(found.serialize() for found in request)
                with suppress(trio.BrokenResourceError):
                    for place in range(len(data)):
                        await client.stream.send_all(data[place : place + 1])
                        await trio.sleep(0.01)

        with trio.move_on_after(3):
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(drip)


async def test_clients_that_read_nothing_cost_bounded_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with siege(tmp_path, caplog) as besieged, AsyncExitStack() as stack:
        token = besieged.made.node_token()
        for _ in range(8):
            client = await besieged.raw()
            await stack.enter_async_context(client.stream)
            for stream_id in range(1, 33, 2):
                await client.send(
                    client.headers(stream_id, STREAM, (), authorization=token), client.data(stream_id, frame(b""))
                )
        await trio.sleep(2)


def plain(text: bytes) -> bytes:
    """A string of header compression, not compressed (RFC 7541, 5.2): compressing a giant would cost us more than anybody."""
    first, rest = min(len(text), 127), max(0, len(text) - 127)
    size = [first]
    while first == 127:
        size.append(rest % 128 | (128 if rest > 127 else 0))
        rest //= 128
        if not rest:
            break
    return bytes(size) + text


@pytest.mark.parametrize("size", [20_000, 200_000, 5_000_000])
async def test_giant_metadata_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture, size: int) -> None:
    async with siege(tmp_path, caplog) as besieged:
        client = await besieged.raw()
        async with client.stream:
            made = client.headers(1, GET_DEVICES)
            made.data += b"\x10" + plain(b"authorization") + plain(b"x" * size)
            chunks = [made.data[place : place + 16_000] for place in range(0, len(made.data), 16_000)]
            made.data = chunks[0]
            if len(chunks) > 1:
                made.flags.discard("END_HEADERS")
            rest = [ContinuationFrame(1, data=chunk) for chunk in chunks[1:]]
            if rest:
                rest[-1].flags.add("END_HEADERS")
            with suppress(trio.BrokenResourceError):
                await client.send(made, *rest)
            assert await client.status_of(1) in ("8", "goaway 11", "goaway 1", None)


async def test_an_endless_request_is_cut_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with siege(tmp_path, caplog) as besieged:
        client = await besieged.raw()
        token = besieged.made.node_token()
        async with client.stream:
            await client.send(client.headers(1, GET_DEVICES, (), authorization=token))
            for _ in range(200):
                await client.send(client.data(1, frame(b"\x0a\x01x") * 100, end=False))
                await trio.lowlevel.checkpoint()
            assert await client.status_of(1) in ("3", "reset 0", "reset 8")


async def test_a_message_larger_than_allowed_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with siege(tmp_path, caplog) as besieged:
        client = await besieged.raw()
        async with client.stream:
            await client.send(client.headers(1, GET_DEVICES, (), authorization=besieged.made.node_token()))
            await client.send(client.data(1, b"\0\xff\xff\xff\xff" + b"x" * 1000, end=False))
            assert await client.status_of(1) == "8"


async def test_one_callers_endless_streams_leave_the_others_theirs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with siege(tmp_path, caplog) as besieged, trio.open_nursery() as nursery:
        refused = 0
        greedy = besieged.made.token(*IDS)

        async def watch(token: str) -> None:
            nonlocal refused
            metadata = [("authorization", token)]
            async with open_channel(besieged.made.network) as channel:
                request, response = pb.StreamGpuContainersRequest(), pb.StreamGpuContainersResponse
                try:
                    async with channel.stream(STREAM, request, response, metadata=metadata) as answers:
                        async for _ in answers:
                            pass
                except RpcError as error:
                    refused += error.code is Code.RESOURCE_EXHAUSTED

        for _ in range(24):
            nursery.start_soon(watch, greedy)
        with trio.fail_after(10):
            while refused < 8:
                await trio.sleep(0.02)
        assert await first_of_stream(besieged, besieged.made.token(*node.ids(node.GPU_B, 2, 3))) == 1
        nursery.cancel_scope.cancel()


async def first_of_stream(besieged: Siege, token: str) -> int:
    """How many containers the first snapshot of a stream tells of."""
    async with open_channel(besieged.made.network) as channel:
        request, response = pb.StreamGpuContainersRequest(), pb.StreamGpuContainersResponse
        async with channel.stream(STREAM, request, response, metadata=[("authorization", token)]) as answers:
            found = await answers.receive()
            return len(found.gpu_containers) if found else 0


async def test_wrong_tokens_without_end_are_refused_without_filling_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with siege(tmp_path, caplog) as besieged, open_channel(besieged.made.network) as channel:
        for number in range(300):
            metadata = [("authorization", f"Bearer {number}.{'x' * 2000}.y")]
            with pytest.raises(RpcError) as raised:
                await channel.unary(GET_DEVICES, pb.GetDevicesRequest(), pb.GetDevicesResponse, metadata=metadata)
            assert raised.value.code is Code.UNAUTHENTICATED
    assert len([record for record in caplog.records if "refused" in record.message]) < 50
