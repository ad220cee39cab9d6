"""One run of the story in virtual time under one plan, with everything counted that must be back to zero afterwards."""

import os
import shutil
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio._core._run
from trio.testing import MockClock

from mortalgpu.simulation.kubelet import running
from tests.faults.faulty import Plan
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


def play(
    plan: Plan,
    monkeypatch: pytest.MonkeyPatch,
    *,
    seed: int = 1,
    converge_seconds: float = CONVERGE_SECONDS,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> Run:
    """Play the story under a plan. Raises what went wrong first; the rest stands in `wrong`."""
    run = Run(plan)
    trio._core._run._r.seed(seed)
    before = _open_files(), _threads()
    root = Path(tempfile.mkdtemp(prefix="mgf-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    clock = MockClock(autojump_threshold=0)

    async def main() -> None:
        world = World(root)
        plan.hear_lie.append(world.hear_lie)
        run.wrong = world.wrong
        async with running(world.kubelet), supervised(world, plan, monkeypatch) as supervisor:
            await _tell(Story(world, supervisor), plan, converge_seconds)
            run.codes = supervisor.codes
            _check_after(world, supervisor)
        run.virtual_seconds = trio.current_time()

    try:
        with monkeypatch.context() as patched:
            hold_the_clock(clock, patched)
            trio.run(main, clock=clock, instruments=instruments)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    assert (_open_files(), _threads()) == before, "left over: open files or threads"
    return run


async def _tell(story: Story, plan: Plan, converge_seconds: float) -> None:
    await story.play()
    plan.healthy = True
    await story.converge(converge_seconds)
    plan.healthy = False
    await _stop(story.supervisor, plan)


async def _stop(supervisor: Supervisor, plan: Plan) -> None:
    """Stop the daemon in good order. Faults may strike again now: then it may fail, but it must end."""
    before = len(plan.injected)
    code = await supervisor.stop()
    expected = (0,) if len(plan.injected) == before else (0, 69, 70)
    assert code in expected, f"exit codes {supervisor.codes}: {supervisor.errors[-1:]}"


def _check_after(world: World, supervisor: Supervisor) -> None:
    assert not world.wrong, "; ".join(world.wrong)


def _open_files() -> list[str]:
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}").partition(":")[0])
        except OSError:
            continue
    return sorted(found)


def _threads() -> set[str]:
    """Threads by name; those that trio keeps for the next call are not counted."""
    return {thread.name for thread in threading.enumerate() if not thread.name.startswith("Trio thread")}
