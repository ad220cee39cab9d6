"""Moves the bytes of one gRPC connection over a Trio stream, for server and client alike. Knows no services and no methods.

Memory is bounded: what a peer may send is bounded by its streams' windows, which open again only when a message was taken;
what waits to be sent stops senders at SENDERS_WAIT_BYTES and reading (whose answers also need sending) at READER_WAITS_BYTES.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import trio
from trio.lowlevel import ParkingLot

from mortalgpu.rpc.framing import PREFIX, MessageReader, frame
from mortalgpu.rpc.wire import Event, Received, RoomToSend, Wire

RECEIVE_BYTES = 32768
TURN_SECONDS = 0.002
"""After reading for so long, the others have their turn."""
SENDERS_WAIT_BYTES = 2**17
READER_WAITS_BYTES = 2**18


class ConnectionLost(Exception):
    """The connection is gone, or too slow to be worth keeping."""


class StreamGone(Exception):
    """The stream was reset, or its connection is gone."""


class GrpcStream:
    """One call's two directions on a connection."""

    def __init__(self, connection: "Connection", stream_id: int, max_message_bytes: int) -> None:
        self.stream_id = stream_id
        self.peer_ended = False
        self.gone = False
        self._may_send = True
        self._connection = connection
        self._reader = MessageReader(max_message_bytes)
        self._news = ParkingLot()
        self._room = ParkingLot()

    def feed(self, event: Received) -> None:
        """Keep bytes that came for this stream."""
        self._reader.feed(event.data)
        self._connection.wire.release(self.stream_id, event.padding_bytes)
        self._news.unpark_all()

    def peer_has_ended(self) -> None:
        """Note that nothing more will come."""
        self.peer_ended = True
        self._news.unpark_all()

    def break_off(self) -> None:
        """Make all who wait on this stream fail with `StreamGone`."""
        self.gone = True
        self._news.unpark_all()
        self.stop_sending()

    def stop_sending(self) -> None:
        """Make senders fail with `StreamGone`, while what came can still be received."""
        self._may_send = False
        self._room.unpark_all()

    def may_send_again(self) -> None:
        """Wake who waits for room."""
        self._room.unpark_all()

    async def receive(self) -> bytes | None:
        """Wait for the next message; None at the peer's end (half a message before it is dropped).

        Raises `StreamGone`, and `Refusal` for a message that is too large or compressed.
        """
        while True:
            if self.gone:
                raise StreamGone
            message = self._reader.take()
            if message is not None:
                self._connection.wire.release(self.stream_id, PREFIX.size + len(message))
                self._connection.flush()
                return message
            if self.peer_ended:
                return None
            await self._news.park()

    async def send(self, message: bytes, *, last: bool = False) -> None:
        """Hand one message to the connection, waiting for the peer's flow control. Raises `StreamGone`.

        Cancelled halfway, the stream is of no use any more and must be reset.
        """
        wire = self._connection.wire
        rest = memoryview(frame(message))
        while len(rest):
            await self._connection.wait_for_senders_turn()
            if not self._may_send:
                raise StreamGone
            size = min(len(rest), wire.room_bytes(self.stream_id))
            if not size:
                with self._connection.patience():
                    await self._room.park()
                continue
            wire.send_data(self.stream_id, bytes(rest[:size]), end_stream=last and size == len(rest))
            rest = rest[size:]
            self._connection.flush()


class Connection:
    """Pumps one connection. `stall_seconds`: how long a peer may refuse to take what waits for it before it is given up.

    `piece_bytes`: how much is read at a time of what was received, which may be hundreds of requests.
    """

    def __init__(
        self,
        transport: trio.abc.Stream,
        wire: Wire,
        *,
        max_message_bytes: int,
        stall_seconds: float,
        piece_bytes: int = RECEIVE_BYTES,
    ) -> None:
        self.wire = wire
        self.streams: dict[int, GrpcStream] = {}
        self._transport = transport
        self._max_message_bytes = max_message_bytes
        self._stall_seconds = stall_seconds
        self._sending_bytes = 0
        self._piece_bytes = piece_bytes
        self._received = memoryview(b"")
        self._turn_ends = 0.0
        self._dirty = trio.Event()
        self._drained = ParkingLot()
        wire.initiate_connection()

    @property
    def outbound_bytes(self) -> int:
        """Bytes queued or in the middle of being sent."""
        return self.wire.outbound_bytes + self._sending_bytes

    def flush(self) -> None:
        """Have the writer send what is queued; never blocks."""
        self._dirty.set()

    async def write(self) -> None:
        """Send what is queued, for ever. Raises `ConnectionLost`."""
        while True:
            self._dirty = trio.Event()
            data = self.wire.data_to_send()
            if not data:
                await self._dirty.wait()
                continue
            self._sending_bytes = len(data)
            try:
                with self.patience():
                    await self._transport.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ConnectionLost("the connection broke") from error
            self._sending_bytes = 0
            self._drained.unpark_all()

    async def read(self) -> list[Event] | None:
        """Wait for bytes and return their events; None at the end. Raises `ConnectionLost`, `WireError`."""
        while self.outbound_bytes > READER_WAITS_BYTES:
            await self._drained.park()
        if not self._received:
            self._received = await self._receive()
            if not self._received:
                return None
        elif time.monotonic() >= self._turn_ends:
            await trio.lowlevel.checkpoint()
            self._turn_ends = time.monotonic() + TURN_SECONDS
        piece, self._received = self._received[: self._piece_bytes], self._received[self._piece_bytes :]
        events = self.wire.receive(bytes(piece))
        self.flush()
        return events

    async def _receive(self) -> memoryview:
        try:
            data = await self._transport.receive_some(RECEIVE_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionLost("the connection broke") from error
        self._turn_ends = time.monotonic() + TURN_SECONDS
        return memoryview(data)

    async def drain(self) -> None:
        """Wait until all that is queued was handed to the operating system."""
        self.flush()
        while self.outbound_bytes:
            await self._drained.park()

    async def wait_for_senders_turn(self) -> None:
        """Wait while enough is queued already. A checkpoint."""
        await trio.lowlevel.checkpoint()
        while self.outbound_bytes > SENDERS_WAIT_BYTES:
            await self._drained.park()

    @contextmanager
    def patience(self) -> Iterator[None]:
        """Turn a peer's stall into `ConnectionLost`."""
        if math.isinf(self._stall_seconds):
            yield
            return
        with trio.move_on_after(self._stall_seconds) as scope:
            yield
        if scope.cancelled_caught:
            raise ConnectionLost(f"the peer took nothing for {self._stall_seconds:g} s")

    def add_stream(self, stream_id: int) -> GrpcStream:
        """Begin to keep what comes for a stream."""
        stream = self.streams[stream_id] = GrpcStream(self, stream_id, self._max_message_bytes)
        return stream

    def forget_stream(self, stream_id: int) -> None:
        """Drop a stream; what still comes for it is let through to nobody."""
        self.streams.pop(stream_id, None)

    def deliver(self, event: Received | RoomToSend) -> None:
        """Pass bytes or room on to their stream. Bytes nobody waits for are given back to the peer's window."""
        if isinstance(event, RoomToSend):
            waiting = self.streams.values() if event.stream_id == 0 else filter(None, [self.streams.get(event.stream_id)])
            for stream in waiting:
                stream.may_send_again()
        elif event.stream_id in self.streams:
            self.streams[event.stream_id].feed(event)
        else:
            self.wire.release(event.stream_id, len(event.data) + event.padding_bytes)
