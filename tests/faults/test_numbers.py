"""A process that is to be stopped ends by itself, and its number goes to another, at each moment on the way to the signal.

The driver goes on listing the memory of the dead, under a number that is an innocent's now: a stranger's, another tenant's, or
that of a sibling in the same container, which is within its limit again. What nobody can tell (scan/listings.py) is left out: a
number that changes hands before the daemon has seen whose it was.
"""

import pytest

from mortalgpu.model.pod import ContainerRef
from tests.campaign import Tally
from tests.faults.faulty import Plan
from tests.faults.play import play
from tests.faults.ports import Point, points
from tests.faults.world import World

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


class Inheritance:
    """Hands the culprit's number on after an answer of one point."""

    def __init__(self, point: Point, moment: int, heir: str | None) -> None:
        self.plan = Plan(hear_answer=[self.hear])
        self.done = False
        self._point = point
        self._left = moment
        self._heir = heir
        self._is_known = False

    def prepare(self, world: World) -> None:
        """Know the world."""
        self._world = world

    def hear(self, point: Point) -> None:
        """Act when the time has come."""
        world = self._world
        if self.done or not world.culprit or not world.alive(world.culprit):
            return
        if point.name == self._point.name:
            self._strike(world)
        self._is_known |= point.name == "ProcessTable.inspect"

    def _strike(self, world: World) -> None:
        self._left -= self._is_known or self._point.name == "ProcessTable.inspect"
        if not self._left:
            self.done = True
            world.inherit(world.culprit, self._heir_ref())

    def _heir_ref(self) -> ContainerRef | None:
        return self._world.tenants[self._heir].ref if self._heir else None
