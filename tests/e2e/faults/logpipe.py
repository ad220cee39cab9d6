"""A log whose reader can stop reading, or go: a pipe between the daemon and the file in which the tests look for its lines."""

import fcntl
import os
import threading
from pathlib import Path

PAGE = 4096


class LogPipe:
    """Made in `folder`, of a few pages; `words` before a command let it log there. Copies to `log` while nobody objects."""

    def __init__(self, folder: Path, log: Path) -> None:
        """Make it, and begin to read."""
        self.path = folder / "log.pipe"
        os.mkfifo(self.path)
        # Open for both, so that neither side waits for the other.
        self._reader = os.open(self.path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.fcntl(self._reader, fcntl.F_SETPIPE_SZ, 4 * PAGE)
        self._log = log
        self._reads = threading.Event()
        self._reads.set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._copy, daemon=True)
        self._thread.start()

    @property
    def words(self) -> tuple[str, ...]:
        return ("sh", "-c", f'exec "$@" 2>{self.path}', "sh")

    def block(self) -> None:
        """Read no more, and leave no room."""
        self._reads.clear()
        while True:
            try:
                os.write(self._reader, b"\n" * PAGE)
            except BlockingIOError:
                return

    def unblock(self) -> None:
        """Read again."""
        self._reads.set()

    def close(self) -> None:
        """Go, as a log's reader does that crashes; harmless when repeated."""
        if not self._ended.is_set():
            self._ended.set()
            self._thread.join()
            os.close(self._reader)

    def _copy(self) -> None:
        with self._log.open("ab", buffering=0) as log:
            while not self._ended.wait(0.01):
                if self._reads.is_set():
                    try:
                        log.write(os.read(self._reader, 1 << 20))
                    except BlockingIOError:
                        continue
