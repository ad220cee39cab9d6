"""What a channel promises its callers: answers, and errors that name who did not answer."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from hpack.hpack import Decoder, Encoder
from hyperframe.frame import GoAwayFrame, HeadersFrame, SettingsFrame
from trio.testing import MockClock, memory_stream_pair

from mortalgpu.rpc.channel import Channel, channel_over, open_channel
from mortalgpu.rpc.dial import CONNECT_SECONDS
from mortalgpu.rpc.framing import frame
from mortalgpu.rpc.limits import KUBELET_LIMITS, Limits
from mortalgpu.rpc.server import Server
from mortalgpu.rpc.status import Code, RpcError, Unavailable
from tests.unit.rpc.trial import (
    ECHO,
    FLOOD,
    PREFACE,
    WATCH,
    Note,
    RawClient,
    Trial,
    in_memory,
    nothing_left_behind,
    served,
)
from tests.waiting import until

Script = Callable[[RawClient], Awaitable[None]]


@asynccontextmanager
async def facing(script: Script) -> AsyncIterator[Channel]:
    """Give a channel whose server is a script that sends frames by hand."""
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(script, RawClient(theirs))
        async with channel_over(ours, "scripted") as channel:
            yield channel
        nursery.cancel_scope.cancel()


def _headers(stream_id: int, *flags: str, **fields: str) -> HeadersFrame:
    made = HeadersFrame(stream_id, flags=["END_HEADERS", *flags])
    made.data = Encoder().encode([((":" + n[1:] if n[0] == "_" else n).replace("_", "-"), v) for n, v in fields.items()])
    return made


def _answer(stream_id: int, **trailers: str) -> list[HeadersFrame]:
    begin = _headers(stream_id, _status="200", content_type="application/grpc")
    return [
        begin,
        RawClient.data(stream_id, frame(Note(endpoint="a").SerializeToString()), end=False),
        _headers(stream_id, "END_STREAM", **trailers),
    ]


@pytest.mark.parametrize("form", ["{}", "unix://{}", "unix:{}"])
async def test_each_form_of_a_socket_address_connects(tmp_path: Path, form: str) -> None:
    async with served(Trial(), tmp_path / "s"), open_channel(form.format(tmp_path / "s")) as channel:
        assert (await channel.unary(ECHO, Note(endpoint="a"), Note)).endpoint == "a"


@pytest.mark.parametrize("address", ["", "nowhere", "host:", ":80", "host:port", "host:0", "host:70000", "host:٣"])
async def test_an_address_that_is_none_is_named(address: str) -> None:
    with pytest.raises(Unavailable, match="the address must be"):
        async with open_channel(address):
            pass


async def test_a_socket_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="s: cannot connect: No such file or directory") as caught:
        async with open_channel(str(tmp_path / "s")):
            pass
    assert (caught.value.address, caught.value.code) == (str(tmp_path / "s"), Code.UNAVAILABLE)


async def test_a_port_nobody_listens_on_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Unavailable, match="Connection refused"):
            async with open_channel(address):
                pass


async def test_a_message_above_the_clients_limit_is_refused() -> None:
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Server([Trial().service()]).serve_connection, theirs)
        async with channel_over(ours, "memory", max_message_bytes=1000) as channel:
            with pytest.raises(RpcError, match="above the limit of 1000 bytes") as caught:
                await channel.unary(ECHO, Note(endpoint="x" * 2000), Note)
            assert caught.value.code is Code.RESOURCE_EXHAUSTED
            assert (await channel.unary(ECHO, Note(endpoint="small"), Note)).endpoint == "small"
        nursery.cancel_scope.cancel()


async def test_a_request_above_the_servers_limit_is_refused() -> None:
    async with in_memory(Trial(), Limits(max_message_bytes=100_000)) as channel:
        with pytest.raises(RpcError) as caught:
            await channel.unary(ECHO, Note(endpoint="x" * 5_000_000), Note)
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        assert (await channel.unary(ECHO, Note(endpoint="small"), Note)).endpoint == "small"


async def test_large_messages_pass_both_ways(tmp_path: Path) -> None:
    text = "y" * 8_000_000
    async with served(Trial(), tmp_path / "s", KUBELET_LIMITS), open_channel(str(tmp_path / "s")) as channel:
        for _ in range(3):
            assert (await channel.unary(ECHO, Note(endpoint=text), Note)).endpoint == text


async def test_calls_at_the_same_time_do_not_mix(tmp_path: Path) -> None:
    async with (
        served(Trial(), tmp_path / "s", KUBELET_LIMITS),
        open_channel(str(tmp_path / "s")) as channel,
        trio.open_nursery() as nursery,
    ):

        async def call(number: int) -> None:
            assert (await channel.unary(ECHO, Note(endpoint=str(number)), Note)).endpoint == str(number)

        for number in range(30):
            nursery.start_soon(call, number)


async def test_an_endless_stream_can_be_left_at_any_answer(tmp_path: Path) -> None:
    trial = Trial()
    async with nothing_left_behind(), served(trial, tmp_path / "s"), open_channel(str(tmp_path / "s")) as channel:
        async with channel.stream(FLOOD, Note(endpoint="x"), Note) as answers:
            seen = 0
            async for answer in answers:
                assert answer.endpoint == "x"
                seen += 1
                if seen == 5000:
                    break
        await until(lambda: trial.running == 0)


async def test_a_connection_lost_in_the_middle_fails_its_calls() -> None:
    async def hang_up(server: RawClient) -> None:
        await server.send(SettingsFrame(0))
        await server.stream.receive_some()
        await server.stream.aclose()

    async with facing(hang_up) as channel:
        with pytest.raises(Unavailable, match="scripted: the server closed the connection"):
            await channel.unary(ECHO, Note(), Note)
        with pytest.raises(Unavailable):
            await channel.unary(ECHO, Note(), Note)


async def test_an_answer_just_before_the_end_still_counts() -> None:
    async def answer_and_go(server: RawClient) -> None:
        await server.stream.receive_some()
        await server.send(SettingsFrame(0), *_answer(1, grpc_status="0"), RawClient.reset(1, 0), GoAwayFrame(0))
        await server.stream.aclose()

    async with facing(answer_and_go) as channel:
        assert (await channel.unary(ECHO, Note(), Note)).endpoint == "a"


async def test_a_server_going_away_finishes_what_it_has_taken_on() -> None:
    async def go_away_slowly(server: RawClient) -> None:
        await server.stream.receive_some()
        await server.send(SettingsFrame(0), GoAwayFrame(0, last_stream_id=1))
        await trio.sleep(0.05)
        await server.send(*_answer(1, grpc_status="0"))
        await trio.sleep_forever()

    async with facing(go_away_slowly) as channel:
        assert (await channel.unary(ECHO, Note(), Note)).endpoint == "a"
        with pytest.raises(Unavailable, match="going away"):
            await channel.unary(ECHO, Note(), Note)


GRPC = {"_status": "200", "content_type": "application/grpc"}
STATUS_ONLY = [_headers(1, "END_STREAM", **GRPC, grpc_status="5", grpc_message="no%20%C3%BC")]
WEB_PAGE = [_headers(1, _status="200", content_type="text/html"), RawClient.data(1, b"<html>")]
NO_TRAILERS = [_headers(1, **GRPC), RawClient.data(1, b"")]
OTHER_MESSAGE = [_headers(1, **GRPC), RawClient.data(1, frame(b"\xff"), end=False)]

ANSWERS = {
    "a plain status": (STATUS_ONLY, Code.NOT_FOUND, "no ü"),
    "a status of its own": (_answer(1, grpc_status="99"), Code.UNKNOWN, ""),
    "a status that is no number": (_answer(1, grpc_status="x"), Code.UNKNOWN, "without a readable status"),
    "no status": (_answer(1, other="x"), Code.UNKNOWN, "without a readable status"),
    "not found by a web server": ([_headers(1, "END_STREAM", _status="404")], Code.UNAVAILABLE, "HTTP status 404"),
    "a web page": (WEB_PAGE, Code.UNAVAILABLE, "HTTP status 200"),
    "a reset": ([RawClient.reset(1, 8)], Code.CANCELLED, "reset"),
    "a refusal": ([RawClient.reset(1, 7)], Code.UNAVAILABLE, "reset"),
    "a reset of unknown kind": ([RawClient.reset(1, 4711)], Code.INTERNAL, "reset"),
    "an end without trailers": (NO_TRAILERS, Code.INTERNAL, "without a status"),
    "no answer": ([_headers(1, "END_STREAM", **GRPC, grpc_status="0")], Code.INTERNAL, "without an answer"),
    "not the message expected": (OTHER_MESSAGE, Code.INTERNAL, "not a v1beta1.RegisterRequest"),
}


@pytest.mark.parametrize(("frames", "code", "text"), ANSWERS.values(), ids=ANSWERS)
async def test_a_bad_answer_is_an_error_with_a_reason(frames: list[HeadersFrame], code: Code, text: str) -> None:
    async def script(server: RawClient) -> None:
        await server.stream.receive_some()
        await server.send(SettingsFrame(0), *frames)
        await trio.sleep_forever()

    async with facing(script) as channel:
        with pytest.raises(RpcError) as caught:
            await channel.unary(ECHO, Note(), Note, deadline_seconds=5)
    assert caught.value.code is code
    assert text in caught.value.details


async def test_more_than_one_answer_is_an_error() -> None:
    async with in_memory(Trial()) as channel:
        with pytest.raises(RpcError, match="more than one answer"):
            await channel.unary(FLOOD, Note(), Note)


async def test_a_server_that_is_none_is_an_error() -> None:
    async def script(server: RawClient) -> None:
        await server.stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 5)
        await trio.sleep_forever()

    async with facing(script) as channel:
        with pytest.raises(Unavailable):
            await channel.unary(ECHO, Note(), Note, deadline_seconds=5)


async def test_a_silent_server_costs_no_more_than_the_deadline(autojump_clock: MockClock) -> None:
    async with facing(lambda _server: trio.sleep_forever()) as channel:
        began = trio.current_time()
        with pytest.raises(RpcError, match="scripted: no answer in time") as caught:
            await channel.unary(ECHO, Note(), Note, deadline_seconds=20)
        assert (caught.value.code, trio.current_time() - began) == (Code.DEADLINE_EXCEEDED, 20)


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.05, "50000u"), (30, "30S"), (89.5, "89500000u"), (100.5, "101S"), (1e12, "99999999S")]
)
async def test_the_deadline_on_the_wire_has_at_most_eight_digits(
    seconds: float, expected: str, autojump_clock: MockClock
) -> None:
    seen: list[str] = []

    async def script(server: RawClient) -> None:
        await server.stream.receive_some(len(PREFACE))
        while (found := await server.next_frame()) is not None:
            if isinstance(found, HeadersFrame):
                seen.append(dict(Decoder().decode(found.data))["grpc-timeout"])

    async with facing(script) as channel:
        with pytest.raises(RpcError):
            await channel.unary(ECHO, Note(), Note, deadline_seconds=seconds)
    assert seen == [expected]


async def test_an_error_in_the_callers_block_arrives_bare() -> None:
    ours, theirs = memory_stream_pair()
    with pytest.raises(KeyError, match="mine"):
        await _fail_inside(ours)
    assert await theirs.receive_some() == b""


async def _fail_inside(stream: trio.abc.Stream) -> None:
    async with channel_over(stream, "memory"):
        raise KeyError("mine")


async def test_a_cancelled_block_leaves_nothing(tmp_path: Path) -> None:
    trial = Trial()
    async with nothing_left_behind(), served(trial, tmp_path / "s") as server:
        with trio.move_on_after(0.1) as scope:
            async with open_channel(str(tmp_path / "s")) as channel, channel.stream(WATCH, Note(), Note) as answers:
                async for _ in answers:
                    pass
        assert scope.cancelled_caught
        await until(lambda: server.connections == 0 and trial.running == 0)


async def test_a_host_that_takes_no_connection_is_given_up(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(trio, "open_tcp_stream", never)
    with pytest.raises(Unavailable, match=f"no connection within {CONNECT_SECONDS:g} s"):
        async with open_channel("192.0.2.1:50052"):
            pass
