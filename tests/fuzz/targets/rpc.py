"""Targets: HTTP/2 and gRPC from both sides, and every protobuf message that comes from somebody else."""

import hashlib
from functools import partial

import trio
from google.protobuf.message import DecodeError, Message
from hpack.hpack import Encoder
from hyperframe.frame import (
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from trio.testing import MockClock, memory_stream_pair

from mortalgpu.rpc.channel import channel_over
from mortalgpu.rpc.framing import MessageReader, frame
from mortalgpu.rpc.pb.cri.v1 import runtime_pb2
from mortalgpu.rpc.pb.device.v1 import device_pb2
from mortalgpu.rpc.pb.deviceplugin.v1beta1 import deviceplugin_pb2
from mortalgpu.rpc.pb.podresources.v1 import podresources_pb2
from mortalgpu.rpc.server import Server
from mortalgpu.rpc.status import Code, Refusal, RpcError
from mortalgpu.rpc.wire import Event, Wire, WireError
from tests.fuzz.frames import PREFACE, RAW, SETTINGS, answer, replies, reply, script_of, wire_bytes
from tests.fuzz.target import Target, no_fault_logged
from tests.unit.rpc.trial import CHAT, ECHO, FAIL, FLOOD, WATCH, Note, RawClient, Trial

MOST_AMPLIFIED = 4
MESSAGE_BYTES = 65536
MOST_FRAMED = 100

_SOME = bytes(range(32))


def _wire(*, client_side: bool) -> Wire:
    wire = Wire(client_side=client_side, max_message_bytes=MESSAGE_BYTES)
    wire.initiate_connection()
    if client_side:
        wire.ask(ECHO, "localhost", 5.0, [("authorization", "x")])
    return wire


def _events(wire: Wire, pieces: list[bytes]) -> list[Event] | None:
    """Feed a wire; None when the peer broke the connection, which is the one thing that may be raised."""
    events: list[Event] = []
    try:
        for piece in pieces:
            events += wire.receive(piece)
    except WireError:
        return None
    return events


def _check_wire(data: bytes, *, client_side: bool) -> None:
    received = (b"" if client_side else PREFACE) + SETTINGS + wire_bytes(data)
    whole, cut = _wire(client_side=client_side), _wire(client_side=client_side)
    said = whole.outbound_bytes
    place = hashlib.sha256(data).digest()[0] % (len(received) + 1)
    events = _events(whole, [received])
    assert events == _events(cut, [received[:place], *(bytes([byte]) for byte in received[place:])]), (
        "cutting changed the meaning"
    )
    assert whole.outbound_bytes - said <= MOST_AMPLIFIED * len(received), "answers are longer than what asked for them"
    if events is not None:
        assert whole.data_to_send() == cut.data_to_send()


async def _serve(data: bytes) -> None:
    trial = Trial()
    trial.failure = Refusal(Code.NOT_FOUND, "nothing of the kind")
    ours, theirs = memory_stream_pair()

    async def read() -> None:
        while await ours.receive_some(65536):
            pass

    with trio.fail_after(3600):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(Server([trial.service()]).serve_connection, theirs)
            await ours.send_all(PREFACE + SETTINGS + wire_bytes(data))
            await trio.testing.wait_all_tasks_blocked()
            await ours.send_eof()
    assert trial.running == 0


def check_server(data: bytes) -> None:
    """A connection to a server ends, with its calls, and is no fault of ours."""
    with no_fault_logged():
        trio.run(partial(_serve, data), clock=MockClock(autojump_threshold=0))


async def _call(data: bytes) -> list[Note]:
    """Make two calls to a server that answers so; return what was answered."""
    ours, theirs = memory_stream_pair()
    found: list[Note] = []
    with trio.fail_after(3600):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reply, theirs, replies(data))
            try:
                async with channel_over(ours, "hostile", max_message_bytes=MESSAGE_BYTES) as channel:
                    found.append(await channel.unary(ECHO, Note(endpoint="x"), Note, deadline_seconds=10))
                    async with channel.stream(WATCH, Note(), Note, deadline_seconds=10) as said:
                        found += [each async for each in said]
            except RpcError:
                pass
            nursery.cancel_scope.cancel()
    return found


def check_client(data: bytes) -> None:
    """A call to a hostile server is answered, or ends in one RpcError."""
    with no_fault_logged():
        assert all(isinstance(each, Note) for each in answers(data))


def answers(data: bytes) -> list[Note]:
    """Return what two calls to a server that answers so are answered."""
    return trio.run(partial(_call, data), clock=MockClock(autojump_threshold=0))


def check_framing(data: bytes) -> None:
    """Messages are cut as gRPC has it, however their bytes arrive; the first that is too long or compressed is refused."""
    expected = _cut(data)
    assert _messages([data]) == expected
    assert _messages([bytes([byte]) for byte in data]) == expected


def _cut(data: bytes) -> list[bytes | Code]:
    """What gRPC's framing makes of the bytes, written as plainly as can be."""
    found: list[bytes | Code] = []
    while len(data) >= 5:
        length = int.from_bytes(data[1:5])
        if data[0]:
            return [*found, Code.UNIMPLEMENTED]
        if length > MOST_FRAMED:
            return [*found, Code.RESOURCE_EXHAUSTED]
        if len(data) < 5 + length:
            break
        found.append(data[5 : 5 + length])
        data = data[5 + length :]
    return found


