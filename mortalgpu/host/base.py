"""PORT: what MortalGPU asks of this machine: who a pid is, the death of one process, the time, and the service manager.

This file knows no trio, no /proc and no signal numbers: only the verbs and the values that cross the wall. A pid is
never an identity here, because the kernel hands the same number out again; an identity is a pid with its start time and
the container that its cgroup names. A process that vanishes at any moment is normal and never an error.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Protocol, Self

from mortalgpu.model.pod import ContainerRef


@dataclass(frozen=True, slots=True)
class HostProcess:
    """One process as it was when it was inspected. Equal values mean: the same process, still in the same container."""

    pid: int
    start_ticks: int
    """Clock ticks from boot to its start (proc_pid_stat(5), field 22): with the pid, unique until the next boot.

    A tick is 10 ms: less than a kernel needs to give out all other numbers before it comes to this one again.
    """
    container: ContainerRef | None
    """None: outside of Kubernetes, or in a place that cannot be told for certain. Such a process is nobody's."""


@dataclass(frozen=True, slots=True)
class ProcessDetails:
    """What people want to read about a process. All texts are chosen by the tenant: printable, one line, capped here."""

    user: str
    """The host's name for its real user id, else the number."""
    command: str
    """Command line joined by spaces; `[name]` when it has none (a zombie, a kernel thread)."""
    pid_inside: int
    """Its pid as the container sees it; the same as outside when it has no pid namespace of its own."""


class KillOutcome(Enum):
    """What became of an order to kill. The values are fixed words for logs and metrics."""

    KILLED = "killed"
    """Signalled by us, and gone."""
    ALREADY_GONE = "already_gone"
    """It had ended before we signalled it."""
    IDENTITY_CHANGED = "identity_changed"
    """Not, or no longer, the process that was judged (another start time or container, or no container): not signalled."""
    WITHDRAWN = "withdrawn"
    """The caller's last question (`still_wanted`) was answered with no; nothing stronger was sent."""
    NOT_PERMITTED = "not_permitted"
    """The kernel refused us the signal."""
    STILL_THERE = "still_there"
    """SIGKILL was sent, but the process did not end in time (stuck in the driver or in a frozen cgroup)."""


StillWanted = Callable[[], Awaitable[bool]]


class ProcessHandle(Protocol):
    """One live process, held so that its number cannot come to mean another one. Close it: it costs an open file.

    `process` was read after the process was held, so that it is about the held process for certain.
    """

    @property
    def process(self) -> HostProcess:
        """The identity as it was when the handle was opened."""
        ...

    async def kill(
        self,
        expected: HostProcess,
        *,
        grace_seconds: float = 0.0,
        gone_within_seconds: float = 5.0,
        still_wanted: StillWanted | None = None,
    ) -> KillOutcome:
        """End the process, provided that it still is `expected`: the value of the scan that condemned it.

        With `grace_seconds` above zero SIGTERM is sent first and SIGKILL when the grace is over, else SIGKILL at once.
        Before each of the two signals `still_wanted` is awaited, then start time and container are read again, and
        nothing is awaited between that reading and the signal. Returns when the process is really gone, or
        `gone_within_seconds` after SIGKILL. Raises what `still_wanted` raises, and HostError when the identity cannot be
        read; then nothing more is signalled. May be cancelled at any time; what was sent stays sent.
        """
        ...

    def close(self) -> None:
        """Let go of the process. Never blocks; harmless when repeated."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class ProcessTable(Protocol):
    """The machine's processes, by the pid numbers that the GPU driver reports."""

    async def inspect(self, pids: Collection[int]) -> Mapping[int, HostProcess]:
        """Tell who these pids are now. Pids that are gone are left out.

        Cheap enough for every scan: one hop to a thread for all. The container is read anew at every call, since a
        process can be moved. Raises HostError when the process table as a whole cannot be read. May be cancelled.
        """
        ...

    async def describe(self, processes: Collection[HostProcess]) -> Mapping[int, ProcessDetails]:
        """Tell what people want to read about these processes, by pid; processes that are gone are left out.

        Texts may be up to a minute old. Reading a command line can be held up by the process itself, so that this must
        never stand between a scan and its verdict; one that does not come in time is given as its short name.
        """
        ...

    async def open(self, pid: int) -> ProcessHandle | None:
        """Hold a process and read who it is; None when there is no such process (any more).

        Raises HostError when the process cannot be held: no permission, no open files left, or a process table that
        belongs to another pid namespace than ours, where numbers mean other processes.
        """
        ...


class WallClock(Protocol):
    """The time. Durations are measured with `monotonic` only: the wall clock may jump either way."""

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never goes backwards."""
        ...


class ServiceManager(Protocol):
    """Whoever started us and wants to know how we are. No verb raises, or blocks for more than a second."""

    async def ready(self, status: str) -> None:
        """Say that the start is complete, with one line of status text."""
        ...

    async def alive(self) -> None:
        """Give a sign of life, for a watchdog if there is one."""
        ...

    async def stopping(self, reason: str) -> None:
        """Say that we are about to end, and why, in one line."""
        ...
