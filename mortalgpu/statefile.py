"""Small files that outlive the daemon, written so that a crash leaves either the old text or the new one.

Also how a changed file is noticed, and the lock that keeps two daemons from keeping the same files: the kernel lets go of it
with its holder, however that dies.
"""

import fcntl
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from mortalgpu.errors import HostError

log = logging.getLogger(__name__)

LOCK_POLL_SECONDS = 0.2


def read_state(path: Path) -> str | None:
    """Return a file's text; None when there is none. Blocks. Raises HostError when it is there and cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise HostError(f"{path}: cannot be read: {error}") from None


def write_state(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace a file's text atomically and durably, making its directory if needed. Blocks. Raises HostError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_drafts_of_the_dead(path)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise HostError(f"{path}: cannot be written: {error.strerror}") from None


def _remove_drafts_of_the_dead(path: Path) -> None:
    """Remove what writers of this file left who were killed within; they would gather, and may hold a key."""
    for draft in path.parent.glob(f".{path.name}.*"):
        writer = draft.suffix[1:]
        if writer.isdecimal() and not _is_alive(int(writer)):
            draft.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def fingerprint(path: str | Path) -> tuple[int, ...] | None:
    """Return what tells one state of a file from the next, without reading it; None while there is none. One system call."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@asynccontextmanager
async def only_one(directory: Path) -> AsyncIterator[None]:
    """Hold the directory's lock, waiting for another daemon to let go of it. Raises HostError when it cannot be made."""
    path = directory / "daemon.lock"
    descriptor = _open_lock(path)
    try:
        await _lock(descriptor, path)
        yield
    finally:
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HostError(f"{path}: cannot be made: {error.strerror}; give --state-dir a directory of ours") from None


async def _lock(descriptor: int, path: Path) -> None:
    told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not told:
                told = True
                log.warning("waiting for another daemon to end", extra={"path": str(path)})
        await trio.sleep(LOCK_POLL_SECONDS)
