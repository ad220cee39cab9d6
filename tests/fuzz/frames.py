"""HTTP/2 as fuzzing sees it: a script of frames, in which a change of any byte leaves the frames themselves whole."""

from collections.abc import Iterable, Iterator

from hpack.hpack import Encoder
from hyperframe.frame import Frame

from mortalgpu.rpc.framing import frame
from tests.unit.rpc.trial import PREFACE

SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_HEAD = 4
RAW = b"R"
SCRIPT = b"S"


def wire_bytes(data: bytes) -> bytes:
    """Return what goes over the wire: after `R` the bytes as they are, after anything else the frames of a script."""
    return data[1:] if data.startswith(RAW) else b"".join(_frames(data[1:]))


def _frames(script: bytes) -> Iterator[bytes]:
    """Each record is type, flags, stream, length (in bytes, up to 255), payload. A last one that is cut is as long as it is."""
    while len(script) >= _HEAD:
        kind, flags, stream, length = script[:_HEAD]
        payload, script = script[_HEAD : _HEAD + length], script[_HEAD + length :]
        head = len(payload).to_bytes(3, "big") + bytes((kind % 12, flags)) + (stream & 0x1F).to_bytes(4, "big")
        yield head + payload


def script_of(frames: Iterable[Frame]) -> bytes:
    """Return the script that makes these frames, whose payloads are below 256 bytes."""
    records = []
    for each in frames:
        whole = each.serialize()
        assert len(whole) < 9 + 256
        records.append(bytes((whole[3], whole[4], each.stream_id, len(whole) - 9)) + whole[9:])
    return SCRIPT + b"".join(records)


def answer(message: bytes, *, status: str = "0", text: str = "", prefix: bytes = b"") -> bytes:
    """Return a whole server's side of the first call on a connection: settings, headers, one message, trailers."""
    encoder = Encoder()
    data = (prefix or frame(b"")[:1] + len(message).to_bytes(4, "big")) + message
    begin = encoder.encode([(":status", "200"), ("content-type", "application/grpc")])
    end = encoder.encode([("grpc-status", status), *([("grpc-message", text)] if text else [])])
    parts = [data[at : at + 16384] for at in range(0, len(data), 16384)]
    return b"".join(
        [SETTINGS, _frame(1, 4, begin), *(_frame(0, 0, part) for part in parts), _frame(1, 5, end)],
    )


def _frame(kind: int, flags: int, payload: bytes, stream: int = 1) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


__all__ = ["PREFACE", "RAW", "SCRIPT", "SETTINGS", "answer", "script_of", "wire_bytes"]
