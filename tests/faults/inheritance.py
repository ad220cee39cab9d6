"""A process that ends on the way to its signal, and whose number goes to another at once."""

from mortalgpu.model.pod import ContainerRef
from tests.faults.faulty import Plan
from tests.faults.ports import Point
from tests.faults.world import World


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
