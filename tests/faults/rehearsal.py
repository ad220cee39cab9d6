"""The story without a fault: how often each point is called in it, and what it answers. Played once for all tests."""

from functools import cache

import pytest

from tests.faults.faulty import Plan
from tests.faults.play import Run, play


@cache
def _rehearsal() -> Run:
    with pytest.MonkeyPatch.context() as patched:
        run = play(Plan(samples_wanted=True), patched)
    assert run.codes == [0]
    return run


def rehearsed() -> Plan:
    """The plan of a story in which nothing was planned."""
    return _rehearsal().plan


def rehearsed_steps() -> list[int]:
    """The numbers of the awaits of the daemon's tasks in it: those of the story, and those of the daemon's end."""
    run = _rehearsal()
    return [*range(1, run.steps_in_story + 1), *range(run.steps_before_stop + 1, run.steps + 1)]
