"""Run a command in a running container as `kubectl exec` does: by the runtime's ExecSync, which loses no output.

By grpcio and a hand-made encoding, as in `tests.e2e.runtime.containerd`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from tests.e2e.runtime.containerd import encode

SECONDS = 30
_STDOUT, _STDERR, _EXIT_CODE = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended, and what it wrote."""

    code: int
    stdout: str
    stderr: str


def execute(runtime: Path, container_id: str, *command: str) -> Outcome:
    """Run the command to its end, as the container's user. Raises grpc.RpcError when it cannot be started."""
    request = encode({1: container_id, 2: list(command), 3: SECONDS})
    with grpc.insecure_channel(f"unix:{runtime}") as channel:
        answer: bytes = channel.unary_unary("/runtime.v1.RuntimeService/ExecSync")(request, timeout=2 * SECONDS)
    fields = dict(_fields(answer))
    texts = [fields.get(number, b"") for number in (_STDOUT, _STDERR)]
    code = fields.get(_EXIT_CODE, 0)
    assert isinstance(code, int)
    return Outcome(code, *(text.decode() for text in texts if isinstance(text, bytes)))


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field; only numbers and byte strings occur here."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        value, position = _varint(message, position)
        if tag & 7 == 2:
            yield tag >> 3, message[position : position + value]
            position += value
        else:
            yield tag >> 3, value


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
