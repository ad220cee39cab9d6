"""A gRPC client: one connection, any number of calls on it. Reconnecting is the caller's business.

Light to import, for mgctl. Time limits are the caller's: `deadline_seconds`, or any Trio scope around the call; the server is
told the shorter of both.
"""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import trio
from google.protobuf.message import DecodeError, Message
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

from mortalgpu.rpc.connection import Connection, ConnectionLost, GrpcStream, StreamGone
from mortalgpu.rpc.dial import connect, socket_path
from mortalgpu.rpc.status import Code, Refusal, RpcError, Unavailable
from mortalgpu.rpc.wire import (
    Event,
    GoingAway,
    Greeted,
    Metadata,
    PeerEnded,
    Received,
    Requested,
    Reset,
    RoomToSend,
    Unreadable,
    Wire,
)
from mortalgpu.rpc.wire import WireError as _WireError

Response = TypeVar("Response", bound=Message)

MAX_MESSAGE_BYTES = 2**24
"""Of an answer: what upstream's clients grant kubelet's pod-resources."""

_RESET_CODES: dict[int, Code] = {
    ErrorCodes.CANCEL: Code.CANCELLED,
    ErrorCodes.REFUSED_STREAM: Code.UNAVAILABLE,
    ErrorCodes.ENHANCE_YOUR_CALM: Code.RESOURCE_EXHAUSTED,
}


class _ClientCall:
    """One call of a channel."""

    def __init__(self, stream: GrpcStream) -> None:
        self.stream = stream
        self.status: tuple[Code, str] | None = None


