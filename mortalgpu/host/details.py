"""What people want to read about processes: user, command line, pid inside. Slow facts, remembered for a while.

A command line lies in the memory of the process it belongs to, which can hold its reader up for ever (a page that its own
user-space fault handler never fills). So a worker thread reads them, is left behind when it is late, and the process it
hung on is then shown by its short name. Nothing here identifies: a process that is no longer the one that was
asked about is left out.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import trio

from mortalgpu import threads
from mortalgpu.errors import HostError
from mortalgpu.host.base import HostProcess, ProcessDetails
from mortalgpu.host.procfs import read_command, read_stat, read_status, read_users

_REMEMBERED_SECONDS = 45.0
_SPREAD_SECONDS = 15
"""Entries expire up to this much later, by pid, so that a full node is not read again in one burst."""
_READERS = 4
"""So many hung threads are put up with; after that, everybody is shown by its short name until one comes back."""


@dataclass(slots=True)
class _Errand:
    """One trip of a worker thread for command lines: filled there, and read here when it is back or late."""

    done: dict[HostProcess, ProcessDetails]
    at: HostProcess | None = None
    """Whose command line is being read."""
    abandoned: bool = False


class Describer:
    """Answers `ProcessTable.describe` from a procfs at `root`, names of users from the first `passwd` file that has any."""

    def __init__(self, root: str, passwd: Sequence[str], patience_seconds: float) -> None:
        self._root = root
        self._passwd = passwd
        self._patience_seconds = patience_seconds
        self._plain_readers = trio.CapacityLimiter(1)
        self._command_readers = trio.CapacityLimiter(_READERS)
        self._known: dict[HostProcess, tuple[float, ProcessDetails]] = {}

    async def describe(self, processes: Collection[HostProcess]) -> dict[int, ProcessDetails]:
        """See `ProcessTable.describe`. Takes at most the patience given, which only a hung reader uses up."""
        now = trio.current_time()
        self._known = {process: entry for process, entry in self._known.items() if entry[0] > now}
        unknown = tuple(process for process in processes if process not in self._known)
        fresh = await self._fetch(unknown) if unknown else {}
        found = {process.pid: entry[1] for process in processes if (entry := self._known.get(process))}
        return found | {process.pid: details for process, details in fresh.items()}

    async def _fetch(self, unknown: tuple[HostProcess, ...]) -> dict[HostProcess, ProcessDetails]:
        plain = await threads.run(self._read_plain, unknown, abandon_on_cancel=True, limiter=self._plain_readers)
        if not plain or not self._command_readers.available_tokens:
            return plain
        errand = _Errand(dict(plain))
        with trio.move_on_after(self._patience_seconds):
            await threads.run(self._run, errand, abandon_on_cancel=True, limiter=self._command_readers)
            self._remember(errand.done)
            return errand.done
        errand.abandoned = True
        late, done = errand.at, dict(errand.done)
        if late is not None:
            # It is shown by its name from now on; those behind it in the queue get another try.
            tried = (late, *takewhile(lambda process: process != late, done))
            self._remember({process: done[process] for process in tried})
        return done

    def _remember(self, done: dict[HostProcess, ProcessDetails]) -> None:
        expires = trio.current_time() + _REMEMBERED_SECONDS
        self._known.update({process: (expires + process.pid % _SPREAD_SECONDS, details) for process, details in done.items()})

    def _read_plain(self, processes: tuple[HostProcess, ...]) -> dict[HostProcess, ProcessDetails]:
        users = next(filter(None, map(read_users, self._passwd)), {})
        return {process: details for process in processes if (details := self._plain(process, users))}

    def _run(self, errand: _Errand) -> None:
        for process in tuple(errand.done):
            errand.at = process
            command = self._command(process)
            if errand.abandoned:
                return
            if command:
                errand.done[process] = replace(errand.done[process], command=command)

    def _plain(self, process: HostProcess, users: dict[int, str]) -> ProcessDetails | None:
        """Everything that can be read without the process's help."""
        status, stat = read_status(self._root, process.pid), read_stat(self._root, process.pid)
        if status is None or stat is None or stat.start_ticks != process.start_ticks:
            return None
        user = users.get(status.user_id, str(status.user_id))
        return ProcessDetails(user, f"[{stat.name}]", status.pid_inside)

    def _command(self, process: HostProcess) -> str:
        """The command line; empty when there is none, when it may not be read, or when it is another process's."""
        try:
            command = read_command(self._root, process.pid)
            stat = read_stat(self._root, process.pid)
        except HostError:
            return ""
        return command or "" if stat is not None and stat.start_ticks == process.start_ticks else ""
