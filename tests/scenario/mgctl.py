"""mgctl as people run it: a process of its own, on pipes or on a terminal."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

COMMAND = [sys.executable, "-c", "from mortalgpu.__main__ import mgctl_main; mgctl_main()"]
PATIENCE_SECONDS = 20


def environment(**variables: str) -> dict[str, str]:
    """What mgctl finds set, besides what this machine needs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MG_CTL")}
    return {**kept, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **variables}


async def mgctl(*words: str, **variables: str) -> tuple[int, str, str]:
    """Run mgctl to its end; return its exit code, output and messages."""
    with trio.fail_after(PATIENCE_SECONDS):
        done = await trio.run_process(
            [*COMMAND, *words], env=environment(**variables), capture_stdout=True, capture_stderr=True, check=False
        )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


class Terminal:
    """A terminal on which mgctl runs."""

    def __init__(self, process: trio.Process, leader: int, follower: int) -> None:
        self.process = process
        self._leader = leader
        self._follower = follower
        self.seen = ""

    @property
    def screen(self) -> str:
        """The last picture that was drawn whole."""
        pictures = self.seen.split("\x1b[H")[1:]
        whole = [picture for picture in pictures if "\x1b[J" in picture]
        return re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", whole[-1].partition("\x1b[J")[0]) if whole else ""

    @property
    def echoes(self) -> bool:
        """Whether the terminal shows what is typed, as it does when nobody has changed it."""
        return bool(termios.tcgetattr(self._follower)[3] & termios.ECHO)

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._leader, keys)

    def resize(self, columns: int, rows: int) -> None:
        """Change the size."""
        fcntl.ioctl(self._leader, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    async def until(self, seen: Callable[[], bool]) -> None:
        """Read what mgctl draws until a condition holds."""
        with trio.fail_after(PATIENCE_SECONDS):
            while not seen():
                await trio.lowlevel.wait_readable(self._leader)
                self.seen += os.read(self._leader, 65536).decode(errors="replace")

    async def end(self) -> int:
        """Wait for the end of mgctl, reading what it still draws."""
        with trio.fail_after(PATIENCE_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.until, lambda: False)
                code = await self.process.wait()
                nursery.cancel_scope.cancel()
        os.set_blocking(self._leader, False)
        try:
            while rest := os.read(self._leader, 65536):
                self.seen += rest.decode(errors="replace")
        except OSError:
            pass
        return code


@asynccontextmanager
async def on_terminal(*words: str, variables: dict[str, str]) -> AsyncIterator[Terminal]:
    """Run mgctl on a terminal of 80 by 24; it is ended with the block."""
    leader, follower = pty.openpty()
    fcntl.ioctl(leader, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = await trio.lowlevel.open_process(
        [*COMMAND, *words], stdin=follower, stdout=follower, stderr=subprocess.PIPE, env=environment(**variables)
    )
    try:
        yield Terminal(process, leader, follower)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        os.close(leader)
        os.close(follower)
