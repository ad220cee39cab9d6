"""What clients may do wrong on the wire: it costs them a stream or their connection, and nobody else anything."""

import random
import struct
from pathlib import Path

import pytest
import trio
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from mortalgpu.rpc.channel import open_channel
from mortalgpu.rpc.framing import frame
from mortalgpu.rpc.limits import Limits
from mortalgpu.rpc.status import Code
from tests.unit.rpc.trial import (
    CHAT,
    ECHO,
    FLOOD,
    HANG,
    PREFACE,
    WATCH,
    Note,
    RawClient,
    Trial,
    nothing_left_behind,
    raw_client,
    served,
)
from tests.waiting import until

OK, INVALID, EXHAUSTED, UNIMPLEMENTED, INTERNAL = (
    str(int(code)) for code in (Code.OK, Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED, Code.UNIMPLEMENTED, Code.INTERNAL)
)
NOTE = frame(Note(endpoint="x").SerializeToString())


class _Unknown(Frame):  # type: ignore[misc]  # hyperframe has no types
    """A frame of a type that HTTP/2 leaves to extensions."""

    type = 0xFA
    stream_association = "either"
    defined_flags: tuple[()] = ()

    def serialize_body(self) -> bytes:
        return b"abc"


def _window(stream_id: int, increment: int) -> WindowUpdateFrame:
    return WindowUpdateFrame(stream_id, window_increment=increment)


def _padded(client: RawClient) -> list[Frame]:
    padded = client.data(3, NOTE)
    padded.flags.add("PADDED")
    padded.pad_length = 200
    return [client.headers(3), padded]


def _self_dependent(client: RawClient) -> list[Frame]:
    return [*client.request(3, HANG), PriorityFrame(3, depends_on=3)]


STREAM_FAULTS = {
    "headers that end the stream": (lambda c: [c.headers(3, ECHO, ("END_STREAM",))], INVALID),
    "end without a message": (lambda c: [c.headers(3), c.data(3, b"")], INVALID),
    "half a message": (lambda c: [c.headers(3), c.data(3, NOTE[:-1])], INVALID),
    "two messages for a unary method": (lambda c: [c.headers(3), c.data(3, NOTE + NOTE)], INVALID),
    "not the message of this method": (lambda c: [c.headers(3), c.data(3, frame(b"\xff\xff\xff"))], INVALID),
    "a message announced too large": (lambda c: [c.headers(3), c.data(3, struct.pack(">BI", 0, 2**31))], EXHAUSTED),
    "a compressed message": (lambda c: [c.headers(3), c.data(3, struct.pack(">BI", 1, 0))], UNIMPLEMENTED),
    "an encoding we do not know": (lambda c: c.request(3, grpc_encoding="gzip"), UNIMPLEMENTED),
    "a method nobody serves": (lambda c: c.request(3, "/trial.Trial/No"), UNIMPLEMENTED),
    "a path that is no method": (lambda c: c.request(3, "/"), INTERNAL),
    "a path too deep": (lambda c: c.request(3, "/a/b/c"), INTERNAL),
    "another verb": (lambda c: c.request(3, _method="GET"), INTERNAL),
    "no te header": (lambda c: c.request(3, te=""), INTERNAL),
    "another content type": (lambda c: c.request(3, content_type="text/html"), INTERNAL),
    "a broken timeout": (lambda c: c.request(3, grpc_timeout="1x"), INTERNAL),
    "an endless timeout": (lambda c: c.request(3, grpc_timeout="9" * 40 + "H"), INTERNAL),
    "binary metadata that is not": (lambda c: c.request(3, x_bin="\u00e9!"), INTERNAL),
    "metadata above the limit": (lambda c: c.request(3, big="z" * 17_000), EXHAUSTED),
    "a header name in capitals": (lambda c: c.request(3, Upper="x"), "reset 1"),
    "a header of HTTP/1": (lambda c: c.request(3, connection="close"), "reset 1"),
    "a body length that is not kept": (lambda c: c.request(3, content_length="3"), "reset 1"),
    "a window opened by nothing": (lambda c: [*c.request(3, HANG), _window(3, 0)], "reset 1"),
    "a window opened too far": (lambda c: [*c.request(3, HANG), *[_window(3, 2**31 - 1)] * 2], "reset 3"),
    "a stream that depends on itself": (_self_dependent, "goaway 1"),
    "data after the end": (lambda c: [*c.request(3, HANG), c.data(3, NOTE)], "reset 5"),
}


