"""One gRPC connection as pure state: bytes in, events out. No I/O, no tasks, no clock.

Builds on purerpc's GRPCConnection: its header rules, statuses and events. Replaced, because the device API listens on the
network: the connection state under it (`fence`), message cutting (`framing`; streams' bytes are handed on as they come, so
that flow control and not a queue bounds memory), and every reaction to an event that purerpc answers with an exception out
of the read loop (headers that end the stream, unknown headers, data of a stream it forgot) or not at all (a reset).
"""

import datetime
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass

import h2.events
from h2.errors import ErrorCodes
from h2.exceptions import NoSuchStreamError, ProtocolError
from purerpc.grpclib.config import GRPCConfiguration
from purerpc.grpclib.connection import GRPCConnection
from purerpc.grpclib.events import RequestReceived, ResponseEnded, ResponseReceived
from purerpc.grpclib.exceptions import GRPCError
from purerpc.grpclib.headers import HeaderDict
from purerpc.grpclib.status import Status

from mortalgpu.rpc.fence import FencedConnection
from mortalgpu.rpc.framing import PREFIX
from mortalgpu.rpc.status import Code

Metadata = Iterable[tuple[str, str | bytes]]

_UNREADABLE = (GRPCError, KeyError, ValueError, TypeError, AttributeError, OverflowError)
"""What purerpc's header parsing raises for headers that are not as they should be."""

_CODES: frozenset[int] = frozenset(Code)
_SMALLEST_WINDOW_BYTES = 65535
_CONNECTION_WINDOW_BYTES = 2**24


class WireError(Exception):
    """The peer broke the connection itself: say goodbye and close."""


@dataclass(frozen=True, slots=True)
class Requested:
    """A client began a call."""

    stream_id: int
    method: str
    timeout_seconds: float | None
    encoding: str
    authority: str
    metadata: tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A client began a call with headers that make no sense. `code` and `text` are the answer."""

    stream_id: int
    code: Code
    text: str


@dataclass(frozen=True, slots=True)
class Received:
    """Bytes of a stream; `padding_bytes` more counted against its window."""

    stream_id: int
    data: bytes
    padding_bytes: int


@dataclass(frozen=True, slots=True)
class PeerEnded:
    """The peer sends no more on this stream. A server's end carries the call's status, a client's none."""

    stream_id: int
    code: Code | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Reset:
    """The stream is gone at once, by the peer (`by_peer`) or by the fence."""

    stream_id: int
    error_code: int
    by_peer: bool


@dataclass(frozen=True, slots=True)
class RoomToSend:
    """There may be room to send again; stream 0 means on any stream."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class GoingAway:
    """The peer accepts no streams above `last_stream_id`."""

    last_stream_id: int


@dataclass(frozen=True, slots=True)
class Greeted:
    """The peer's settings are here: it speaks HTTP/2."""


Event = Requested | Unreadable | Received | PeerEnded | Reset | RoomToSend | GoingAway | Greeted


