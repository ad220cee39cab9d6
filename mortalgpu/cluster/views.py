"""How adapters hand out their views: an iterator over a `Latest`, newest only."""

from mortalgpu.cluster.base import PodsView
from mortalgpu.latest import Latest


class ViewChanges:
    """Gives the current view at once, then the newest after every change, for ever.

    A class and not a generator: a reader may drop it half-way without anything to close.
    """

    def __init__(self, cell: Latest[PodsView]) -> None:
        self._cell = cell
        self._seen = -1

    def __aiter__(self) -> "ViewChanges":
        return self

    async def __anext__(self) -> PodsView:
        view = await self._cell.wait_beyond(self._seen)
        self._seen = self._cell.version
        return view