def _messages(pieces: list[bytes]) -> list[bytes | Code]:
    reader, found = MessageReader(MOST_FRAMED), list[bytes | Code]()
    for piece in pieces:
        reader.feed(piece)
        try:
            while (message := reader.take()) is not None:
                found.append(message)
        except Refusal as refusal:
            return [*found, refusal.code]
    return found


MESSAGES: tuple[type[Message], ...] = tuple(
    message._concrete_class
    for module in (device_pb2, deviceplugin_pb2, podresources_pb2, runtime_pb2)
    for message in module.DESCRIPTOR.message_types_by_name.values()
)


def check_message(data: bytes) -> None:
    """Bytes are a message of the kind that their first byte picks, which survives being written again, or no message."""
    kind = MESSAGES[(data[0] if data else 0) % len(MESSAGES)]
    try:
        message = kind.FromString(data[1:])
    except DecodeError:
        return
    text = message.SerializeToString(deterministic=True)
    assert kind.FromString(text).SerializeToString(deterministic=True) == text


def _headers(stream: int, *fields: tuple[str, str], end: bool = False) -> HeadersFrame:
    made = HeadersFrame(stream, flags=["END_HEADERS", *(["END_STREAM"] if end else [])])
    made.data = Encoder().encode(list(fields))
    return made


def _request(stream: int, path: str = ECHO, *more: tuple[str, str]) -> HeadersFrame:
    fields = ((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a"), ("te", "trailers"))
    return _headers(stream, *fields, ("content-type", "application/grpc"), *more)


_OTHERS = [
    PingFrame(0, opaque_data=b"12345678"),
    SettingsFrame(0, settings={3: 5, 4: 70000, 1: 100}),
    WindowUpdateFrame(0, window_increment=2**30),
    WindowUpdateFrame(1, window_increment=1000),
    PriorityFrame(3, depends_on=1, stream_weight=3),
    RstStreamFrame(1, error_code=8),
    GoAwayFrame(0, last_stream_id=1, error_code=0, additional_data=b"x"),
]
_BODY = frame(Note(endpoint="x").SerializeToString())
_REQUESTS = tuple(
    script_of([_request(1, path, *more), RawClient.data(1, _BODY), *_OTHERS])
    for path, more in (
        (ECHO, [("grpc-timeout", "5S"), ("x-bin", "AAEC")]),
        (FAIL, [("grpc-encoding", "gzip")]),
        (FLOOD, [("grpc-timeout", "1m")]),
        (CHAT, [("grpc-timeout", "99999999H")]),
    )
)
_RESPONSES = tuple(
    script_of(
        [
            _headers(1, (":status", "200"), ("content-type", "application/grpc")),
            RawClient.data(1, _BODY, end=False),
            _headers(1, ("grpc-status", status), ("grpc-message", "a%20b"), end=True),
            _headers(3, (":status", "200"), ("content-type", "application/grpc")),
            RawClient.data(3, _BODY * 3, end=False),
            _headers(3, ("grpc-status", status), end=True),
            *_OTHERS,
        ]
    )
    for status in ("0", "13", "99")
)
_GARBLED = script_of(
    [_headers(1, (":status", "200"), ("content-type", "application/grpc")), RawClient.data(1, frame(b"\xff\xff"), end=False)]
)
_REFUSED = script_of([_headers(1, (":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "5"), end=True)])
_PADDED = DataFrame(1, flags=["PADDED"], pad_length=7)
_PADDED.data = _BODY
_RAW_REQUEST = RAW + b"".join(each.serialize() for each in (_request(1), _PADDED, *_OTHERS))
_HPACK = (
    *(
        b"\x7f" + b"\xff" * 200,
        b"\x3f\xe1\xff\x03",
        b"\x20",
        b"\x3f\xff\xff\xff\xff\x0f",
        b"\x82",
        b"\xff\x80\x01",
        b"\x00" * 4,
    ),
    *(b"\x40\x0agrpc-status\x010", b"\x04:bad\x01x", b"\x00\x01\x04\x00\x00\x00\x01", b"\x09\x04\x01\x04\x82\x82\x82\x82"),
)

TARGETS = (
    Target("http2-server", partial(_check_wire, client_side=False), (*_REQUESTS, _RAW_REQUEST), _HPACK, inputs=1500),
    Target(
        "http2-client",
        partial(_check_wire, client_side=True),
        (*_RESPONSES, _REFUSED, RAW + answer(_BODY[5:]) + answer(_BODY[5:], stream=3)),
        _HPACK,
        inputs=1500,
    ),
    Target("grpc-server", check_server, (*_REQUESTS, _RAW_REQUEST), _HPACK, inputs=300),
    Target("grpc-client", check_client, (*_RESPONSES, _REFUSED, _GARBLED), _HPACK, inputs=300),
    Target(
        "grpc-framing",
        check_framing,
        (_BODY, _BODY * 3, b"\x01\0\0\0\x01x", b"\0\0\0\0\x65" + bytes(101)),
        (b"\0\0\0\0\x64",),
        inputs=1500,
    ),
    Target(
        "protobuf",
        check_message,
        (
            *(bytes([number]) + kind().SerializeToString() for number, kind in enumerate(MESSAGES)),
            bytes([MESSAGES.index(device_pb2.GetDevicesResponse)]) + b"\x0a\x08\x0a\x01a\x12\x03\x0a\x01b",
        ),
        (
            b"\xff\xff\xff\xff\x0f",
            b"\xff" * 9 + b"\x01",
            b"\x0a\xff\xff\xff\xff\x07",
            b"\x0b",
            b"\x0c",
            b"\x0a\x02\xc3\x28",
            _SOME,
        ),
        inputs=6000,
    ),
)
