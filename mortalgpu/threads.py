"""Worker threads for what blocks, also while the kernel lets nobody start one: no threads, or no memory, are left to us.

Rules:
1. Who is refused a new thread waits for one that others are done with: those that there are take turns.
2. While somebody waits so, a newcomer holds back for a moment: a task that always asks again would keep its thread for ever.
3. Who has waited in vain is told by a HostError. What comes of it is the caller's business; it is no bug and no crash.
"""

import logging
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import trio

from mortalgpu.errors import HostError

log = logging.getLogger(__name__)

_T = TypeVar("_T")

PATIENCE_SECONDS = 2.0
_POLL_SECONDS = 0.005
_HOLD_BACK_SECONDS = 4 * _POLL_SECONDS
_QUIET_LOG_SECONDS = 60.0

_REFUSED = "can't start new thread"
"""What Python says, and only when it is so, in an error class that means anything."""


class _Queue:
    waiting = 0
    told_at = -math.inf


async def run(
    work: Callable[..., _T],
    *arguments: Any,
    abandon_on_cancel: bool = False,
    limiter: trio.CapacityLimiter | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
) -> _T:
    """Run blocking work in a worker thread and return what it returns, as `trio.to_thread.run_sync` does.

    Raises what the work raises, and HostError when no thread was to be had for `patience_seconds`. May be cancelled: at once
    while no thread has begun, later only with `abandon_on_cancel`, which leaves the thread to itself.
    """
    in_thread = partial(trio.to_thread.run_sync, abandon_on_cancel=abandon_on_cancel, limiter=limiter)
    return await patiently(partial(in_thread, work, *arguments), patience_seconds)


async def patiently(attempt: Callable[[], Awaitable[_T]], patience_seconds: float = PATIENCE_SECONDS) -> _T:
    """Make something of a library's that wants a thread, again and again while none can be started. Raises as `run` does."""
    if _Queue.waiting:
        await trio.sleep(_HOLD_BACK_SECONDS)
    ends = trio.current_time() + patience_seconds
    while True:
        try:
            return await attempt()
        except RuntimeError as error:
            if not is_refusal(error):
                raise
            _tell(error)
            if trio.current_time() >= ends:
                raise HostError(f"no thread can be started: {error}; raise the limits of processes and memory") from error
        _Queue.waiting += 1
        try:
            await trio.sleep(_POLL_SECONDS)
        finally:
            _Queue.waiting -= 1


def are_wanted() -> bool:
    """Tell whether somebody waits for a thread: long work that can be taken up again had better end. From any thread."""
    return _Queue.waiting > 0


def is_refusal(error: BaseException) -> bool:
    """Tell whether an error says that no thread can be started."""
    return isinstance(error, RuntimeError) and str(error) == _REFUSED


def _tell(error: RuntimeError) -> None:
    now = trio.current_time()
    if now - _Queue.told_at >= _QUIET_LOG_SECONDS or now < _Queue.told_at:
        _Queue.told_at = now
        log.warning("no thread can be started; those that there are take turns", extra={"cause": str(error)})
