"""Runs services: essential ones end the daemon with their crash, restartable ones cost one from a budget.

A service is a coroutine `async def serve(*, task_status)`; ending it is cancelling it. This module knows nothing of
what services do. It is one of the two places in which `except Exception` is at home.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import trio

from mortalgpu.errors import MortalGpuError, ServiceFailed, leaves

log = logging.getLogger(__name__)


class Service(Protocol):
    """A service, bound to all its arguments but `task_status`."""

    def __call__(self, *, task_status: trio.TaskStatus[None]) -> Awaitable[None]:
        """Run until cancelled; call `task_status.started()` once useful."""
        ...


@dataclass(slots=True)
class Budget:
    """How many restarts a service may need: `restarts` within `per_seconds`, each after a pause that doubles to a bound."""

    restarts: int = 10
    per_seconds: float = 600.0
    first_pause_seconds: float = 0.2
    longest_pause_seconds: float = 30.0
    spent: list[float] = field(default_factory=list)

    def pause_seconds(self, now: float) -> float | None:
        """Take one restart at monotonic time `now` and return the pause before it; None when none is left."""
        self.spent = [moment for moment in self.spent if now - moment < self.per_seconds]
        if len(self.spent) >= self.restarts:
            return None
        self.spent.append(now)
        return float(min(self.first_pause_seconds * 2 ** (len(self.spent) - 1), self.longest_pause_seconds))


OnRestart = Callable[[str], None]


class _FirstStart:
    """Passes on the first `started()` only: a restarted service says it again, but its starter has long gone on."""

    def __init__(self, task_status: trio.TaskStatus[None]) -> None:
        self._task_status = task_status
        self.seen = False

    def started(self, value: None = None) -> None:
        if not self.seen:
            self.seen = True
            self._task_status.started(value)


def restartable(name: str, service: Service, budget: Budget, on_restart: OnRestart = lambda _: None) -> Service:
    """Wrap a service so that a crash after its first start is followed by a restart, as far as the budget goes.

    The first start is essential: whatever fails before `started()` propagates, since a wrong port must be seen at once.
    Raises ServiceFailed, with the last crash as its cause, when the budget is spent.
    """

    async def serve(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        first = _FirstStart(task_status)
        while True:
            try:
                await service(task_status=first)
                return
            except Exception as error:
                if not first.seen:
                    raise
                pause = budget.pause_seconds(trio.current_time())
                if pause is None:
                    raise ServiceFailed(f"{name} crashed {budget.restarts} times in {budget.per_seconds:.0f} s") from error
                _tell_crash(name, error, pause)
                on_restart(name)
            await trio.sleep(pause)

    return serve


def _tell_crash(name: str, error: Exception, pause: float) -> None:
    """Log a crash, with a traceback unless all of it was raised on purpose: the machine's trouble is told in its words."""
    found = leaves(error)
    if all(isinstance(each, MortalGpuError) for each in found):
        about = {"service": name, "wait_seconds": pause, "error": "; ".join(dict.fromkeys(map(str, found)))}
        log.error("service crashed; starting it again", extra=about)
    else:
        log.error("service crashed; starting it again", extra={"service": name, "wait_seconds": pause}, exc_info=error)
