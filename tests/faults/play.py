"""One run of the story in virtual time under one plan, with everything counted that must be back to zero afterwards."""

import gc
import os
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio._core._run
from trio.testing import MockClock

from mortalgpu.simulation.kubelet import running
from tests.faults.faulty import Plan
from tests.faults.instruments import Blow, Census, Steps
from tests.faults.story import CONVERGE_SECONDS, Story
from tests.faults.supervisor import Supervisor, hold_the_clock, supervised
from tests.faults.world import World


@dataclass
class Run:
    """What became of one story."""

    plan: Plan
    codes: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    virtual_seconds: float = 0.0
    steps: int = 0
    """How often a task of the daemon's came to an await: in all, while the story lasted, and until the daemon was stopped."""
    steps_in_story: int = 0
    steps_before_stop: int = 0
    struck: str = ""
    """Where the blow fell."""


def play(
    plan: Plan,
    monkeypatch: pytest.MonkeyPatch,
    *,
    seed: int = 1,
    converge_seconds: float = CONVERGE_SECONDS,
    prepare: Callable[[World], None] = lambda _: None,
    blow_at: int = 0,
    blow: Blow | None = None,
) -> Run:
    """Play the story under a plan. Raises what went wrong.

    `prepare` is given the world before it begins to turn. `blow` falls at an await of the daemon's, that of number `blow_at`;
    without one, the supervisor cancels the daemon there.
    """
    run = Run(plan)
    steps = Steps(Census(), blow_at)
    trio._core._run._r.seed(seed)
    before = _open_files(), _threads()
    root = Path(tempfile.mkdtemp(prefix="mgf-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    clock = MockClock(autojump_threshold=0)

    async def main() -> None:
        world = World(root)
        plan.hear_lie.append(world.hear_lie)
        prepare(world)
        run.wrong = world.wrong
        async with running(world.kubelet), supervised(world, plan, patched) as supervisor:
            if blow_at:
                steps.blow = blow or supervisor.cancel
            story = Story(world, supervisor)
            await story.play()
            run.steps_in_story = steps.count
            plan.healthy = True
            await story.converge(converge_seconds)
            plan.healthy, run.steps_before_stop, struck_before = False, steps.count, steps.struck
            await _stop(supervisor, plan, steps, struck_before)
            run.codes = supervisor.codes
            _check_after(world, steps.census)
        run.virtual_seconds, run.steps, run.struck = trio.current_time(), steps.count, steps.struck

    try:
        # What one play puts in place must be gone before the next.
        with monkeypatch.context() as patched:
            hold_the_clock(clock, patched)
            trio.run(main, clock=clock, instruments=[steps.census, steps])
    finally:
        shutil.rmtree(root, ignore_errors=True)
    _check_nothing_is_left_over(*before)
    return run


async def _stop(supervisor: Supervisor, plan: Plan, steps: Steps, struck_before: str) -> None:
    """Stop the daemon in good order. Faults may strike again now: then it may fail, but it must end."""
    before = len(plan.injected)
    code = await supervisor.stop()
    is_disturbed = len(plan.injected) > before or steps.struck != struck_before
    assert code in ((0, 69, 70, 137) if is_disturbed else (0,)), f"exit codes {supervisor.codes}: {supervisor.errors[-1:]}"


def _check_after(world: World, census: Census) -> None:
    """After the daemon's end nothing of it is left, and nothing ever happened that must not."""
    assert not world.wrong, "; ".join(world.wrong)
    assert not census.alive, f"tasks left: {[task.name for task in census.alive]}"
    sockets = {path.name for path in world.root.rglob("*") if path.is_socket()}
    assert sockets == {"kubelet.sock"}, f"sockets left: {sockets}"


def _check_nothing_is_left_over(files: Counter[str], threads: set[str]) -> None:
    """Compare with what was open before. What others left behind may have gone meanwhile."""
    if _open_files() - files:
        gc.collect()
    left = _open_files() - files, _threads() - threads
    assert not any(left), f"left over: open files {dict(left[0])}, threads {left[1]}"


def _open_files() -> Counter[str]:
    """How many files are open, by kind (`socket`, `pipe`) or path."""
    found: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found[os.readlink(f"/proc/self/fd/{number}").partition(":")[0]] += 1
    return found


def _threads() -> set[str]:
    """Threads by name; those that trio keeps for the next call are not counted."""
    return {thread.name for thread in threading.enumerate() if not thread.name.startswith("Trio thread")}


def told(error: BaseException) -> str:
    """An error in one line."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return f"{type(error).__name__}: {str(error)[:300]}"
