"""The story without a fault: how often each point is called in it, and what it answers. Played once for all tests."""

from functools import cache

import pytest

from tests.faults.faulty import Plan
from tests.faults.play import play


@cache
def rehearsed() -> Plan:
    """The plan of a story in which nothing was planned."""
    plan = Plan(samples_wanted=True)
    with pytest.MonkeyPatch.context() as patched:
        run = play(plan, patched)
    assert run.codes == [0]
    return plan