class Channel:
    """An open connection to a server; made by `open_channel` and `channel_over`."""

    def __init__(self, connection: Connection, address: str, authority: str) -> None:
        self.address = address
        self._connection = connection
        self._authority = authority
        self._calls: dict[int, _ClientCall] = {}
        self._lost: str | None = None

    async def unary(
        self,
        method: str,
        request: Message,
        response_class: type[Response],
        *,
        metadata: Metadata = (),
        deadline_seconds: float | None = None,
    ) -> Response:
        """Call `/package.Service/Method` and return its one answer.

        Raises `RpcError` with the server's status, or DEADLINE_EXCEEDED after `deadline_seconds`; `Unavailable` when the
        connection is lost. Cancelling resets the call at the server.
        """
        async with self.stream(
            method, request, response_class, metadata=metadata, deadline_seconds=deadline_seconds
        ) as answers:
            answer = await answers.receive()
            if answer is None:
                raise RpcError(Code.INTERNAL, f"{self.address}: the server ended {method} without an answer")
            if await answers.receive() is not None:
                raise RpcError(Code.INTERNAL, f"{self.address}: the server gave {method} more than one answer")
            return answer

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        request: Message,
        response_class: type[Response],
        *,
        metadata: Metadata = (),
        deadline_seconds: float | None = None,
    ) -> AsyncIterator["Answers[Response]"]:
        """Call a server-streaming method; leaving the block ends the call. Raises as `unary`."""
        deadline = trio.current_time() + (math.inf if deadline_seconds is None else deadline_seconds)
        call = self._start(method, metadata, deadline)
        answers = Answers(self, call, response_class, deadline)
        try:
            await answers.send_only(request)
            yield answers
        finally:
            self._finish(call)

    def _start(self, method: str, metadata: Metadata, deadline: float) -> _ClientCall:
        if self._lost is not None:
            raise Unavailable(self.address, self._lost)
        left = min(deadline, trio.current_effective_deadline()) - trio.current_time()
        try:
            stream_id = self._connection.wire.ask(method, self._authority, None if math.isinf(left) else left, metadata)
        except ProtocolError as error:
            raise Unavailable(self.address, f"the server allows no more calls: {error}") from error
        call = self._calls[stream_id] = _ClientCall(self._connection.add_stream(stream_id))
        self._connection.flush()
        return call

    def _finish(self, call: _ClientCall) -> None:
        stream_id = call.stream.stream_id
        self._calls.pop(stream_id, None)
        self._connection.forget_stream(stream_id)
        if call.status is None and self._lost is None:
            self._connection.wire.cancel(stream_id)
            self._connection.flush()

    def error_of(self, call: _ClientCall) -> RpcError:
        """Why a call ended, as an error to raise."""
        if call.status is not None:
            return RpcError(*call.status)
        return Unavailable(self.address, self._lost or "the call was broken off")

    async def pump(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Move bytes until the connection ends; never raises for that, calls do."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write)
            task_status.started()
            self.lose(await self._read_to_the_end())
            nursery.cancel_scope.cancel()

    async def _write(self) -> None:
        try:
            await self._connection.write()
        except ConnectionLost as error:
            self.lose(str(error))

    async def _read_to_the_end(self) -> str:
        """Handle what comes; return why it ended."""
        try:
            while (events := await self._connection.read()) is not None:
                for event in events:
                    self._handle(event)
        except (ConnectionLost, _WireError) as error:
            return str(error)
        return "the server closed the connection"

    def lose(self, cause: str) -> None:
        """Fail all calls, now and from now on, but those whose end has come already."""
        self._lost = self._lost or cause
        for call in self._calls.values():
            if call.status is None:
                call.stream.break_off()

    def _handle(self, event: Event) -> None:
        match event:
            case Received() if self._has_ended(event.stream_id):
                pass
            case Received() | RoomToSend():
                self._connection.deliver(event)
            case PeerEnded() if event.stream_id in self._calls:
                self._note_end(self._calls[event.stream_id], event)
            case Reset() if event.stream_id in self._calls:
                self._note_reset(self._calls[event.stream_id], event.error_code)
            case GoingAway():
                self._stop_asking(event.last_stream_id)
            case PeerEnded() | Reset() | Greeted() | Requested() | Unreadable():
                pass

    def _has_ended(self, stream_id: int) -> bool:
        """Whether a call's status is known already; what comes then is no message (a web page after the headers, say)."""
        return stream_id in self._calls and self._calls[stream_id].status is not None

    def _note_reset(self, call: _ClientCall, error_code: int) -> None:
        """End a call, unless its status came before: a server stops clients that way whose requests it need not read."""
        if call.status is None:
            code = _RESET_CODES.get(error_code, Code.INTERNAL)
            call.status = (code, f"{self.address}: the server reset the call (code {error_code})")
            call.stream.break_off()

    @staticmethod
    def _note_end(call: _ClientCall, event: PeerEnded) -> None:
        if event.code is not None:
            call.status = call.status or (event.code, event.text)
            call.stream.stop_sending()
        elif call.status is None:
            call.status = (Code.INTERNAL, "the server ended the call without a status")
        call.stream.peer_has_ended()

    def _stop_asking(self, last_stream_id: int) -> None:
        """The server goes away: what it has taken on it finishes, the rest fails."""
        self._lost = self._lost or "the server is going away"
        for stream_id, call in self._calls.items():
            if stream_id > last_stream_id and call.status is None:
                call.stream.break_off()


class Answers(AsyncIterator[Response]):
    """What a call answers: iterate, or `receive` one at a time."""

    def __init__(self, channel: Channel, call: _ClientCall, response_class: type[Response], deadline: float) -> None:
        self._channel = channel
        self._call = call
        self._response_class = response_class
        self._deadline = deadline

    async def send_only(self, request: Message) -> None:
        """Send the request and end our side."""
        with self._time_limit():
            try:
                await self._call.stream.send(request.SerializeToString(), last=True)
            except StreamGone:
                # A server may refuse before it has read all; its status says why.
                if self._call.status is None:
                    raise self._channel.error_of(self._call) from None

    async def receive(self) -> Response | None:
        """Wait for the next answer; None at a good end. Raises `RpcError`, `Unavailable`."""
        with self._time_limit():
            data = await self._next_message()
        if data is None:
            return None
        try:
            return self._response_class.FromString(data)
        except DecodeError:
            what = self._response_class.DESCRIPTOR.full_name
            raise RpcError(Code.INTERNAL, f"{self._channel.address}: the answer is not a {what}") from None

    async def _next_message(self) -> bytes | None:
        try:
            data = await self._call.stream.receive()
        except StreamGone:
            raise self._channel.error_of(self._call) from None
        except Refusal as error:
            raise RpcError(error.code, f"{self._channel.address}: {error}") from None
        if data is None and (self._call.status is None or self._call.status[0] is not Code.OK):
            raise self._channel.error_of(self._call)
        return data

    def _time_limit(self) -> "_TimeLimit":
        return _TimeLimit(self._channel.address, self._deadline)

    async def __anext__(self) -> Response:
        """Wait for the next answer."""
        answer = await self.receive()
        if answer is None:
            raise StopAsyncIteration
        return answer


class _TimeLimit:
    """A cancel scope that ends in `RpcError`, as a deadline does that the server noticed first."""

    def __init__(self, address: str, deadline: float) -> None:
        self._address = address
        self._scope = trio.CancelScope(deadline=deadline)

    def __enter__(self) -> None:
        self._scope.__enter__()

    def __exit__(self, *details: object) -> bool:
        caught = self._scope.__exit__(*details)  # type: ignore[arg-type]
        if self._scope.cancelled_caught:
            raise RpcError(Code.DEADLINE_EXCEEDED, f"{self._address}: no answer in time")
        return bool(caught)


@asynccontextmanager
async def open_channel(address: str, *, max_message_bytes: int = MAX_MESSAGE_BYTES) -> AsyncIterator[Channel]:
    """Connect and give a channel; leaving the block closes it. Raises `Unavailable` (see `connect`)."""
    transport = await connect(address)
    authority = "localhost" if socket_path(address) else address
    async with channel_over(transport, address, authority=authority, max_message_bytes=max_message_bytes) as channel:
        yield channel


@asynccontextmanager
async def channel_over(
    transport: trio.abc.Stream, address: str, *, authority: str = "localhost", max_message_bytes: int = MAX_MESSAGE_BYTES
) -> AsyncIterator[Channel]:
    """Give a channel over any connected stream, which the block's end closes."""
    wire = Wire(client_side=True, max_message_bytes=max_message_bytes)
    connection = Connection(transport, wire, max_message_bytes=max_message_bytes, stall_seconds=math.inf)
    channel = Channel(connection, address, authority)
    failure: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(channel.pump)
            try:
                yield channel
            except Exception as error:  # noqa: BLE001  # raised again outside, so that the nursery puts no group around it
                failure = error
            channel.lose("the channel was closed")
            nursery.cancel_scope.cancel()
    finally:
        await trio.aclose_forcefully(transport)
    if failure is not None:
        raise failure
