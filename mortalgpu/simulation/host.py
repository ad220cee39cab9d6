"""TWIN of the host port: a process table, a clock and a service manager that live in virtual time.

A test or the demo makes processes here, forks, moves and ends them, and hands their numbers out again; what the daemon does
to them is recorded in `signals`. Deaths are lazy: a signalled process ends when its time has come and somebody looks, so
that the twin needs no task of its own. What a real kernel refuses is refused here; the contract suite in
tests/contract/test_host.py runs over both.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from types import TracebackType
from typing import Self

import trio

from mortalgpu.host.base import HostProcess, KillOutcome, ProcessDetails, StillWanted
from mortalgpu.model.pod import ContainerRef

TICKS_PER_SECOND = 100


@dataclass(frozen=True, slots=True)
class Temper:
    """How a process takes its death."""

    term_seconds: float = 0.0
    """From SIGTERM to the end; `math.inf` for one that ignores it."""
    kill_seconds: float = 0.0
    """From SIGKILL to the end, while its memory drains; `math.inf` for one that is stuck."""
    protected: bool = False
    """The kernel permits us no signal."""


@dataclass(frozen=True, slots=True)
class SentSignal:
    """One signal the daemon sent, with what the process was at that moment."""

    process: HostProcess
    name: str
    at_seconds: float


@dataclass(slots=True)
class _Life:
    process: HostProcess
    details: ProcessDetails
    temper: Temper
    dies_at: float = inf
    ended: trio.Event = field(default_factory=trio.Event)


class SimulatedHost:
    """A `ProcessTable` whose processes are made here. Call it inside of a trio run."""

    def __init__(self, first_pid: int = 1000) -> None:
        self.signals: list[SentSignal] = []
        self.on_signal: list[Callable[[SentSignal], None]] = []
        """Called with each signal as it is sent, before it does anything."""
        self.on_exit: list[Callable[[HostProcess], None]] = []
        """Called with each process that ends: the simulated driver frees its memory there."""
        self._next_pid = first_pid
        self._births = 0
        self._births_inside: Counter[ContainerRef] = Counter()
        self._lives: dict[int, _Life] = {}

    # What the scenario does.

    def start(
        self,
        container: ContainerRef | None = None,
        *,
        pid: int | None = None,
        user: str = "root",
        command: str = "python train.py",
        temper: Temper | None = None,
    ) -> HostProcess:
        """Start a process and return it; a `pid` given must be free. Start times never repeat."""
        number = self._free_pid() if pid is None else pid
        if self.running(number):
            raise ValueError(f"pid {number} is in use")
        self._births += 1
        start_ticks = int(trio.current_time() * TICKS_PER_SECOND) + self._births
        process = HostProcess(number, start_ticks, container)
        inside = number if container is None else self._number_inside(container)
        details = ProcessDetails(user, command, inside)
        self._lives[number] = _Life(process, details, temper or Temper())
        return process

    def fork(self, pid: int) -> HostProcess:
        """Start a child: same container, user, command and temper."""
        parent = self._life(pid)
        details = parent.details
        return self.start(parent.process.container, user=details.user, command=details.command, temper=parent.temper)

    def move(self, pid: int, container: ContainerRef | None) -> HostProcess:
        """Move a process to another container, or out of all, and return it as it is now."""
        life = self._life(pid)
        life.process = replace(life.process, container=container)
        return life.process

    def exit(self, pid: int) -> None:
        """End a process by itself."""
        self._end(self._life(pid))

    def reuse(self, pid: int, container: ContainerRef | None = None) -> HostProcess:
        """End a process and give its number to a new one at once."""
        self.exit(pid)
        return self.start(container, pid=pid)

    def stop_container(self, container: ContainerRef) -> None:
        """End every process of a container."""
        for process in [process for process in self.processes() if process.container == container]:
            self.exit(process.pid)

    def running(self, pid: int) -> bool:
        """Tell whether there is such a process now."""
        life = self._lives.get(pid)
        return life is not None and not self._has_ended(life)

    def processes(self) -> tuple[HostProcess, ...]:
        """Every process there is now, by pid."""
        return tuple(life.process for _, life in sorted(self._lives.items()) if not self._has_ended(life))

    # The port.

    async def inspect(self, pids: Collection[int]) -> Mapping[int, HostProcess]:
        """See `ProcessTable.inspect`."""
        await trio.lowlevel.checkpoint()
        return {pid: self._lives[pid].process for pid in pids if self.running(pid)}

    async def describe(self, processes: Collection[HostProcess]) -> Mapping[int, ProcessDetails]:
        """See `ProcessTable.describe`."""
        await trio.lowlevel.checkpoint()
        return {
            process.pid: life.details
            for process in processes
            if self.running(process.pid) and (life := self._lives[process.pid]).process.start_ticks == process.start_ticks
        }

    async def open(self, pid: int) -> "SimulatedHandle | None":
        """See `ProcessTable.open`."""
        await trio.lowlevel.checkpoint()
        return SimulatedHandle(self, self._lives[pid]) if self.running(pid) else None

    def _free_pid(self) -> int:
        while self.running(self._next_pid):
            self._next_pid += 1
        self._next_pid += 1
        return self._next_pid - 1

    def _number_inside(self, container: ContainerRef) -> int:
        self._births_inside[container] += 1
        return self._births_inside[container]

    def _life(self, pid: int) -> _Life:
        if not self.running(pid):
            raise ValueError(f"no process has pid {pid}")
        return self._lives[pid]

    def _has_ended(self, life: _Life) -> bool:
        if not life.ended.is_set() and trio.current_time() >= life.dies_at:
            self._end(life)
        return life.ended.is_set()

    def _end(self, life: _Life) -> None:
        del self._lives[life.process.pid]
        life.ended.set()
        for told in self.on_exit:
            told(life.process)

    def _note_signal(self, process: HostProcess, name: str) -> None:
        sent = SentSignal(process, name, trio.current_time())
        self.signals.append(sent)
        for heard in self.on_signal:
            heard(sent)

    def _strike(self, life: _Life, name: str, expected: HostProcess) -> KillOutcome | None:
        """Do to one process what the kernel and the adapter do together; return why not, or None when it was signalled."""
        if self._has_ended(life):
            return KillOutcome.ALREADY_GONE
        if expected.container is None or life.process != expected:
            return KillOutcome.IDENTITY_CHANGED
        if life.temper.protected:
            return KillOutcome.NOT_PERMITTED
        now = trio.current_time()
        self._note_signal(life.process, name)
        life.dies_at = min(life.dies_at, now + (life.temper.term_seconds if name == "SIGTERM" else life.temper.kill_seconds))
        self._has_ended(life)
        return None


class SimulatedHandle:
    """A `ProcessHandle` on a process of the twin."""

    def __init__(self, host: SimulatedHost, life: _Life) -> None:
        self._host = host
        self._life = life
        self._process = life.process
        self._closed = False

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
        for name, patience_seconds in (("SIGTERM", grace_seconds), ("SIGKILL", gone_within_seconds)):
            if name == "SIGTERM" and grace_seconds <= 0:
                continue
            refusal = await self._order(name, expected, still_wanted)
            if refusal is KillOutcome.ALREADY_GONE and name == "SIGKILL" and grace_seconds > 0:
                return KillOutcome.KILLED
            if refusal is not None:
                return refusal
            if await self._is_gone_within(patience_seconds):
                return KillOutcome.KILLED
        return KillOutcome.STILL_THERE

    def close(self) -> None:
        """Let go of the process."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    async def _order(self, name: str, expected: HostProcess, wanted: StillWanted | None) -> KillOutcome | None:
        if self._closed:
            raise trio.ClosedResourceError(f"the handle of process {self._process.pid} is closed")
        if wanted is not None and not await wanted():
            return KillOutcome.WITHDRAWN
        await trio.lowlevel.checkpoint()
        return self._host._strike(self._life, name, expected)

    async def _is_gone_within(self, seconds: float) -> bool:
        with trio.move_on_at(min(trio.current_time() + seconds, self._life.dies_at)):
            await self._life.ended.wait()
        return self._host._has_ended(self._life)


class SimulatedClock:
    """A `WallClock` that follows trio's clock, and whose wall time a test can make jump."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._offset = start

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._offset + trio.current_time()

    def monotonic(self) -> float:
        """Trio's time, virtual under a test clock."""
        return trio.current_time()

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward, or back when negative."""
        self._offset += seconds


class RecordingServiceManager:
    """A `ServiceManager` that remembers what it was told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    async def ready(self, status: str) -> None:
        """Remember it."""
        await self._note("ready", status)

    async def alive(self) -> None:
        """Remember it."""
        await self._note("alive", "")

    async def stopping(self, reason: str) -> None:
        """Remember it."""
        await self._note("stopping", reason)

    async def _note(self, verb: str, text: str) -> None:
        self.told.append((verb, text))
        await trio.lowlevel.checkpoint()
