"""A service to try servers and clients with, a client that speaks raw frames, and a check that nothing is left behind."""

import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from hpack.hpack import Decoder, Encoder
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, RstStreamFrame, SettingsFrame
from trio.testing import memory_stream_pair

from mortalgpu.rpc.channel import Channel, channel_over
from mortalgpu.rpc.framing import frame
from mortalgpu.rpc.limits import Limits
from mortalgpu.rpc.listener import UnixListener
from mortalgpu.rpc.pb.deviceplugin.v1beta1.deviceplugin_pb2 import RegisterRequest
from mortalgpu.rpc.server import Call, Receive, Send, Server, Service, bidirectional, streaming, unary
from tests.waiting import until

Note = RegisterRequest
"""A message with some text in it."""

ECHO, FAIL, HANG, WATCH, FLOOD, CHAT = (f"/trial.Trial/{name}" for name in ("Echo", "Fail", "Hang", "Watch", "Flood", "Chat"))
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Trial:
    """Handlers that behave in all ways; `running` counts those under way, `calls` keeps what each was told."""

    def __init__(self) -> None:
        self.running = 0
        self.calls: list[Call] = []
        self.sent = 0
        self.failure: Exception = RuntimeError("secret of the house")

    def service(self) -> Service:
        """The table for a server."""
        return Service(
            "trial.Trial",
            {
                "Echo": unary(Note, self._echo),
                "Fail": unary(Note, self._fail),
                "Hang": unary(Note, self._hang),
                "Watch": streaming(Note, self._watch),
                "Flood": streaming(Note, self._flood),
                "Chat": bidirectional(Note, self._chat),
            },
        )

    async def _echo(self, note: Note, call: Call) -> Note:
        self.calls.append(call)
        return note

    async def _fail(self, _note: Note, _call: Call) -> Note:
        raise self.failure

    async def _hang(self, note: Note, call: Call) -> Note:
        self.calls.append(call)
        await self._stay()
        return note

    async def _watch(self, note: Note, call: Call, send: Send) -> None:
        self.calls.append(call)
        await send(note)
        await self._stay()

    async def _flood(self, note: Note, _call: Call, send: Send) -> None:
        self.running += 1
        try:
            while True:
                await send(note)
                self.sent += 1
        finally:
            self.running -= 1

    async def _chat(self, receive: Receive[Note], _call: Call, send: Send) -> None:
        while (note := await receive()) is not None:
            await send(note)

    async def _stay(self) -> None:
        self.running += 1
        try:
            await trio.sleep_forever()
        finally:
            self.running -= 1


@asynccontextmanager
async def served(trial: Trial, path: Path, limits: Limits | None = None) -> AsyncIterator[Server]:
    """Serve a trial on a Unix socket for the length of a block."""
    server = Server([trial.service()], limits)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, [await UnixListener.bind(path)])
        yield server
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def in_memory(trial: Trial, limits: Limits | None = None) -> AsyncIterator[Channel]:
    """Give a channel to a trial without any socket: fit for virtual time."""
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Server([trial.service()], limits).serve_connection, theirs)
        async with channel_over(ours, "memory") as channel:
            yield channel
        nursery.cancel_scope.cancel()


def _resources() -> tuple[int, int, int]:
    tasks = trio.lowlevel.current_statistics().tasks_living
    return len(os.listdir("/proc/self/fd")), tasks, threading.active_count()


@asynccontextmanager
async def nothing_left_behind() -> AsyncIterator[None]:
    """Fail unless open files, tasks and threads are, soon after the block, where they were before it."""
    before = _resources()
    yield
    await until(lambda: _resources() <= before)
    assert all(now <= then for now, then in zip(_resources(), before, strict=True))


class RawClient:
    """Speaks HTTP/2 frame by frame, right or wrong."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._encoder = Encoder()
        self._decoder = Decoder()
        self._buffer = b""

    async def greet(self) -> None:
        """Send the preface and empty settings."""
        await self.stream.send_all(PREFACE + SettingsFrame(0).serialize())

    async def send(self, *frames: Frame) -> None:
        """Send frames as they are."""
        await self.stream.send_all(b"".join(f.serialize() for f in frames))

    def headers(self, stream_id: int, method: str = ECHO, flags: tuple[str, ...] = (), **more: str) -> HeadersFrame:
        """Make a request's headers; keyword arguments add to them or replace, with _ for - and for : in front."""
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": method,
            ":authority": "localhost",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        fields |= {(":" + n[1:] if n[0] == "_" else n).replace("_", "-"): v for n, v in more.items()}
        made = HeadersFrame(stream_id, flags=["END_HEADERS", *flags])
        made.data = self._encoder.encode([(name, value) for name, value in fields.items() if value])
        return made

    @staticmethod
    def data(stream_id: int, data: bytes, *, end: bool = True) -> DataFrame:
        """Make a data frame."""
        made = DataFrame(stream_id, flags=["END_STREAM"] if end else [])
        made.data = data
        return made

    def request(self, stream_id: int, method: str = ECHO, text: str = "x", **more: str) -> list[Frame]:
        """Make a whole call."""
        message = frame(Note(endpoint=text).SerializeToString())
        return [self.headers(stream_id, method, (), **more), self.data(stream_id, message)]

    @staticmethod
    def reset(stream_id: int, code: int = 8) -> RstStreamFrame:
        """Make a reset."""
        return RstStreamFrame(stream_id, error_code=code)

    async def next_frame(self) -> Frame | None:
        """Wait for the next frame; None at the end of the connection."""
        while True:
            if len(self._buffer) >= 9:
                found, length = Frame.parse_frame_header(self._buffer[:9])
                if len(self._buffer) >= 9 + length:
                    found.parse_body(memoryview(self._buffer[9 : 9 + length]))
                    self._buffer = self._buffer[9 + length :]
                    return found
            try:
                data = await self.stream.receive_some(65536)
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            self._buffer += data

    async def status_of(self, stream_id: int) -> str | None:
        """Read until a stream ends; return its grpc-status, `reset N`, `goaway N`, or None at the connection's end."""
        with trio.fail_after(10):
            while (found := await self.next_frame()) is not None:
                if isinstance(found, HeadersFrame):
                    headers = dict(self._decoder.decode(found.data))
                    if found.stream_id == stream_id and "grpc-status" in headers:
                        return str(headers["grpc-status"])
                if isinstance(found, RstStreamFrame) and found.stream_id == stream_id:
                    return f"reset {found.error_code}"
                if isinstance(found, GoAwayFrame):
                    return f"goaway {found.error_code}"
        return None

    async def ended(self, seconds: float = 10) -> bool:
        """Read until the connection ends."""
        with trio.fail_after(seconds):
            while await self.next_frame() is not None:
                pass
        return True


@asynccontextmanager
async def raw_client(path: Path, *, greet: bool = True) -> AsyncIterator[RawClient]:
    """Connect a raw client for the length of a block."""
    async with await trio.open_unix_socket(path) as stream:
        client = RawClient(stream)
        if greet:
            await client.greet()
        yield client
