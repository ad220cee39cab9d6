"""Reads the configuration again, while the daemon runs: at SIGHUP, and when the file has changed.

Rules:
1. A file that cannot be used changes nothing: an ERROR says why, and what was in force stays in force. A file that has become
   empty is one: at a start it means the defaults, but for a node at work a disk that was full or an editor that failed.
2. What can change while the daemon runs is in LIVE; it is taken at once. Every other key keeps its value, and one WARNING
   names it and the way out: a restart.
3. Devices decide too: sharing that the present devices cannot have refuses the whole file, as at the start.
4. A changed file is read when it has been the same for two looks, so that one half written is not read. A ConfigMap changes
   by a link, which the look follows. One that cannot be read is tried again at each look, and told of once.
5. Only a file is read again. What came through a pipe came once, and a pipe nobody writes to would be waited for without end.

What a changed configuration means for the services is the composition root's business (`Take`); this module decides which
keys may pass, and tells how it went.
"""

import logging
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
import trio

from mortalgpu import threads
from mortalgpu.config import Config, check
from mortalgpu.errors import ConfigError, HostError
from mortalgpu.host.base import WallClock
from mortalgpu.latest import Latest
from mortalgpu.model.counts import ReloadCounts
from mortalgpu.statefile import fingerprint

log = logging.getLogger(__name__)

LIVE = frozenset(
    (
        *("log", "deviceSharing", "allocator", "memoryEnforcer", "deviceSpecs", "pluginMounts", "enforcer", "health"),
        *("deviceManager.deviceCacheTTL", "deviceManager.quickLookPeriod", "deviceManager.healthProbePeriod"),
        *("exporter.metagpuNames", "exporter.perProcess"),
    )
)
"""Keys that are taken while the daemon runs, each with all below it."""

APPLIED, PARTLY, REFUSED, UNCHANGED = "applied", "partly", "refused", "unchanged"

Read = Callable[[], Config]
"""Reads the configuration as the start did: file, environment, flags. Blocks; raises ConfigError."""
Take = Callable[[Config], Awaitable[None]]
"""Lets the services go on with another configuration, and publishes it as the one in force.

Raises ConfigError, and then nothing has changed.
"""


@dataclass(frozen=True, slots=True)
class Changes:
    """What a wanted configuration means: what will be in force, the keys that change, and those that need a restart."""

    config: Config
    taken: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()


def changes(in_force: Config, wanted: Config) -> Changes:
    """Return which differences can be taken. Raises ConfigError when those alone would contradict what stays."""
    taken: list[str] = []
    waiting: list[str] = []
    merged: Config = _merged("", in_force, wanted, taken, waiting)
    check(merged)
    return Changes(merged, tuple(taken), tuple(waiting))


def _merged(path: str, old: Any, new: Any, taken: list[str], waiting: list[str]) -> Any:
    if old == new:
        return old
    if path in LIVE:
        taken.extend(_differences(path, old, new))
        return new
    if not isinstance(old, msgspec.Struct):
        waiting.append(path)
        return old
    parts = {name: _merged(key, was, now, taken, waiting) for name, key, was, now in _fields(path, old, new)}
    return msgspec.structs.replace(old, **parts)


def _differences(path: str, old: Any, new: Any) -> Iterator[str]:
    """Yield the keys that differ; a list or a mapping is one key."""
    if not isinstance(old, msgspec.Struct):
        yield path
        return
    for _, key, was, now in _fields(path, old, new):
        if was != now:
            yield from _differences(key, was, now)


def _fields(path: str, old: msgspec.Struct, new: msgspec.Struct) -> Iterator[tuple[str, str, Any, Any]]:
    for info in msgspec.structs.fields(old):
        key = f"{path}.{info.encode_name}" if path else info.encode_name
        yield info.name, key, getattr(old, info.name), getattr(new, info.name)


