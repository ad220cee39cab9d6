"""One run of a foreign program: a question in, an answer out, and nothing of it left behind.

The program leads a process group of its own, which is killed when the program has ended or is given up. The end is noticed
through a pidfd before the program is reaped: until then its number, and so the group's, cannot be anybody else's.
It knows nothing of what is asked. The time limit is the caller's cancel scope.
"""

import contextlib
import errno
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from mortalgpu import threads
from mortalgpu.errors import HostError

MAX_OUTPUT_BYTES = 8 * 1024 * 1024
"""Twice what kubelet's own message for all ids of a resource can hold. Beyond it the program is killed."""

_ERRORS_KEPT_BYTES = 4096
_DRAIN_SECONDS = 0.25
"""How long to read on once the program has ended: what it wrote is in the pipe already."""
_REAP_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: exit status (negative: the signal), standard output, the tail of standard error."""

    status: int
    output: bytes
    errors: bytes
    overflowed: bool
    """It wrote more than MAX_OUTPUT_BYTES to one of the two; its output is of no use."""


async def run_program(argv: Sequence[str], text: bytes, extra_env: Mapping[str, str]) -> Outcome:
    """Run `argv` (an absolute path first) with `text` on standard input and `extra_env` added to the environment.

    Raises OSError or ValueError when it cannot be started. When cancelled, the program and its group are killed first.
    """
    start = partial(
        trio.lowlevel.open_process,
        list(argv),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **extra_env},
        start_new_session=True,
    )
    try:
        process = await threads.patiently(start)
    except HostError as error:
        raise OSError(errno.EAGAIN, str(error)) from error
    run = _Run(process)
    try:
        status = await run.converse(text)
    finally:
        await run.end()
    return Outcome(status, bytes(run.output), bytes(run.errors), run.overflowed)


class _Run:
    """The conversation with a program that was just started."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._group_killed = False
        self.output = bytearray()
        self.errors = bytearray()
        self.overflowed = False

    async def converse(self, text: bytes) -> int:
        """Hand over the question, read the answer, and return the exit status."""
        pidfd = os.pidfd_open(self._process.pid)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._feed, text)
            nursery.start_soon(self._read_output)
            nursery.start_soon(self._read_errors)
            await self._ended(pidfd)
            # A process that left the group may hold the pipes open even now: do not wait for their end.
            nursery.cancel_scope.deadline = trio.current_time() + _DRAIN_SECONDS
        return await self._process.wait()

    async def end(self) -> None:
        """Kill what is left, reap the program, close the pipes. Shielded, and bounded by a moment."""
        with trio.CancelScope(deadline=trio.current_time() + _REAP_SECONDS, shield=True):
            if not self._group_killed:
                self._kill_group()
            await self._process.wait()
        # A scope of its own: closing a pipe never blocks, and all three must close even when reaping took too long.
        with trio.CancelScope(shield=True):
            for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
                if stream is not None:
                    await stream.aclose()

    async def _ended(self, pidfd: int) -> None:
        """Wait until the program has ended, and kill what it started, before anything reaps it."""
        try:
            await trio.lowlevel.wait_readable(pidfd)
            self._kill_group()
            self._group_killed = True
        finally:
            trio.lowlevel.notify_closing(pidfd)
            os.close(pidfd)

    async def _feed(self, text: bytes) -> None:
        stream = self._process.stdin
        assert stream is not None
        # It may answer without reading the question to its end.
        with contextlib.suppress(trio.BrokenResourceError):
            async with stream:
                await stream.send_all(text)

    async def _read_output(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        async for part in stream:
            self.output += part
            if len(self.output) > MAX_OUTPUT_BYTES:
                self._give_up()
                return

    async def _read_errors(self) -> None:
        stream = self._process.stderr
        assert stream is not None
        size = 0
        async for part in stream:
            self.errors += part
            del self.errors[:-_ERRORS_KEPT_BYTES]
            size += len(part)
            if size > MAX_OUTPUT_BYTES:
                self._give_up()
                return

    def _give_up(self) -> None:
        self.overflowed = True
        if not self._group_killed:
            self._kill_group()

    def _kill_group(self) -> None:
        # Gone already, or all that is left has changed its user and is not ours to end.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