@pytest.mark.parametrize(("fault", "expected"), STREAM_FAULTS.values(), ids=STREAM_FAULTS)
async def test_a_fault_costs_only_its_stream(tmp_path: Path, fault, expected: str) -> None:  # type: ignore[no-untyped-def]
    trial = Trial()
    async with nothing_left_behind(), served(trial, tmp_path / "s") as server:
        async with raw_client(tmp_path / "s") as client:
            await client.send(*client.request(1, WATCH))
            await until(lambda: trial.running == 1)
            await client.send(*fault(client))
            assert await client.status_of(3) == expected
            if not expected.startswith("goaway"):
                await client.send(*client.request(5))
                assert await client.status_of(5) == OK
                assert trial.running == 1
        await until(lambda: server.connections == 0 and trial.running == 0)


HARMLESS = {
    "a window update for a stream long over": lambda c: [_window(1, 5)],
    "a reset of a stream long over": lambda c: [c.reset(1)],
    "data for a stream long over": lambda c: [c.data(1, NOTE)],
    "trailers for a stream long over": lambda c: [HeadersFrame(1, c.headers(1).data, flags=["END_HEADERS", "END_STREAM"])],
    "a frame of unknown type": lambda c: [_Unknown(0)],
    "a priority for a stream never opened": lambda c: [PriorityFrame(9, depends_on=0)],
    "a ping": lambda c: [PingFrame(0, opaque_data=b"12345678")],
    "settings once more": lambda c: [SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 100})],
    "a goodbye before the last call": lambda c: [GoAwayFrame(0, last_stream_id=0, error_code=0)],
}


@pytest.mark.parametrize("oddity", HARMLESS.values(), ids=HARMLESS)
async def test_an_oddity_costs_nothing(tmp_path: Path, oddity) -> None:  # type: ignore[no-untyped-def]
    trial = Trial()
    async with nothing_left_behind(), served(trial, tmp_path / "s"), raw_client(tmp_path / "s") as client:
        await client.send(*client.request(1))
        assert await client.status_of(1) == OK
        # Makes the server forget the first stream.
        await client.send(*client.request(3 - 2 + 2 * 10))
        assert await client.status_of(21) == OK
        await client.send(*(f for f in oddity(client) if f.stream_id in (0, 1, 9)))
        await client.send(*client.request(23))
        assert await client.status_of(23) == OK


@pytest.mark.parametrize(
    "more", [{"x_anything": "1"}, {"grpc_anything": "2"}, {"_authority": "/var/lib/kubelet/device-plugins/a.sock"}]
)
async def test_a_request_with_odd_headers_is_answered(tmp_path: Path, more: dict[str, str]) -> None:
    async with served(Trial(), tmp_path / "s"), raw_client(tmp_path / "s") as client:
        await client.send(*client.request(1, **more))
        assert await client.status_of(1) == OK


@pytest.mark.parametrize("authority", ["localhost", "/var/lib/kubelet/device-plugins/x.sock", "%2Fvar%2Flib%2Fx.sock"])
async def test_each_kubelets_authority_is_accepted(tmp_path: Path, authority: str) -> None:
    trial = Trial()
    async with served(trial, tmp_path / "s"), raw_client(tmp_path / "s") as client:
        await client.send(*client.request(1, _authority=authority))
        assert await client.status_of(1) == OK
    assert trial.calls[0].authority == authority


async def test_padding_is_given_back_to_the_window(tmp_path: Path) -> None:
    async with served(Trial(), tmp_path / "s"), raw_client(tmp_path / "s") as client:
        await client.send(*_padded(client))
        assert await client.status_of(3) == OK


CONNECTION_FAULTS = {
    "garbage": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "nothing but zeros": b"\0" * 4096,
    "a TLS greeting": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"r" * 200,
    "a frame longer than allowed": PREFACE
    + SettingsFrame(0).serialize()
    + b"\x7f\xff\xff\x00\x00\x00\x00\x00\x01"
    + b"x" * 70_000,
    "broken header compression": PREFACE + SettingsFrame(0).serialize() + b"\0\0\x04\x01\x04\0\0\0\x01\xff\xff\xff\xff",
    "a lone continuation": PREFACE + SettingsFrame(0).serialize() + ContinuationFrame(1, b"abc").serialize(),
    "a push from a client": PREFACE
    + SettingsFrame(0).serialize()
    + PushPromiseFrame(1, promised_stream_id=2, flags=["END_HEADERS"]).serialize(),
    "settings with a stream": PREFACE + b"\0\0\0\x04\0\0\0\0\x07",
    "settings of odd length": PREFACE + b"\0\0\x05\x04\0\0\0\0\0abcde",
    "an impossible setting": PREFACE + SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 2**31}).serialize(),
    "data before any call": PREFACE + SettingsFrame(0).serialize() + DataFrame(1, b"abc").serialize(),
    "a ping of odd length": PREFACE + b"\0\0\x03\x06\0\0\0\0\0abc",
}


