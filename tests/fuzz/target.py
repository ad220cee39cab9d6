"""What a fuzzing target is, and how one input is tried: within bounded time and memory, with only documented errors.

A target's `check` takes bytes as a foreign party might send them, has our code parse them, and raises for everything that must
not be: an error that is not documented, or a broken property. `probe` adds what holds for all of them.
"""

import atexit
import functools
import logging
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

MOST_CPU_SECONDS = 5.0
"""For one input, of this process's own time: a machine that is busy with others does not count."""
MOST_MEMORY_BYTES = 96 * 1024 * 1024
"""By which one input may raise the most memory this process ever had at a time."""
LONGEST_INPUT = 4096

Check = Callable[[bytes], None]


class TooSlow(Exception):
    """One input kept a parser busy for MOST_CPU_SECONDS."""


class TooMuchMemory(Exception):
    """One input took more than MOST_MEMORY_BYTES."""


@dataclass(frozen=True, slots=True)
class Target:
    """Something that parses foreign bytes.

    `seeds` are good inputs, from which others are made; `words` is what mutations put in; `inputs` is how many the short form
    tries.
    """

    name: str
    check: Check
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()
    inputs: int = 2000


def probe(target: Target, data: bytes) -> None:
    """Try one input. Raises whatever the check raises, TooSlow or TooMuchMemory. Call it from the main thread."""
    _forget_peak()
    before = _peak_bytes()
    with _time_limit():
        target.check(data)
    grown = _peak_bytes() - before
    if grown > MOST_MEMORY_BYTES:
        raise TooMuchMemory(f"{len(data)} bytes of input took {grown >> 20} MiB")


@contextmanager
def _time_limit() -> Iterator[None]:
    """Interrupt what takes too long. Counts this process's own time only."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise TooSlow(f"more than {MOST_CPU_SECONDS:g} s for one input")

    before = signal.signal(signal.SIGVTALRM, interrupt)
    signal.setitimer(signal.ITIMER_VIRTUAL, MOST_CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _forget_peak() -> None:
    """Have the kernel measure the highest memory anew; where it does not, only what was never had before is seen."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# What checks share.


@contextmanager
def only(*allowed: type[Exception], longest: int = 4000, hidden: str = "") -> Iterator[None]:
    """Let these errors end the block, if their text is one printable line that does not run away, without what is hidden."""
    try:
        yield
    except allowed as error:
        text = str(error)
        assert len(text) <= longest, f"a text of {len(text)} characters: {text[:200]!r}..."
        assert text.isprintable(), f"not one printable line: {text[:400]!r}"
        assert not hidden or hidden not in text


@contextmanager
def no_fault_logged() -> Iterator[None]:
    """Fail when the block logs an error: that is what our walls do with a fault of ours that must not spread."""
    found: list[logging.LogRecord] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record)

    collector, logger = Collector(logging.ERROR), logging.getLogger("mortalgpu")
    logger.addHandler(collector)
    before, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.propagate = before
        logger.removeHandler(collector)
    for record in found:
        if record.exc_info and record.exc_info[1]:
            raise record.exc_info[1]
        raise AssertionError(f"logged as an error: {record.getMessage()}")


@functools.cache
def scratch() -> Path:
    """Return a folder for the files of this run; it goes with the process."""
    folder = Path(tempfile.mkdtemp(prefix="mortalgpu-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
