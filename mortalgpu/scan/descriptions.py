"""What people want to read about processes (user, command, pid inside), fetched beside the scan and never in its way.

A process can hold up the reading of its own command line, hence a task of its own. The scanner shows what is known by the
time it publishes; the next scan shows the rest.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import trio

from mortalgpu.errors import HostError
from mortalgpu.host.base import HostProcess, ProcessDetails, ProcessTable, WallClock

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DescriptionsTempo:
    """Seconds: a text is asked for again when it is this old, and nothing is asked for oftener than each gap."""

    refresh_seconds: float = 60.0
    gap_seconds: float = 0.5
    answer_seconds: float = 5.0


class Descriptions:
    """Texts by process, and the task that fetches them."""

    def __init__(self, processes: ProcessTable, clock: WallClock, tempo: DescriptionsTempo) -> None:
        self.version = 0
        """Grows whenever a text was added or changed."""
        self._processes = processes
        self._clock = clock
        self._tempo = tempo
        self._texts: Mapping[HostProcess, ProcessDetails] = {}
        self._asked_at: dict[HostProcess, float] = {}
        self._wanted: frozenset[HostProcess] = frozenset()
        self._wake = trio.Event()

    @property
    def texts(self) -> Mapping[HostProcess, ProcessDetails]:
        """What is known now."""
        return self._texts

    def want(self, processes: Collection[HostProcess]) -> None:
        """Say which processes there are now: forgets the others, and has the new ones described. Never blocks."""
        if self._wanted != processes:
            self._wanted = frozenset(processes)
            self._texts = {process: text for process, text in self._texts.items() if process in self._wanted}
            self._asked_at = {process: asked for process, asked in self._asked_at.items() if process in self._wanted}
        if self._due():
            self._wake.set()

    async def keep(self) -> None:
        """Fetch texts until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            await self._fetch(self._due())
            await trio.sleep(self._tempo.gap_seconds)

    def _due(self) -> list[HostProcess]:
        oldest = self._clock.monotonic() - self._tempo.refresh_seconds
        return [process for process in self._wanted if self._asked_at.get(process, oldest) <= oldest]

    async def _fetch(self, processes: list[HostProcess]) -> None:
        now = self._clock.monotonic()
        self._asked_at.update(dict.fromkeys(processes, now))
        try:
            with trio.fail_after(self._tempo.answer_seconds):
                found = await self._processes.describe(processes)
        except (HostError, trio.TooSlowError) as error:
            log.debug("processes cannot be described", extra={"cause": str(error), "count": len(processes)})
            return
        news = {process: found[process.pid] for process in processes if process.pid in found and process in self._wanted}
        if any(self._texts.get(process) != text for process, text in news.items()):
            self._texts = {**self._texts, **news}
            self.version += 1