@pytest.mark.parametrize("data", CONNECTION_FAULTS.values(), ids=CONNECTION_FAULTS)
async def test_a_broken_connection_is_closed_and_others_live(tmp_path: Path, data: bytes) -> None:
    trial = Trial()
    async with nothing_left_behind(), served(trial, tmp_path / "s") as server, open_channel(str(tmp_path / "s")) as neighbour:
        async with neighbour.stream(WATCH, Note(), Note) as answers:
            await answers.receive()
            async with raw_client(tmp_path / "s", greet=False) as client:
                await client.stream.send_all(data)
                assert await client.ended()
            await until(lambda: server.connections == 1)
            assert trial.running == 1
            assert (await neighbour.unary(ECHO, Note(endpoint="alive"), Note)).endpoint == "alive"


async def test_half_a_frame_waits_and_then_counts_as_nothing(tmp_path: Path) -> None:
    trial = Trial()
    async with nothing_left_behind(), served(trial, tmp_path / "s") as server:
        async with raw_client(tmp_path / "s") as client:
            first, second = client.request(1)
            whole = first.serialize() + second.serialize()
            await client.stream.send_all(whole[:-3])
            await trio.sleep(0.05)
            assert trial.calls == []
            await client.stream.send_all(whole[-3:])
            assert await client.status_of(1) == OK
            await client.stream.send_all(whole[:13])
        await until(lambda: server.connections == 0)


async def test_giant_metadata_ends_the_connection(tmp_path: Path) -> None:
    async with nothing_left_behind(), served(Trial(), tmp_path / "s") as server:
        async with raw_client(tmp_path / "s") as client:
            part = b"z" * 16_000
            await client.send(HeadersFrame(1, client.headers(1).data), *[ContinuationFrame(1, part)] * 12)
            await client.send(ContinuationFrame(1, part, flags=["END_HEADERS"]))
            assert await client.status_of(1) == "goaway 11"
            assert await client.ended()
        await until(lambda: server.connections == 0)


async def test_endless_continuations_end_the_connection(tmp_path: Path) -> None:
    async with served(Trial(), tmp_path / "s"), raw_client(tmp_path / "s") as client:
        await client.send(HeadersFrame(1, b"x"), *[ContinuationFrame(1, b"") for _ in range(100)])
        assert await client.ended()


async def test_a_reset_cancels_the_handler_and_spares_the_neighbour(tmp_path: Path) -> None:
    trial = Trial()
    async with nothing_left_behind(), served(trial, tmp_path / "s"), raw_client(tmp_path / "s") as client:
        await client.send(*client.request(1, WATCH), *client.request(3, HANG))
        await until(lambda: trial.running == 2)
        await client.send(client.reset(3))
        await until(lambda: trial.running == 1)
        await client.send(*client.request(5), client.reset(1))
        assert await client.status_of(5) == OK
        await until(lambda: trial.running == 0)


async def test_a_reset_before_the_request_is_complete_ends_the_wait(tmp_path: Path) -> None:
    async with nothing_left_behind(), served(Trial(), tmp_path / "s"), raw_client(tmp_path / "s") as client:
        await client.send(client.headers(1), client.data(1, NOTE[:3], end=False), client.reset(1))
        await client.send(*client.request(3))
        assert await client.status_of(3) == OK


async def test_a_request_that_never_completes_runs_out_of_time(tmp_path: Path) -> None:
    async with served(Trial(), tmp_path / "s", Limits(unary_seconds=0.1)), raw_client(tmp_path / "s") as client:
        await client.send(client.headers(1, WATCH), client.data(1, NOTE, end=False))
        assert await client.status_of(1) == str(int(Code.DEADLINE_EXCEEDED))


async def test_more_streams_than_allowed_are_refused_one_by_one(tmp_path: Path) -> None:
    trial = Trial()
    async with served(trial, tmp_path / "s", Limits(max_streams=3)), raw_client(tmp_path / "s") as client:
        for stream_id in (1, 3, 5, 7):
            await client.send(*client.request(stream_id, HANG))
        assert await client.status_of(7) == "reset 7"
        await until(lambda: trial.running == 3)
        await client.send(client.reset(1))
        await client.send(*client.request(9, ECHO))
        assert await client.status_of(9) == OK


