"""One child process with its output in a file, ended by its own handle only."""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


class Process:
    """A child process, started from the main thread: it gets SIGKILL when the starting thread ends, so that a killed test run
    leaves nothing behind.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[object],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        stdin: bool = False,
    ) -> None:
        """Start it, appending its stdout (unless `stdin` is wanted, then a pipe too) and stderr to `log`. Raises OSError."""
        self.name = name
        self.log_path = log
        watched = [shutil.which("setpriv") or "setpriv", "--pdeathsig", "KILL", "--", *(str(word) for word in argv)]
        pipe = subprocess.PIPE if stdin else None
        with log.open("ab") as output:
            self.child = subprocess.Popen(
                watched,
                env=None if env is None else dict(env),
                stdin=pipe or subprocess.DEVNULL,
                stdout=pipe or output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def running(self) -> bool:
        return self.child.poll() is None

    def log(self) -> str:
        """Return everything written so far."""
        return self.log_path.read_text(errors="replace")

    def kill(self) -> int:
        """Send SIGKILL, reap, return the exit code (negative: the signal)."""
        if self.running:
            self.child.kill()
        return self._reap(10)

    def terminate(self, grace_seconds: float = 10) -> int:
        """Send SIGTERM, wait, return the exit code; past the grace time kill it and raise AssertionError."""
        if self.running:
            self.child.terminate()
        try:
            return self._reap(grace_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not end within {grace_seconds} s of SIGTERM") from None

    def wait(self, seconds: float) -> int:
        """Wait for it to end by itself; raises subprocess.TimeoutExpired."""
        return self._reap(seconds)

    def _reap(self, seconds: float) -> int:
        code = self.child.wait(seconds)
        for stream in (self.child.stdin, self.child.stdout):
            if stream is not None:
                stream.close()
        return code
