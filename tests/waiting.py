"""Waiting in Trio for what a test needs to be true: with a deadline, and a message that says what did not come.

Tests that wait for other processes without Trio have e2e/waiting.py.
"""

from collections.abc import AsyncIterator, Callable

import trio

from mortalgpu.cluster.base import Cluster, PodsView

POLL_SECONDS = 0.005


async def until(
    condition: Callable[[], object], seconds: float = 5, *, what: str = "", said: Callable[[], str] = lambda: ""
) -> float:
    """Wait for a truthy answer; return the seconds that it took.

    Raises AssertionError, with `what` was awaited and what `said` says by then, when there was none within `seconds`.
    """
    begun = trio.current_time()
    with trio.move_on_after(seconds):
        while not condition():
            await trio.sleep(POLL_SECONDS)
        return trio.current_time() - begun
    raise AssertionError(" ".join(filter(None, (f"not within {seconds} s:", what, said()))))


async def until_view(views: AsyncIterator[PodsView], accept: Callable[[PodsView], bool], seconds: float = 5) -> PodsView:
    """Return the first of a cluster's views that is accepted. Raises AssertionError, with the last one, when none comes."""
    last = None
    with trio.move_on_after(seconds):
        async for view in views:
            last = view
            if accept(view):
                return view
    raise AssertionError(f"no such view within {seconds} s; last: {last}")


class Watched:
    """A cluster whose views are read one after another, each awaited for at most `seconds`."""

    def __init__(self, cluster: Cluster, views: AsyncIterator[PodsView], seconds: float = 5) -> None:
        self.cluster = cluster
        self.views = views
        self._seconds = seconds

    async def until(self, accept: Callable[[PodsView], bool]) -> PodsView:
        """Wait for a view that is accepted."""
        return await until_view(self.views, accept, self._seconds)

    async def synced(self, *names: str) -> PodsView:
        """Wait until exactly the pods of these names are known for certain."""
        return await self.until(lambda view: view.synced and sorted(pod.name for pod in view.pods.values()) == sorted(names))

    async def unsynced(self, *words: str) -> PodsView:
        """Wait for a view whose source does not answer, with these words in its trouble."""
        return await self.until(
            lambda view: not view.synced and bool(view.trouble) and all(word in view.trouble for word in words)
        )