async def _reset_for_ever(client: RawClient) -> None:
    for stream_id in range(1, 2**31, 2):
        await client.send(*client.request(stream_id, HANG), client.reset(stream_id))


async def _ping_for_ever(client: RawClient) -> None:
    while True:
        await client.stream.send_all(PingFrame(0, opaque_data=b"12345678").serialize() * 1000)


async def test_rapid_resets_end_the_connection_and_no_other(tmp_path: Path) -> None:
    trial = Trial()
    async with nothing_left_behind(), served(trial, tmp_path / "s") as server, open_channel(str(tmp_path / "s")) as neighbour:
        async with raw_client(tmp_path / "s") as client:
            with pytest.raises(trio.BrokenResourceError):
                await _reset_for_ever(client)
        await until(lambda: trial.running == 0 and server.connections == 1)
        assert (await neighbour.unary(ECHO, Note(endpoint="alive"), Note)).endpoint == "alive"


async def test_a_flood_of_pings_ends_the_connection(tmp_path: Path) -> None:
    async with nothing_left_behind(), served(Trial(), tmp_path / "s") as server:
        async with raw_client(tmp_path / "s") as client:
            with pytest.raises(trio.BrokenResourceError):
                await _ping_for_ever(client)
        await until(lambda: server.connections == 0)


async def test_a_busy_honest_client_is_never_taken_for_a_flood(tmp_path: Path) -> None:
    async with served(Trial(), tmp_path / "s"), raw_client(tmp_path / "s") as client:
        ping = PingFrame(0, opaque_data=b"12345678")
        for stream_id in range(1, 2001, 2):
            await client.send(*client.request(stream_id), *[ping] * 8, _window(0, 100))
            assert await client.status_of(stream_id) == OK


async def test_a_chat_with_a_full_window_goes_on_for_ever(tmp_path: Path) -> None:
    async with nothing_left_behind(), served(Trial(), tmp_path / "s"), raw_client(tmp_path / "s") as client:
        await client.send(client.headers(1, CHAT), _window(0, 2**30), _window(1, 2**30))
        big = frame(Note(endpoint="w" * 16_000).SerializeToString())
        answered = 0
        for _ in range(50):
            await client.send(client.data(1, big, end=False))
            while answered < len(big):
                found = await client.next_frame()
                answered += len(found.data) if isinstance(found, DataFrame) else 0
            answered -= len(big)
        await client.send(client.data(1, b""))
        assert await client.status_of(1) == OK


async def test_a_slow_reader_on_one_stream_does_not_hold_up_another(tmp_path: Path) -> None:
    trial = Trial()
    async with nothing_left_behind(), served(trial, tmp_path / "s"), raw_client(tmp_path / "s") as client:
        await client.send(_window(0, 2**30), *client.request(1, FLOOD, text="f" * 5000))
        await until(lambda: trial.running == 1)
        await client.send(*client.request(3))
        assert await client.status_of(3) == OK
        await client.send(client.reset(1))
        await until(lambda: trial.running == 0)


@pytest.mark.parametrize("seed", range(30))
async def test_random_frames_never_hurt_the_server(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    trial = Trial()
    async with nothing_left_behind(), served(trial, tmp_path / "s") as server:
        for _ in range(10):
            async with raw_client(tmp_path / "s") as client:
                await _misbehave(client, dice)
        await until(lambda: server.connections == 0 and trial.running == 0)
        async with open_channel(str(tmp_path / "s")) as channel:
            assert (await channel.unary(ECHO, Note(endpoint="alive"), Note)).endpoint == "alive"


async def _misbehave(client: RawClient, dice: random.Random) -> None:
    try:
        await client.send(*client.request(1, dice.choice([WATCH, HANG, ECHO, CHAT])))
        for _ in range(dice.randrange(1, 8)):
            length, kind, flags = dice.randrange(40), dice.randrange(12), dice.choice([0, 1, 4, 5, 8, 0x20, 0x25, 255])
            header = struct.pack(">HBBBI", length >> 8, length & 255, kind, flags, dice.choice([0, 1, 1, 2, 3, 5, 2**31 - 1]))
            await client.stream.send_all(header + dice.randbytes(length))
    except trio.BrokenResourceError:
        return
