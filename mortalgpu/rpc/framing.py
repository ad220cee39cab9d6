"""gRPC's five-byte message prefix: cutting the bytes of a stream into messages. Pure; knows no connection.

Replaces purerpc's MessageReadBuffer, which unpacks all queued messages at once (a peer then decides our memory), inflates
compressed ones without a bound, and goes on after a message that is too large.
"""

import struct
from typing import Final

from mortalgpu.rpc.status import Code, Refusal

PREFIX: Final = struct.Struct(">BI")
"""Compressed flag, length in bytes."""


def frame(message: bytes) -> bytes:
    """Put the prefix before one uncompressed message."""
    return PREFIX.pack(0, len(message)) + message


class MessageReader:
    """Collects a stream's bytes and gives out whole messages, one at a time. Holds what was fed and not yet taken."""

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Add bytes as they came."""
        self._buffer += data

    def take(self) -> bytes | None:
        """Return the next whole message, without its prefix, or None until more is fed.

        Raises `Refusal`: RESOURCE_EXHAUSTED as soon as a prefix announces more than the limit, UNIMPLEMENTED for a compressed
        message. The stream is of no use afterwards.
        """
        if len(self._buffer) < PREFIX.size:
            return None
        compressed, length = PREFIX.unpack_from(self._buffer)
        if compressed:
            raise Refusal(Code.UNIMPLEMENTED, "compressed messages are not accepted; send with encoding identity")
        if length > self._max_message_bytes:
            raise Refusal(
                Code.RESOURCE_EXHAUSTED, f"a message of {length} bytes is above the limit of {self._max_message_bytes} bytes"
            )
        end = PREFIX.size + length
        if len(self._buffer) < end:
            return None
        message = bytes(memoryview(self._buffer)[PREFIX.size : end])
        del self._buffer[:end]
        return message
