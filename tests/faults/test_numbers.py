"""A process that is to be stopped ends by itself, and its number goes to another, at each moment on the way to the signal.

The driver goes on listing the memory of the dead, under a number that is an innocent's now: a stranger's, another tenant's, or
that of a sibling in the same container, which is within its limit again. What nobody can tell (scan/listings.py) is left out: a
number that changes hands before the daemon has seen whose it was.
"""

import pytest

from tests.campaign import Tally
from tests.faults.inheritance import Inheritance
from tests.faults.play import play
from tests.faults.ports import Point, points

pytestmark = pytest.mark.faults

HEIRS = (None, "bob", "alice")
"""Whose the heir is: nobody's, another tenant's, the same tenant's."""
MOMENTS = (1, 2, 3)
"""After which answer of a point since the culprit went over the limit."""


@pytest.mark.parametrize("heir", HEIRS)
@pytest.mark.parametrize(
    "point",
    [each for each in points() if each.name == "GpuDriver.processes" or each.port == "ProcessTable"],
    ids=lambda point: point.name,
)
def test_a_number_that_changes_hands_is_never_signalled(
    point: Point, heir: str | None, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    for moment in MOMENTS:
        changes = Inheritance(point, moment, heir)
        play(changes.plan, monkeypatch, prepare=changes.prepare)
        if not changes.done:  # There is no such moment: the culprit was gone before.
            break
        tally.add("numbers that changed hands")
        tally.add("scenarios run")
