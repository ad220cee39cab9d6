"""The death of one process: held by a pidfd first, identified second, signalled third.

A pidfd means one process for as long as it is open, whatever becomes of the number (pidfd_open(2)); it works on processes
that are not our children and turns readable when the whole process has ended, not only its first thread.

A process that another one traces can be made to stop in the middle of its end, with all it holds, for as long as its tracer
likes (PTRACE_EVENT_EXIT of ptrace(2)); no second signal helps. Where that tracer is of the same pod it is ended too.

This file does not know why a process is to die. Blocking reads happen in worker threads of its own limiter, so that a
scan that hangs in /proc does not keep a kill from happening.
"""

import errno
import logging
import os
import select
import signal
from contextlib import suppress
from types import TracebackType
from typing import Self

import trio

from mortalgpu import threads
from mortalgpu.errors import HostError
from mortalgpu.host.base import HostProcess, KillOutcome, StillWanted
from mortalgpu.host.identity import identify
from mortalgpu.host.procfs import tracers_that_stop

log = logging.getLogger(__name__)

_NO_SUCH_PROCESS = (errno.ESRCH, errno.EINVAL, errno.ENOENT)
"""What pidfd_open says of a number nobody has, and of a thread that is not a process's first."""


TRACER_SECONDS = 0.25
"""How long a tracer may hold up an end: a debugger lets go within milliseconds."""


class PidfdHandle:
    """A `ProcessHandle` on a real process. One `kill` at a time."""

    def __init__(self, root: str, process: HostProcess, descriptor: int, limiter: trio.CapacityLimiter) -> None:
        self._root = root
        self._process = process
        self._descriptor: int | None = descriptor
        self._limiter = limiter

    @property
    def process(self) -> HostProcess:
        """The identity as it was when the handle was opened."""
        return self._process

    async def kill(
        self,
        expected: HostProcess,
        *,
        grace_seconds: float = 0.0,
        gone_within_seconds: float = 5.0,
        still_wanted: StillWanted | None = None,
    ) -> KillOutcome:
        """See `ProcessHandle.kill`."""
        if grace_seconds > 0:
            refusal = await self._order(signal.SIGTERM, expected, still_wanted)
            if refusal is not None:
                return refusal
            if await self._is_gone_within(grace_seconds):
                return KillOutcome.KILLED
        refusal = await self._order(signal.SIGKILL, expected, still_wanted)
        if refusal is KillOutcome.ALREADY_GONE and grace_seconds > 0:
            return KillOutcome.KILLED
        if refusal is not None:
            return refusal
        return KillOutcome.KILLED if await self._is_gone_for_good(expected, gone_within_seconds) else KillOutcome.STILL_THERE

    def close(self) -> None:
        """Let go of the process; a kill that still waits is told by an error."""
        if self._descriptor is not None:
            trio.lowlevel.notify_closing(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def _open_descriptor(self) -> int:
        if self._descriptor is None:
            raise trio.ClosedResourceError(f"the handle of process {self._process.pid} is closed")
        return self._descriptor

    async def _order(self, number: signal.Signals, expected: HostProcess, wanted: StillWanted | None) -> KillOutcome | None:
        """Send one signal; return why not, or None when it was sent."""
        if wanted is not None and not await wanted():
            return KillOutcome.WITHDRAWN
        # Never abandoned: a thread left behind would signal after we have said that nothing was sent.
        return await threads.run(self._strike, number, expected, limiter=self._limiter)

    def _strike(self, number: signal.Signals, expected: HostProcess) -> KillOutcome | None:
        found = identify(self._root, expected.pid)
        if has_ended(self._open_descriptor):
            return KillOutcome.ALREADY_GONE
        # The held process has not ended, so its number is still its own, and `found` is about it.
        if found is None or found.container is None or found != expected or found.pid != self._process.pid:
            return KillOutcome.IDENTITY_CHANGED
        try:
            signal.pidfd_send_signal(self._open_descriptor, number)
        except ProcessLookupError:
            return KillOutcome.ALREADY_GONE
        except PermissionError:
            return KillOutcome.NOT_PERMITTED
        return None

    async def _is_gone_for_good(self, expected: HostProcess, seconds: float) -> bool:
        """Wait for the end of a process that got SIGKILL, and take away who holds it up."""
        ends = trio.current_time() + seconds
        while (left := ends - trio.current_time()) > 0 and not has_ended(self._open_descriptor):
            if not await self._is_gone_within(min(left, TRACER_SECONDS)):
                with suppress(HostError):  # It is tried again; the signal was sent, whatever cannot be read.
                    await threads.run(self._end_tracers, expected, limiter=self._limiter)
        return has_ended(self._open_descriptor)

    def _end_tracers(self, expected: HostProcess) -> None:
        """End the processes of the same pod that keep this one from its end. As with any other: held, identified, signalled."""
        for pid in tracers_that_stop(self._root, expected.pid):
            descriptor = _open_pidfd(pid)
            if descriptor is None:
                continue
            try:
                found = identify(self._root, pid)
                # The one that is to end holds its number still, so it is its tracer that was read.
                if not (has_ended(descriptor) or has_ended(self._open_descriptor)) and _same_pod(found, expected):
                    with suppress(ProcessLookupError, PermissionError):
                        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                        told = {"pid": pid, "kept": expected.pid}
                        log.warning("stopped a process that kept another of its pod from ending", extra=told)
            finally:
                os.close(descriptor)

    async def _is_gone_within(self, seconds: float) -> bool:
        with trio.move_on_after(seconds):
            await trio.lowlevel.wait_readable(self._open_descriptor)
        return has_ended(self._open_descriptor)


def hold(root: str, pid: int, limiter: trio.CapacityLimiter) -> PidfdHandle | None:
    """Open a pidfd, then read who it is; None when there is no such process. Blocks.

    Raises HostError when the kernel has no pidfds (before 5.3), or no file can be opened any more.
    """
    descriptor = _open_pidfd(pid)
    if descriptor is None:
        return None
    process = None
    try:
        process = identify(root, pid)
        if has_ended(descriptor):
            process = None
    finally:
        if process is None:
            os.close(descriptor)
    return None if process is None else PidfdHandle(root, process, descriptor, limiter)


def _same_pod(found: HostProcess | None, expected: HostProcess) -> bool:
    """Whether a process is surely of the pod of another."""
    if found is None or found.container is None or expected.container is None or found.pid == expected.pid:
        return False
    return bool(found.container.pod_uid) and found.container.pod_uid == expected.container.pod_uid


def has_ended(descriptor: int) -> bool:
    """Tell whether the process behind a pidfd has ended, every thread of it; never blocks."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid) if pid > 0 else None
    except OSError as error:
        if error.errno in _NO_SUCH_PROCESS:
            return None
        problem = f"process {pid} cannot be held: {error.strerror}"
        raise HostError(f"{problem}; pidfds need Linux 5.3 or newer, and a free open file") from error
