"""Log set-up, and the closed list of field names.

Rules:
1. A log event is a fixed lower-case phrase; what varies stands in fields, and every field name is in FIELDS.
2. INFO: the state of the world changed. WARNING: we coped. ERROR: someone must look. DEBUG: how it went.
3. Never a token, a key, or a text of a foreign library that could carry one: other libraries' loggers stay at WARNING.
4. Nobody waits for the log's reader: a line that it does not take at once is lost, and how many were is told later.
"""

import json
import logging
import os
import select
import sys
from datetime import UTC, datetime
from typing import IO

ERROR = logging.ERROR
"""For `set_up`: nothing but what someone must look at."""

_NAMES = """
    action address attempts cause code config_field container container_id count device devices endpoint error
    free held kind level limit_bytes method model namespace node outcome path peer pid pod reaction_seconds
    reason reserved resource resources service shares shares_configured signal size source state status uid
    used_bytes user version wait_seconds
"""
FIELDS = frozenset(_NAMES.split())
"""The only names that may appear in `extra=` of a log call; a test reads the source for strays."""

FOREIGN_LOGGERS = ("httpx", "httpcore", "purerpc", "hpack", "h2", "anyio", "asyncio", "urllib3")


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in record.__dict__.items() if name in FIELDS}


class JsonLines(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, event, the module, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record; never raises for odd field values."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "module": record.name.removeprefix("mortalgpu."),
            **_fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _escaped(json.dumps(line, default=str, ensure_ascii=False))


class HumanText(logging.Formatter):
    """A line for people: local time, level, event, then name=value."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        clock = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
        fields = " ".join(f"{name}={_readable(value)}" for name, value in _fields(record).items())
        text = f"{clock} {record.levelname:<7} {record.getMessage()}{'  ' if fields else ''}{fields}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def _readable(value: object) -> str:
    text = str(value)
    is_plain = text and text.isprintable() and not any(sign in text for sign in ' "=')
    return text if is_plain else _escaped(json.dumps(text, ensure_ascii=False))


def _escaped(text: str) -> str:
    """Write what JSON leaves as it is and a terminal does not (C1 controls, changes of direction) as JSON's escapes.

    A log is read on terminals, and foreign texts are in it.
    """
    return text if text.isprintable() else "".join(sign if sign.isprintable() else json.dumps(sign)[1:-1] for sign in text)


class UnwaitingHandler(logging.Handler):
    """Writes lines to a descriptor and never blocks, whatever becomes of its reader: no daemon may hang for its log.

    A pipe or socket says whether it takes a piece of `select.PIPE_BUF` bytes at once; a disk takes it or is full.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._lost = 0
        self._torn = False
        """A line was begun and not finished."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record's line, or count it as lost, also when it cannot be put into words. Raises nothing."""
        try:
            if self._lost and self._written(self._loss()):
                self._lost = 0
            self._lost += not self._written(record)
        except Exception:  # noqa: BLE001  # a log call must not fail; logging's own answer is to write to the same place
            self._lost += 1

    def _loss(self) -> logging.LogRecord:
        text = "lines of this log were lost: nobody took them"
        return logging.makeLogRecord(
            {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", "msg": text, "count": self._lost}
        )

    def _written(self, record: logging.LogRecord) -> bool:
        text = ("\n" if self._torn else "") + self.format(record) + "\n"
        line, written = text.encode("utf-8", "backslashreplace"), 0
        while written < len(line) and (taken := self._write(line[written : written + select.PIPE_BUF])):
            written += taken
        if written:
            self._torn = written < len(line)
        return written == len(line)

    def _write(self, piece: bytes) -> int:
        """Write what can be written at once and return how much that was."""
        try:
            return os.write(self._descriptor, piece) if self._poll.poll(0) else 0
        except OSError:
            return 0


def set_up(*, verbose: bool, as_json: bool, stream: IO[str] | None = None, level: int = logging.INFO) -> None:
    """Send log lines of `level` and above to `stream` (standard error by default); `verbose` means DEBUG.

    Replaces what was set up before.
    """
    handler = _handler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonLines() if as_json else HumanText())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("mortalgpu").setLevel(logging.DEBUG if verbose else level)
    for name in FOREIGN_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def _handler(stream: IO[str] | None) -> logging.Handler:
    """Return what writes to a stream; one that was closed before we started takes nothing."""
    if stream is None:
        return logging.NullHandler()
    try:
        return UnwaitingHandler(stream.fileno())
    except OSError:
        return logging.StreamHandler(stream)
