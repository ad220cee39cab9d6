"""Attacks a device API until it is killed: `python -m tests.hostile.attacker ATTACK ADDRESS`.

ADDRESS is a Unix socket's path or host:port. Says `attacking` when it begins; begins again what is broken off.
"""

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

from hpack.hpack import Encoder
from hyperframe.frame import DataFrame, Frame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HANDS = 3
OWN_ADDRESS = "127.0.0.77"
SERVICE = "/device.v1.DeviceService"


def connect() -> socket.socket:
    address = sys.argv[2]
    if address.startswith("/"):
        made = socket.socket(socket.AF_UNIX)
        made.connect(address)
        return made
    host, _, port = address.rpartition(":")
    # As a pod has an address of its own; those here are all in the host's network.
    return socket.create_connection((host, int(port)), source_address=(OWN_ADDRESS, 0))


def greeted() -> socket.socket:
    made = connect()
    made.sendall(PREFACE + SettingsFrame(0).serialize())
    return made


def joined(frames: list[Frame]) -> bytes:
    return b"".join(frame.serialize() for frame in frames)


def headers(encoder: Encoder, stream_id: int, method: str, token: str) -> HeadersFrame:
    fields = {
        ":method": "POST", ":scheme": "http", ":path": method, ":authority": "x", "te": "trailers",
        "content-type": "application/grpc", "authorization": token,
    }  # fmt: skip
    made = HeadersFrame(stream_id, flags=["END_HEADERS"])
    made.data = encoder.encode(list(fields.items()))
    return made


def calls(method: str, token: str, *, whole: bool, reset: bool = False) -> Iterator[list[Frame]]:
    """Yield the frames of one call after the other on a connection."""
    encoder = Encoder()
    for stream_id in range(1, 2**30, 2):
        frames: list[Frame] = [headers(encoder, stream_id, method, token)]
        if whole:
            frames.append(DataFrame(stream_id, data=b"\0\0\0\0\0", flags=["END_STREAM"]))
        if reset:
            frames.append(RstStreamFrame(stream_id, error_code=8))
        yield frames


def knock() -> None:
    connect().close()


def pour(frames: Iterator[list[Frame]], most: int = 1 << 30) -> None:
    """Send without reading."""
    with greeted() as one:
        one.settimeout(1)
        for count, made in enumerate(frames):
            one.sendall(joined(made))
            if count >= most:
                one.recv(1 << 16)


def standing(method: str, *, whole: bool) -> Callable[[], None]:
    """Keep many connections, each with as many calls as it gets."""
    crowd: list[socket.socket] = []

    def strike() -> None:
        if len(crowd) > 100:
            crowd.pop(0).close()
        crowd.append(greeted())
        made = calls(method, os.environ["TOKEN"], whole=whole)
        crowd[-1].sendall(joined([frame for _ in range(16) for frame in next(made)]))

    return strike


def endless(*frames: Frame) -> Iterator[list[Frame]]:
    while True:
        yield list(frames) * 50


ATTACKS: dict[str, Callable[[], None]] = {
    "knock": knock,
    "half": standing(f"{SERVICE}/GetDevices", whole=False),
    "watch": standing("/grpc.health.v1.Health/Watch", whole=True),
    "rapid-reset": lambda: pour(calls(f"{SERVICE}/GetGpuContainers", os.environ["TOKEN"], whole=True, reset=True)),
    "pings": lambda: pour(endless(PingFrame(0, opaque_data=b"12345678"))),
    "settings": lambda: pour(endless(SettingsFrame(0, settings={3: 100}))),
    "bad-tokens": lambda: pour(calls(f"{SERVICE}/GetDevices", "Bearer a.b.c" + "x" * 3000, whole=True), most=16),
    "deaf": lambda: pour(calls(f"{SERVICE}/StreamGpuContainers", os.environ["TOKEN"], whole=True)),
}


def strike_for_ever(strike: Callable[[], None], struck: threading.Event) -> None:
    while True:
        struck.set()
        with suppress(OSError):
            strike()


def main() -> None:
    struck = threading.Event()
    for _ in range(HANDS):
        threading.Thread(target=strike_for_ever, args=(ATTACKS[sys.argv[1]], struck), daemon=True).start()
    struck.wait()
    print("attacking", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
