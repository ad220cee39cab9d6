"""What Trio sees of the daemon: its tasks, each of their steps, and a blow that falls at a step of our choice."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import trio

ROOT = "_daemon"
"""The coroutine of the supervisor's that is the daemon's first task."""

Blow = Callable[[trio.lowlevel.Task], bool]
"""What happens to a task that has just come to an await; whether it happened."""


@dataclass(eq=False)
class Census(trio.abc.Instrument):
    """The daemon's tasks that live, and the system tasks that were spawned since it was first started."""

    alive: set[trio.lowlevel.Task] = field(default_factory=set)
    has_begun: bool = False

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        """See trio.abc.Instrument."""
        parent = task.parent_nursery.parent_task if task.parent_nursery else None
        is_root = getattr(task.coro, "__name__", "") == ROOT
        self.has_begun |= is_root
        is_system = self.has_begun and parent is not None and parent.parent_nursery is None and parent is not _main(task)
        if is_root or is_system or parent in self.alive:
            self.alive.add(task)

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        """See trio.abc.Instrument."""
        self.alive.discard(task)


@dataclass(eq=False)
class Steps(trio.abc.Instrument):
    """Counts the awaits of the daemon's tasks; at the one of number `at` (from 1) the blow falls, or at the next possible."""

    census: Census
    at: int = 0
    blow: Blow | None = None
    count: int = 0
    struck: str = ""
    """Where the blow fell; empty before."""

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """See trio.abc.Instrument."""
        if task not in self.census.alive:
            return
        self.count += 1
        if self.blow and not self.struck and self.count >= self.at:
            where = _where(task)
            if self.blow(task):
                self.struck = f"{where}, step {self.count}"


def crash(task: trio.lowlevel.Task) -> bool:
    """Let the await to which a task has come raise what nobody expects."""
    if task._abort_func is None:
        return False
    # A nursery that waits for its tasks takes the error in and goes on waiting; a thread's end cannot be hastened.
    takes_it_in = "Nursery" in task._abort_func.__qualname__
    task._attempt_abort(_raise)
    return takes_it_in or task._next_send_fn is not None


def _raise() -> Any:
    raise RuntimeError("made up, at an await")


def _main(task: trio.lowlevel.Task) -> trio.lowlevel.Task | None:
    return task._runner.main_task


def _where(task: trio.lowlevel.Task) -> str:
    """The file and line of ours at which a task waits."""
    found = task.name
    for frame, line in task.iter_await_frames():
        if "/mortalgpu/" in frame.f_code.co_filename:
            found = f"{frame.f_code.co_filename.rpartition('/mortalgpu/')[2]}:{line}"
    return found
