"""`Latest[T]`: the newest value of one fact, one writer, many readers. Facts travel in these; nothing is shared by mutation."""

from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class Latest(Generic[T]):
    """Holds the newest value of one fact. Values must be immutable; a reader may miss values in between, never the last."""

    def __init__(self, value: T) -> None:
        self._value = value
        self._version = 0
        self._changed = trio.Event()

    @property
    def value(self) -> T:
        """The newest value; never blocks."""
        return self._value

    @property
    def version(self) -> int:
        """How many values have been published after the first."""
        return self._version

    def publish(self, value: T) -> None:
        """Replace the value and wake all who wait. Only the fact's one writer calls this; never blocks."""
        self._value = value
        self._version += 1
        self._changed.set()
        self._changed = trio.Event()

    async def wait_beyond(self, version: int) -> T:
        """Wait until a value newer than number `version` is there and return the newest. A checkpoint; cancellable."""
        while self._version <= version:
            await self._changed.wait()
        await trio.lowlevel.checkpoint()
        return self._value

    def changes(self) -> "Changes[T]":
        """Iterate over the current value at once, then the newest one after every change, for ever. May be dropped any time."""
        return Changes(self)


class Changes(Generic[T]):
    """The iterator behind `Latest.changes`. No generator: who drops it half-way has nothing to close."""

    def __init__(self, latest: Latest[T]) -> None:
        self._latest = latest
        self._seen = -1

    def __aiter__(self) -> "Changes[T]":
        return self

    async def __anext__(self) -> T:
        value = await self._latest.wait_beyond(self._seen)
        self._seen = self._latest.version
        return value
