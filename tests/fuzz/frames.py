"""HTTP/2 as fuzzing sees it: a script of frames, in which a change of any byte leaves the frames themselves whole."""

from collections.abc import Iterable, Iterator, Mapping

import trio
from hpack.hpack import Encoder
from hyperframe.frame import Frame

from mortalgpu.rpc.framing import frame

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_HEAD = 4
_FRAME_HEAD = 9
_HEADERS = 1
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
        yield _frame(kind % 12, flags, stream & 0x1F, payload)


def replies(data: bytes) -> dict[int, bytes]:
    """Return what a server says when a call begins, by its stream: in a script, from the first record for that stream on."""
    if data.startswith(RAW):
        return {1: data[1:], 3: b""}
    frames = list(_frames(data[1:]))
    later = next((at for at, each in enumerate(frames) if each[8] == 3), len(frames))
    return {1: b"".join(frames[:later]), 3: b"".join(frames[later:])}


async def reply(stream: trio.abc.HalfCloseableStream, said: Mapping[int, bytes]) -> None:
    """Be a server that says these bytes when calls begin, each when its stream does, and then ends its side."""
    received, waiting = b"", dict(said)
    try:
        await stream.send_all(SETTINGS)
        while waiting:
            part = await stream.receive_some(65536)
            if not part:
                return
            received += part
            for number in _begun(received.removeprefix(PREFACE)) & set(waiting):
                await stream.send_all(waiting.pop(number))
        await stream.send_eof()
        while await stream.receive_some(65536):
            pass
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return


def _begun(frames: bytes) -> set[int]:
    """Streams whose headers are there."""
    begun = set[int]()
    while len(frames) >= _FRAME_HEAD:
        end = _FRAME_HEAD + int.from_bytes(frames[:3])
        if frames[3] == _HEADERS:
            begun.add(int.from_bytes(frames[5:_FRAME_HEAD]))
        frames = frames[end:]
    return begun


def script_of(frames: Iterable[Frame]) -> bytes:
    """Return the script that makes these frames, whose payloads are below 256 bytes."""
    records = []
    for each in frames:
        whole = each.serialize()
        assert len(whole) < 9 + 256
        records.append(bytes((whole[3], whole[4], each.stream_id, len(whole) - 9)) + whole[9:])
    return SCRIPT + b"".join(records)


def answer(message: bytes, *, stream: int = 1, status: str = "0", text: str = "", prefix: bytes = b"") -> bytes:
    """Return a server's answer to one call: headers, one message (with another prefix, if one is given), trailers."""
    encoder = Encoder()
    begin = encoder.encode([(":status", "200"), ("content-type", "application/grpc")])
    data = prefix + message if prefix else frame(message)
    parts = [data[at : at + 16384] for at in range(0, len(data), 16384)]
    end = encoder.encode([("grpc-status", status), *([("grpc-message", text)] if text else [])])
    frames = [(1, 4, begin), *((0, 0, part) for part in parts), (1, 5, end)]
    return b"".join(_frame(kind, flags, stream, payload) for kind, flags, payload in frames)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
