"""An HTTP/2 connection state that survives the mistakes of single streams. Pure state, no I/O.

h2 3.2 ends the whole connection for things that RFC 9113 wants settled on one stream, or ignored: malformed request headers,
a WINDOW_UPDATE or trailers for a stream that is over, one stream too many, a GOAWAY while calls are under way. Here they
cost the stream that made them, and only what leaves the connection itself unusable (a broken frame, broken header
compression, an overrun connection window) raises.

This reaches into h2's private methods, which is why pyproject pins its version below 4.
"""

from typing import Any

from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, StreamReset
from h2.exceptions import DenialOfServiceError, FrameTooLargeError, ProtocolError, StreamClosedError
from h2.frame_buffer import FrameBuffer
from h2.settings import SettingCodes, Settings
from hpack.hpack import Decoder
from hyperframe.frame import DataFrame, Frame, HeadersFrame, RstStreamFrame, WindowUpdateFrame

MAX_FRAME_BYTES = 16384
"""What we let peers send in one frame: HTTP/2's least, and what grpc-go and grpcio use."""

HARD_LIMIT_FACTOR = 4
"""A header block of this many times the advertised limit ends the connection; one in between costs only its stream."""

_LONGEST_RUN = 4096
_HIGH = bytes(number >> 7 for number in range(256))
"""hpack reads a number for as long as its bytes have their highest bit set, in a time that grows with the square of their
count: 64 KiB of them take a third of a second. No number is that long, and hardly a text: so many in a row are refused."""

_FRAME_HEADER_BYTES = 9
_SINGLE_STREAM_FRAMES = (HeadersFrame, DataFrame, WindowUpdateFrame)

Outcome = tuple[list[Frame], list[Any]]


class _CountingDecoder(Decoder):  # type: ignore[misc]  # hpack has no types
    """Counts the header blocks it got through: after a failure this tells broken compression from a bad header."""

    blocks = 0

    def decode(self, data: bytes, raw: bool = False) -> Any:
        headers = super().decode(data, raw)
        self.blocks += 1
        return headers


class _FencedBuffer(FrameBuffer):  # type: ignore[misc]  # h2 has no types
    """Refuses a frame by its header: h2 would collect all of its bytes first, up to 16 MiB."""

    def next(self) -> Frame:
        if len(self.data) >= _FRAME_HEADER_BYTES and int.from_bytes(self.data[:3], "big") > self.max_frame_size:
            raise FrameTooLargeError("overlong frame announced")
        return super().next()


class FencedConnection(H2Connection):  # type: ignore[misc]  # h2 has no types
    """h2's connection with stream errors kept to their stream, and `small_frames` counted: all but headers and full data."""

    MAX_CLOSED_STREAMS = 1024

    def __init__(self, *, client_side: bool, max_streams: int, window_bytes: int, max_header_bytes: int) -> None:
        super().__init__(H2Configuration(client_side=client_side, header_encoding="latin-1"))
        self.local_settings = Settings(
            client=client_side,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: max_streams,
                SettingCodes.INITIAL_WINDOW_SIZE: window_bytes,
                SettingCodes.MAX_FRAME_SIZE: MAX_FRAME_BYTES,
                SettingCodes.MAX_HEADER_LIST_SIZE: max_header_bytes,
            },
        )
        self.max_inbound_frame_size = MAX_FRAME_BYTES
        self.incoming_buffer = _FencedBuffer(server=not client_side)
        self._hard_limit_bytes = HARD_LIMIT_FACTOR * max_header_bytes
        self.decoder = _CountingDecoder()
        self.decoder.max_header_list_size = self._hard_limit_bytes
        self.small_frames = 0

    @property
    def outbound_bytes(self) -> int:
        """Bytes that wait to be sent."""
        return len(self._data_to_send)

    @property
    def open_inbound_streams(self) -> int:
        """Always 0, so that h2 never ends a connection for one stream too many; whoever serves counts and refuses."""
        super().open_inbound_streams  # noqa: B018  # the base forgets closed streams here
        return 0

    def release(self, stream_id: int, size: int) -> None:
        """Let the peer send `size` bytes more on one stream; nothing happens when the stream is over."""
        stream = self.streams.get(stream_id)
        if size and stream is not None and stream.open:
            self._prepare_for_sending(stream.acknowledge_received_data(size))

    def release_connection(self, size: int) -> None:
        """Let the peer send `size` bytes more on all streams together."""
        increment = self._inbound_flow_control_window_manager.process_bytes(size)
        if increment:
            frame = WindowUpdateFrame(0)
            frame.window_increment = increment
            self._prepare_for_sending([frame])

    def _receive_frame(self, frame: Frame) -> list[Any]:
        blocks = self.decoder.blocks
        self.small_frames += not (isinstance(frame, HeadersFrame) or (isinstance(frame, DataFrame) and frame.data))
        try:
            return super()._receive_frame(frame)  # type: ignore[no-any-return]
        except ProtocolError as error:
            if not self._costs_one_stream(frame, decoded=self.decoder.blocks > blocks):
                raise
            return self._give_up_stream(frame, error)

    def _costs_one_stream(self, frame: Frame, *, decoded: bool) -> bool:
        """Whether the connection is intact after `frame` failed."""
        return (
            frame.stream_id != 0
            and frame.stream_id <= max(self.highest_inbound_stream_id, self.highest_outbound_stream_id)
            and isinstance(frame, _SINGLE_STREAM_FRAMES)
            and (decoded or not isinstance(frame, HeadersFrame))
            and self.state_machine.state is not ConnectionState.CLOSED
            and self._inbound_flow_control_window_manager.current_window_size >= 0
        )

    def _give_up_stream(self, frame: Frame, error: ProtocolError) -> list[Any]:
        if isinstance(frame, WindowUpdateFrame) and isinstance(error, StreamClosedError):
            return []
        if isinstance(frame, DataFrame):
            self.release_connection(frame.flow_controlled_length)
        stream = self.streams.get(frame.stream_id)
        if stream is not None and not stream.closed:
            self._prepare_for_sending(stream.reset_stream(error.error_code))
        else:
            reset = RstStreamFrame(frame.stream_id)
            reset.error_code = error.error_code
            self._prepare_for_sending([reset])
        event = StreamReset()
        event.stream_id = frame.stream_id
        event.error_code = error.error_code
        event.remote_reset = False
        return [event]

    def _receive_headers_frame(self, frame: HeadersFrame) -> Outcome:
        # Decoding is slow for large blocks, and h2 would look at the size only while it decodes.
        if len(frame.data) > self._hard_limit_bytes:
            raise DenialOfServiceError(f"header block of {len(frame.data)} bytes")
        if len(frame.data) > _LONGEST_RUN and b"\1" * _LONGEST_RUN in frame.data.translate(_HIGH):
            raise DenialOfServiceError("header block with a number that does not end")
        return super()._receive_headers_frame(frame)  # type: ignore[no-any-return]

    def _receive_goaway_frame(self, frame: Frame) -> Outcome:
        # h2 closes its state here and drops what waits to be sent; calls under way are to be finished instead (RFC 9113, 6.8).
        event = ConnectionTerminated()
        event.error_code = frame.error_code
        event.last_stream_id = frame.last_stream_id
        return [], [event]

    def say_goodbye(self, error_code: ErrorCodes) -> None:
        """Queue a GOAWAY; nothing but waiting data may be sent afterwards. Harmless when one was queued before."""
        if self.state_machine.state is not ConnectionState.CLOSED:
            self._terminate_connection(error_code)