class Wire(GRPCConnection):  # type: ignore[misc]  # purerpc has no types
    """The state of one connection. Methods that queue bytes raise nothing for a stream that is already over."""

    def __init__(
        self, *, client_side: bool, max_message_bytes: int, max_streams: int = 100, max_header_bytes: int = 16384
    ) -> None:
        # The base's constructor is not called: it would build h2's own connection, with frames of 16 MiB and an open window.
        agent = {"user_agent": "mortalgpu"} if client_side else {}
        self.config = GRPCConfiguration(client_side, message_accept_encoding=["identity"], **agent)
        # Twice: a window is reopened when half of it is used, and one whole message must always fit what is left.
        window_bytes = max(_SMALLEST_WINDOW_BYTES, 2 * (max_message_bytes + PREFIX.size))
        self.h2_connection = FencedConnection(
            client_side=client_side, max_streams=max_streams, window_bytes=window_bytes, max_header_bytes=max_header_bytes
        )
        self._max_header_bytes = max_header_bytes

    def initiate_connection(self) -> None:
        """Queue our greeting."""
        self.h2_connection.initiate_connection()
        self.h2_connection.increment_flow_control_window(_CONNECTION_WINDOW_BYTES)

    def receive(self, data: bytes) -> list[Event]:
        """Take in bytes and return what they mean. Raises `WireError`, with a GOAWAY queued."""
        try:
            return list(self.receive_data(data))
        except (ProtocolError, ValueError, LookupError, AssertionError, struct.error) as error:
            self.h2_connection.say_goodbye(getattr(error, "error_code", ErrorCodes.PROTOCOL_ERROR))
            raise WireError(str(error)) from error

    @property
    def outbound_bytes(self) -> int:
        """Bytes that wait to be sent."""
        return int(self.h2_connection.outbound_bytes)

    @property
    def small_frames(self) -> int:
        """How many frames came that carried neither headers nor data."""
        return int(self.h2_connection.small_frames)

    def room_bytes(self, stream_id: int) -> int:
        """How much may be sent on a stream now, in one frame; 0 when it is over."""
        try:
            return max(0, int(self.flow_control_window(stream_id)))
        except NoSuchStreamError:
            return 0

    def release(self, stream_id: int, size: int) -> None:
        """Give the peer back `size` bytes of a stream's window: they were used up here."""
        self.h2_connection.release(stream_id, size)

    def ask(self, method: str, authority: str, timeout_seconds: float | None, metadata: Metadata) -> int:
        """Queue the headers of a new call and return its stream. Raises h2's ProtocolError when the server allows no more."""
        stream_id: int = self.get_next_available_stream_id()
        service, _, name = method.removeprefix("/").partition("/")
        self.start_request(
            stream_id, "http", service, name, authority=authority, timeout=_timeout(timeout_seconds), custom_metadata=metadata
        )
        return stream_id

    def finish(self, stream_id: int, code: Code, text: str, *, response_began: bool, peer_ended: bool) -> None:
        """Queue the end of a call with its status, and stop the client's side when it has not ended itself."""
        answer = self.end_response if response_began else self.respond_status
        try:
            answer(stream_id, Status(int(code), text))
            if not peer_ended:
                self.h2_connection.reset_stream(stream_id, ErrorCodes.NO_ERROR)
        except ProtocolError:
            return

    def cancel(self, stream_id: int, error_code: ErrorCodes = ErrorCodes.CANCEL) -> None:
        """Queue a reset of a stream."""
        try:
            self.h2_connection.reset_stream(stream_id, error_code)
        except ProtocolError:
            return

    def say_goodbye(self, error_code: ErrorCodes = ErrorCodes.NO_ERROR) -> None:
        """Queue a GOAWAY."""
        self.h2_connection.say_goodbye(error_code)

    # What purerpc's dispatch calls for each event of h2.

    def _request_received(self, event: h2.events.RequestReceived) -> list[Event]:
        if sum(len(name) + len(value) + 32 for name, value in event.headers) > self._max_header_bytes:
            text = f"the request's metadata is above the limit of {self._max_header_bytes} bytes"
            return [Unreadable(event.stream_id, Code.RESOURCE_EXHAUSTED, text)]
        try:
            request = RequestReceived.parse_from_stream_id_and_headers_destructive(event.stream_id, HeaderDict(event.headers))
        except _UNREADABLE:
            return [Unreadable(event.stream_id, Code.INTERNAL, "the request's headers are not those of a gRPC call")]
        return [
            Requested(
                stream_id=event.stream_id,
                method=f"/{request.service_name}/{request.method_name}",
                timeout_seconds=None if request.timeout is None else request.timeout.total_seconds(),
                encoding=request.message_encoding or "identity",
                authority=request.authority or "",
                metadata=request.custom_metadata,
            )
        ]

    def _response_received(self, event: h2.events.ResponseReceived) -> list[Event]:
        headers = HeaderDict(event.headers)
        try:
            ResponseReceived.parse_from_stream_id_and_headers_destructive(event.stream_id, headers)
        except _UNREADABLE:
            status = dict(event.headers).get(":status", "none")
            return [PeerEnded(event.stream_id, Code.UNAVAILABLE, f"the answer is not a gRPC server's (HTTP status {status})")]
        return [self._status(event.stream_id, headers)] if event.stream_ended else []

    def _trailers_received(self, event: h2.events.TrailersReceived) -> list[Event]:
        if not self.config.client_side:
            return []
        return [self._status(event.stream_id, HeaderDict(event.headers))]

    @staticmethod
    def _status(stream_id: int, headers: HeaderDict) -> PeerEnded:
        try:
            status = ResponseEnded.parse_from_stream_id_and_headers_destructive(stream_id, headers).status
        except _UNREADABLE:
            return PeerEnded(stream_id, Code.UNKNOWN, "the server ended the call without a readable status")
        code = Code(status.int_value) if status.int_value in _CODES else Code.UNKNOWN
        return PeerEnded(stream_id, code, status.status_message)

    def _data_received(self, event: h2.events.DataReceived) -> list[Event]:
        self.h2_connection.release_connection(event.flow_controlled_length)
        return [Received(event.stream_id, bytes(event.data), event.flow_controlled_length - len(event.data))]

    def _stream_ended(self, event: h2.events.StreamEnded) -> list[Event]:
        return [PeerEnded(event.stream_id)]

    def _stream_reset(self, event: h2.events.StreamReset) -> list[Event]:
        return [Reset(event.stream_id, int(event.error_code), event.remote_reset)]

    def _window_updated(self, event: h2.events.WindowUpdated) -> list[Event]:
        return [RoomToSend(event.stream_id)]

    def _remote_settings_changed(self, _event: h2.events.RemoteSettingsChanged) -> list[Event]:
        return [Greeted(), RoomToSend(0)]

    def _connection_terminated(self, event: h2.events.ConnectionTerminated) -> list[Event]:
        return [GoingAway(event.last_stream_id)]


def _timeout(seconds: float | None) -> datetime.timedelta | None:
    """Round a time limit up to what fits the eight digits of `grpc-timeout`: purerpc writes microseconds if there are any."""
    if seconds is None:
        return None
    bounded = min(max(seconds, 1e-6), 99_999_999)
    return datetime.timedelta(seconds=bounded if bounded < 90 else math.ceil(bounded))
