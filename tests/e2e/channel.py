"""Requests and answers as JSON lines over a child's stdin and stdout, with events in between."""

import itertools
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

import msgspec

from tests.e2e.process import Process
from tests.e2e.registrations import Event

T = TypeVar("T")


class ChannelError(Exception):
    """The other side refused a request, or ended; the text is its own."""


class Line(msgspec.Struct, frozen=True):
    """One line of the other side: an answer (it has an id) or an event."""

    id: int | None = None
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: str | None = None
    event: str | None = None


class Channel:
    """The conversation with one process; it ends with the process. Requests may come from any thread."""

    def __init__(self, process: Process, on_event: Callable[[Event], None]) -> None:
        """Start reading. `on_event` is called in the reading thread, before the answers that follow the event are delivered."""
        self._process = process
        self._on_event = on_event
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._waiting: dict[int, queue.SimpleQueue[Line | None]] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def ask(self, kind: type[T], op: str, *, seconds: float, **arguments: object) -> T:
        """Send a request and wait for its answer. Raises ChannelError, and AssertionError past `seconds`."""
        answers: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
        try:
            self._send(answers, op, arguments)
            answer = answers.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"{self._process.name} did not answer {op} within {seconds} s") from None
        except (OSError, ValueError):
            answer = None
        if answer is None:
            raise ChannelError(f"{op}: {self._process.name} ended; see {self._process.log_path}")
        if answer.error is not None:
            raise ChannelError(answer.error)
        return msgspec.json.decode(answer.result, type=kind)

    def close(self) -> None:
        """Wait for the reading thread, which ends with the process."""
        self._reader.join(10)

    def _send(self, answers: queue.SimpleQueue[Line | None], op: str, arguments: dict[str, object]) -> None:
        stdin = self._process.child.stdin
        assert stdin is not None
        with self._lock:
            id_ = next(self._ids)
            self._waiting[id_] = answers
            stdin.write(msgspec.json.encode({"id": id_, "op": op, **arguments}) + b"\n")
            stdin.flush()

    def _read(self) -> None:
        stdout = self._process.child.stdout
        assert stdout is not None
        for text in stdout:
            line = msgspec.json.decode(text, type=Line)
            if line.event is not None:
                self._on_event(msgspec.json.decode(text, type=Event))
            elif line.id is not None:
                self._waiting.pop(line.id).put(line)
        with self._lock:
            for answers in self._waiting.values():
                answers.put(None)
            self._waiting.clear()