class Reloader:
    """Keeps the configuration in force up to date with what the operator wants."""

    def __init__(self, read: Read, take: Take, in_force: Latest[Config], counts: ReloadCounts, clock: WallClock) -> None:
        self._read = read
        self._take = take
        self._in_force = in_force
        self._counts = counts
        self._clock = clock
        self._busy = trio.Lock()
        self._path = ""
        self._told = ""
        """Why the file could not be read when it was last tried; empty when it could."""
        counts.taken_at = clock.now()

    async def serve(self, hang_ups: AsyncIterator[int], path: str = "") -> None:
        """Reload at each SIGHUP received, and when the file at `path` (empty: none) has changed, until cancelled."""
        self._path = path
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.follow_signals, hang_ups)
            if path:
                nursery.start_soon(self.follow_file, path)

    async def reload(self) -> bool:
        """Read and take what can be taken; one at a time. Raises nothing but bugs; tells in the log and the counts.

        Returns whether the file could be read, whatever is in it.
        """
        async with self._busy:
            outcome = await self._outcome()
        self._counts.outcomes[outcome] += 1
        self._counts.is_good = outcome in (APPLIED, UNCHANGED)
        if outcome != REFUSED:
            self._counts.taken_at = self._clock.now()
        return not self._told

    async def _outcome(self) -> str:
        try:
            wanted = await threads.run(self._wanted, abandon_on_cancel=True)
            self._told = ""
            found = changes(self._in_force.value, wanted)
            if found.taken:
                await self._take(found.config)
        except ConfigError as error:
            log.error(
                "configuration refused; what was in force stays", extra={"config_field": error.field, "error": str(error)}
            )
            self._told = ""
            return REFUSED
        except HostError as error:
            if str(error) != self._told:
                log.error("configuration cannot be read; what was in force stays", extra={"error": str(error)})
            self._told = str(error)
            return REFUSED
        if found.taken:
            log.info("configuration changed", extra={"config_field": ", ".join(found.taken)})
        if found.waiting:
            log.warning(
                "configuration keys keep their value; restart mortalgpu to apply them",
                extra={"config_field": ", ".join(found.waiting)},
            )
            return PARTLY
        return APPLIED if found.taken else UNCHANGED

    def _wanted(self) -> Config:
        """Blocks. Raises ConfigError; HostError when it cannot be read at present."""
        if self._path and _size_of(self._path) == 0:
            raise ConfigError(self._path, "is empty; if you mean the defaults, write `{}`")
        return self._read()

    async def follow_file(self, path: str, look_seconds: float = 2.0) -> None:
        """Reload whenever the file at `path` has changed and rests, until cancelled. Returns at once where it is a pipe."""
        read = await self._look(path)
        if _is_pipe(path):
            return
        if not await self._catch_up():
            read = None
        before = read
        while True:
            await trio.sleep(look_seconds)
            now = await self._look(path)
            if now is not None and now == before and now != read:
                read = now if await self.reload() else None
            before = now

    async def _look(self, path: str) -> tuple[int, ...] | None:
        with suppress(HostError):
            return await threads.run(fingerprint, path, abandon_on_cancel=True)
        return None

    async def _catch_up(self) -> bool:
        """Take what changed between the start's reading and the first look; nothing is counted when nothing did.

        Returns whether the file could be read.
        """
        with suppress(ConfigError, HostError):
            if await threads.run(self._wanted, abandon_on_cancel=True) == self._in_force.value:
                return True
        return await self.reload()

    async def follow_signals(self, hang_ups: AsyncIterator[int]) -> None:
        """Reload at each SIGHUP received, until cancelled."""
        async for _ in hang_ups:
            await self.reload()


def _size_of(path: str) -> int:
    """Return the length of a file. Never waits for a writer. Raises HostError; ConfigError for what is no file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise HostError(f"{path}: cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(path, "is no file, and cannot be read again; put a file there")
    return found.st_size


def _is_pipe(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False
