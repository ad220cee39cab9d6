"""The real process table: /proc and pidfds behind the port `ProcessTable`.

Who is asked about at every scan is held by an open file (see `identity`), so that a steady node costs one system call a
process, in one hop to a thread for all. The files are bounded by a share of this process's limit of open files; what is
above the bound is read anew each time, which is slower and just as right.
"""

import os
import resource
import threading
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Self

import trio

from mortalgpu import threads
from mortalgpu.errors import HostError
from mortalgpu.host.base import HostProcess, ProcessDetails
from mortalgpu.host.details import Describer
from mortalgpu.host.identity import Held
from mortalgpu.host.pidfd import PidfdHandle, hold

_FORGOTTEN_AFTER_ROUNDS = 8
_KILLS_AT_ONCE = 8
_HELD_AT_MOST = 8192


class ProcfsTable:
    """A `ProcessTable` over the procfs mounted at `root`. Use it in a `with` block, or close it: it keeps files open.

    `passwd` are the files to look for user names in, the first that has any is used; by default what the host's first
    process sees as /etc/passwd (which takes the right to look into it), then our own.
    `held_at_most` bounds the files kept open, by default a quarter of this process's limit.
    """

    def __init__(
        self,
        root: str = "/proc",
        *,
        passwd: Sequence[str] | None = None,
        held_at_most: int | None = None,
        patience_seconds: float = 0.5,
    ) -> None:
        self._root = root
        self._describer = Describer(root, passwd or (f"{root}/1/root/etc/passwd", "/etc/passwd"), patience_seconds)
        self._held: dict[int, Held] = {}
        self._held_at_most = _share_of_open_files() if held_at_most is None else held_at_most
        self._round = 0
        # One reader at a time: a scan that hangs in the kernel keeps its token, and `_held` has one owner.
        self._scans = trio.CapacityLimiter(1)
        self._kills = trio.CapacityLimiter(_KILLS_AT_ONCE)
        self._reading = threading.Lock()

    async def inspect(self, pids: Collection[int]) -> Mapping[int, HostProcess]:
        """See `ProcessTable.inspect`."""
        return await threads.run(self._inspect, tuple(pids), abandon_on_cancel=True, limiter=self._scans)

    async def describe(self, processes: Collection[HostProcess]) -> Mapping[int, ProcessDetails]:
        """See `ProcessTable.describe`."""
        return await self._describer.describe(processes)

    async def open(self, pid: int) -> PidfdHandle | None:
        """See `ProcessTable.open`."""
        self._require_own_numbers()
        return await threads.run(hold, self._root, pid, self._kills, limiter=self._kills)

    def close(self) -> None:
        """Close the files kept open, unless a hung reader still uses them; harmless when repeated."""
        if self._reading.acquire(blocking=False):
            try:
                for held in self._held.values():
                    held.close()
                self._held.clear()
            finally:
                self._reading.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _inspect(self, pids: tuple[int, ...]) -> dict[int, HostProcess]:
        with self._reading:
            self._round += 1
            found = {pid: process for pid in pids if (process := self._look(pid)) is not None}
            self._forget_those_not_asked_for()
        return found

    def _look(self, pid: int) -> HostProcess | None:
        held = self._held.get(pid)
        if held is None:
            return self._look_first(pid)
        process = held.look()
        if process is None:
            # Gone; its number may already be another's.
            self._held.pop(pid).close()
            return self._look_first(pid)
        held.asked_in_round = self._round
        return process

    def _look_first(self, pid: int) -> HostProcess | None:
        held = Held.open(self._root, pid)
        if held is None:
            return None
        held.asked_in_round = self._round
        process = None
        try:
            process = held.look()
        finally:
            if process is None or len(self._held) >= self._held_at_most:
                held.close()
            else:
                self._held[pid] = held
        return process

    def _forget_those_not_asked_for(self) -> None:
        oldest = self._round - _FORGOTTEN_AFTER_ROUNDS
        for pid in [pid for pid, held in self._held.items() if held.asked_in_round < oldest]:
            self._held.pop(pid).close()

    def _require_own_numbers(self) -> None:
        """Refuse to hold by number where this procfs counts otherwise than we do: the number would mean somebody else."""
        try:
            own = os.readlink(f"{self._root}/self")
        except OSError:
            own = "nobody"
        if own != str(os.getpid()):
            problem = f"{self._root} is of another pid namespace than this process ({own} there, {os.getpid()} here)"
            raise HostError(f"{problem}; run the daemon in the host's pid namespace (hostPID: true)")


def _share_of_open_files() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _HELD_AT_MOST if soft == resource.RLIM_INFINITY else min(_HELD_AT_MOST, soft // 4)
