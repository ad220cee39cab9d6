"""Wait for a condition of another process: poll, with a deadline and a message that says what was last seen."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
POLL_SECONDS = 0.02


def eventually(what: str, probe: Callable[[], T], *, seconds: float, every_seconds: float = POLL_SECONDS) -> T:
    """Return the probe's first truthy answer.

    Raises AssertionError, naming what was awaited and the probe's last answer, when none came within `seconds`. Blocks.
    """
    return until(what, probe, bool, seconds=seconds, every_seconds=every_seconds)


def until(
    what: str, probe: Callable[[], T], accept: Callable[[T], bool], *, seconds: float, every_seconds: float = POLL_SECONDS
) -> T:
    """Return the probe's first answer that `accept` accepts; raises AssertionError as `eventually` does."""
    deadline = time.monotonic() + seconds
    while True:
        answer = probe()
        if accept(answer):
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s for {what}; last seen: {answer!r}")
        threading.Event().wait(every_seconds)


def stays(what: str, probe: Callable[[], T], expected: T, *, seconds: float, every_seconds: float = POLL_SECONDS) -> None:
    """Watch for `seconds` that the probe's answer stays what is expected; raises AssertionError at the first other answer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = probe()
        assert answer == expected, f"{what} did not stay {expected!r} for {seconds} s; seen: {answer!r}"
        threading.Event().wait(every_seconds)
