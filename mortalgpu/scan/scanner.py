"""The scanner: quick looks, full scans when they are due, and the only writer of `Latest[Usage]`.

Each turn takes a quick look at the memory of all shared devices (one driver call) and asks the rhythm whether a full scan is
due; between calm turns the driver looks by itself, and ends its watch when memory moves. A full scan asks the driver for
processes, the host for their identities, and joins them with what the books and the pods view say. Nothing else is awaited
between a look and its `Usage`: kubelet and process texts are kept by tasks of their own.

Trouble with any neighbour is a part of the published value, never the end of this service.
"""

import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

import trio

from mortalgpu.cluster.base import Cluster, PodsView
from mortalgpu.driver.base import GpuDriver
from mortalgpu.errors import DriverError, DriverLost, HostError
from mortalgpu.host.base import HostProcess, ProcessTable, WallClock
from mortalgpu.kubelet.base import Assignments
from mortalgpu.latest import Latest
from mortalgpu.model.device import Fault, GpuProcess, Snapshot, Utilization
from mortalgpu.model.pod import Pod, PodNote
from mortalgpu.model.share import Inventory
from mortalgpu.model.usage import SCAN_BUCKETS_SECONDS, ScanCounts, Usage
from mortalgpu.scan.attribution import Attribution, ScanFacts, attribute, containers_with_processes
from mortalgpu.scan.books import Books, BooksTempo, ReadCheckpoint
from mortalgpu.scan.descriptions import Descriptions, DescriptionsTempo
from mortalgpu.scan.ledger import Ledger
from mortalgpu.scan.limits import LimitNotice
from mortalgpu.scan.listings import Listings
from mortalgpu.scan.rhythm import Cause, LastScan, Look, Tempo, due, looks_to_leave, moved_since, remember

log = logging.getLogger(__name__)

ALIVE_SECONDS = 5.0
"""The longest silence between two signs of life: whoever watches us is less patient than the longest look period."""

Processes = Mapping[str, tuple[GpuProcess, ...] | Fault]
Alive = Callable[[], Awaitable[None]]

_T = TypeVar("_T")
Ask = Callable[[Sequence[str]], Awaitable[Mapping[str, _T | Fault]]]
"""A verb of the driver's port that is about devices."""


@dataclass(frozen=True, slots=True)
class ScanSettings:
    """Seconds, and the highest multiple of a request that an annotation may ask for (0: only the device caps it)."""

    look_seconds: float = 0.1
    idle_look_seconds: float = 0.2
    """The same while no process uses any shared device: the first one needs longer than this to set itself up."""
    utilization_seconds: float = 1.0
    """How old a device's utilisation may get while scans are made."""
    inspect_seconds: float = 5.0
    """How long the process table may take; it takes milliseconds."""
    refresh_gap_seconds: float = 1.0
    """The shortest time between two hints to the pod source that it is behind."""
    max_overcommit: float = 0.0
    tempo: Tempo = field(default_factory=Tempo)
    books: BooksTempo = field(default_factory=BooksTempo)
    descriptions: DescriptionsTempo = field(default_factory=DescriptionsTempo)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The ports that a scan asks."""

    driver: GpuDriver
    processes: ProcessTable
    kubelet: Assignments
    cluster: Cluster
    clock: WallClock
    read_checkpoint: ReadCheckpoint | None = None
    """kubelet's checkpoint, for containers that its socket leaves out."""


async def nobody_watches() -> None:
    """Stand in for a watchdog where there is none."""


async def serve(
    neighbours: Neighbours,
    inventory: Latest[Inventory],
    pods: Latest[PodsView],
    usage: Latest[Usage],
    settings: ScanSettings | Latest[ScanSettings],
    *,
    alive: Alive = nobody_watches,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Look and scan until cancelled; `started` once the first `Usage` is published.

    Settings in a cell may change meanwhile, the tempo of `books` and `descriptions` excepted.
    `alive` is awaited once a turn, so a few times a second while all is well; more often than turns come when these are far
    apart.
    """
    cell = settings if isinstance(settings, Latest) else Latest(settings)
    books = Books(neighbours.kubelet, pods, neighbours.clock, cell.value.books, neighbours.read_checkpoint)
    descriptions = Descriptions(neighbours.processes, neighbours.clock, cell.value.descriptions)
    scanner = _Scanner(neighbours, inventory, pods, usage, cell, books, descriptions)
    async with trio.open_nursery() as nursery:
        await nursery.start(books.keep)
        nursery.start_soon(descriptions.keep)
        nursery.start_soon(scanner.end_watch_at_news, inventory)
        nursery.start_soon(scanner.end_watch_at_news, pods)
        await scanner.turn()
        task_status.started()
        while True:
            await alive()
            seen = await scanner.watch()
            pause_seconds = 0.0 if seen else scanner.pause_seconds()
            while pause_seconds > ALIVE_SECONDS:
                await trio.sleep(ALIVE_SECONDS)
                await alive()
                pause_seconds -= ALIVE_SECONDS
            await trio.sleep(pause_seconds)
            await scanner.turn(seen)


class _Scanner:
    def __init__(
        self,
        neighbours: Neighbours,
        inventory: Latest[Inventory],
        pods: Latest[PodsView],
        usage: Latest[Usage],
        settings: Latest[ScanSettings],
        books: Books,
        descriptions: Descriptions,
    ) -> None:
        self._driver = neighbours.driver
        self._processes = neighbours.processes
        self._cluster = neighbours.cluster
        self._clock = neighbours.clock
        self._inventory = inventory
        self._pods = pods
        self._usage = usage
        self._cell = settings
        self._books = books
        self._descriptions = descriptions
        self._ledger = Ledger()
        self._listings = Listings()
        self._last: LastScan | None = None
        self._turn_began_at = 0.0
        self._looked: Look = {}
        self._watch = trio.CancelScope()
        self._seen_versions: tuple[int, ...] = ()
        self._books_wanted = False
        self._utilization: Mapping[str, Utilization | Fault] = {}
        self._utilization_at = float("-inf")
        self._refreshed_at = float("-inf")
        self._told: frozenset[tuple[str, LimitNotice]] = frozenset()
        self._counts = ScanCounts()
        self._failures: Counter[str] = Counter()
        self._troubles: dict[str, str] = {}

    @property
    def _settings(self) -> ScanSettings:
        return self._cell.value

    def pause_seconds(self) -> float:
        """Return how long to rest before the next turn; a turn that took too long is followed by a breath, never by a burst."""
        period = self._look_seconds()
        return max(period / 10, self._turn_began_at + period - self._clock.monotonic())

    def _look_seconds(self) -> float:
        busy = any(device.process_count or device.fault for device in self._usage.value.devices)
        return self._settings.look_seconds if busy else self._settings.idle_look_seconds

    async def watch(self) -> Look:
        """Leave the next looks to the driver while all is calm; return the last of them, empty when there was none.

        Ends when memory moved, at news, and within a second.
        """
        waiting = self._books_wanted or self._versions() != self._seen_versions
        every, tempo, now = self._look_seconds(), self._settings.tempo, self._clock.monotonic()
        count = looks_to_leave(self._last, self._looked, now, every, tempo, waiting=waiting)
        if self._last is None or not count or not self._looked:
            return {}
        with trio.CancelScope() as self._watch, suppress(DriverError):  # The turn asks again, and tells.
            seen, made = await self._driver.watch_memory(tuple(self._looked), moved_since(self._last, tempo), every, count)
            self._count_looks(made)
            self._troubles.pop("driver memory", None)
            return seen
        return {}

    async def end_watch_at_news(self, cell: Latest[Inventory] | Latest[PodsView]) -> None:
        """Let no change of a fact wait for the end of a watch, until cancelled."""
        async for _ in cell.changes():
            self._watch.cancel()

    async def turn(self, seen: Look | None = None) -> None:
        """Look once, unless all devices were `seen` just now, and scan if it is due."""
        self._turn_began_at = looked_at = self._clock.monotonic()
        versions, inventory = self._versions(), self._inventory.value
        uuids = [shared.uuid for shared in inventory.devices]
        look = self._looked = seen if seen and list(seen) == uuids else await self._look(uuids)
        cause = self._due(look, looked_at)
        if cause is not None:
            # As they were before the look: this scan misses an inventory that changed during it, and another is due.
            self._seen_versions = versions
            await self._scan(inventory, look, looked_at, cause)

    def _due(self, look: Look, now: float) -> Cause | None:
        awaited = self._books_wanted and self._books.reading is not self._ledger.reading
        changed = self._versions() != self._seen_versions
        return due(self._last, look, now, self._settings.tempo, awaited=awaited, changed=changed)

    def _versions(self) -> tuple[int, ...]:
        return (self._inventory.version, self._pods.version, self._books.readings, self._descriptions.version)

    async def _look(self, uuids: Sequence[str]) -> Look:
        self._count_looks(1)
        return await self._asked("memory", self._driver.memory, uuids)

    def _count_looks(self, made: int) -> None:
        self._counts = replace(self._counts, looks=self._counts.looks + made)

    async def _scan(self, inventory: Inventory, look: Look, looked_at: float, cause: Cause) -> None:
        at, began_at = self._clock.now(), self._clock.monotonic()
        uuids = [shared.uuid for shared in inventory.devices]
        processes = await self._asked("processes", self._driver.processes, uuids)
        hosts = await self._inspect(processes)
        if hosts is None:
            hosts, processes = {}, dict.fromkeys(uuids, Fault("whose the processes are cannot be told"))
        if began_at - self._utilization_at >= self._utilization_may_age_seconds(cause):
            self._utilization = await self._asked("utilization", self._driver.utilization, uuids)
            self._utilization_at = began_at
        found = self._attribute(inventory, Snapshot(look, processes, self._utilization), hosts)
        duration = self._clock.monotonic() - began_at
        self._counts = _counted(self._counts, duration, self._settings.look_seconds, self._failures, self._books.failures)
        self._publish(found, at, looked_at)
        self._last = remember(self._usage.value, look, began_at, began_at + duration, self._last)
        self._tell_owners(found.notices)

    async def _asked(self, verb: str, ask: Ask[_T], uuids: Sequence[str]) -> Mapping[str, _T | Fault]:
        """Return what the driver says of these devices; that it says nothing is a fault of each of them."""
        try:
            answers = await ask(uuids) if uuids else {}
        except DriverError as error:
            self._failed("driver", f"driver {verb}", f"the GPU driver does not tell {verb}: {error}")
            return dict.fromkeys(uuids, Fault(str(error), lost=isinstance(error, DriverLost)))
        self._troubles.pop(f"driver {verb}", None)
        return answers

    async def _inspect(self, processes: Processes) -> Mapping[int, HostProcess] | None:
        """Return who the listed pids are; None when the host does not tell.

        Asked with no pids too: the host lets go of those that nobody asks about any more.
        """
        pids = {process.pid for found in processes.values() if not isinstance(found, Fault) for process in found}
        try:
            with trio.fail_after(self._settings.inspect_seconds):
                hosts = await self._processes.inspect(pids)
        except (HostError, trio.TooSlowError) as error:
            self._failed("host", "host", f"processes cannot be inspected: {str(error) or 'no answer in time'}")
            return None
        self._troubles.pop("host", None)
        return hosts

    def _utilization_may_age_seconds(self, cause: Cause) -> float:
        """An urgent scan is not kept waiting for figures that convict nobody, unless they are old."""
        return self._settings.tempo.period_seconds if cause.urgent else self._settings.utilization_seconds

    def _attribute(self, inventory: Inventory, snapshot: Snapshot, hosts: Mapping[int, HostProcess]) -> Attribution:
        view = self._pods.value
        disbelieved = self._listings.disbelieved(snapshot.processes, hosts)
        reading = self._books.reading
        if reading is not None and reading is not self._ledger.reading:
            self._ledger.take(reading)
        self._books_wanted = self._ledger.observe(view, containers_with_processes(hosts.values()), self._clock.monotonic())
        if self._books_wanted:
            self._books.want()
        self._refresh_pods(hosts.values(), view)
        self._descriptions.want({host for host in hosts.values() if host.container is not None})
        facts = ScanFacts(
            inventory, snapshot, hosts, view, disbelieved, self._descriptions.texts, self._settings.max_overcommit
        )
        return attribute(facts, self._ledger)

    def _refresh_pods(self, hosts: Iterable[HostProcess], view: PodsView) -> None:
        """Hint to the pod source that it is behind, when there is a container that it does not name."""
        now = self._clock.monotonic()
        if now - self._refreshed_at < self._settings.refresh_gap_seconds:
            return
        if any(view.container_of(ref) is None for ref in containers_with_processes(hosts)):
            self._refreshed_at = now
            self._cluster.refresh()

    def _publish(self, found: Attribution, at: float, looked_at: float) -> None:
        view, troubles = self._pods.value, dict(self._troubles)
        if self._books.trouble:
            troubles["kubelet"] = self._books.trouble
        if not view.synced:
            troubles["pods"] = f"pods are not known for certain: {view.trouble or 'no source has answered yet'}"
        if found.unknown_count:
            troubles["unknown memory"] = (
                f"the GPU driver does not tell the memory of some processes of our containers (now {found.unknown_count}); "
                "what they hold counts towards no limit"
            )
        number = self._usage.value.sequence + 1
        lines, books = tuple(troubles.values()), self._ledger.reading
        books_at = books.began_at if books else None
        self._usage.publish(Usage(number, at, looked_at, books_at, found.devices, found.containers, lines, self._counts))

    def _tell_owners(self, notices: Iterable[tuple[Pod, LimitNotice]]) -> None:
        present = {(pod.uid, notice): pod for pod, notice in notices}
        for (_, notice), pod in present.items():
            if (pod.uid, notice) not in self._told:
                log.warning(
                    "limit annotation not followed",
                    extra={"pod": pod.name, "namespace": pod.namespace, "resource": notice.resource, "reason": notice.problem},
                )
                self._cluster.note(pod, PodNote("GpuMemoryLimitAnnotation", notice.message))
        self._told = frozenset(present)

    def _failed(self, who: str, what: str, trouble: str) -> None:
        self._failures[who] += 1
        if what not in self._troubles:
            log.warning("scan is blind at present", extra={"source": what, "cause": trouble})
        self._troubles[what] = trouble


def _counted(
    counts: ScanCounts, duration: float, look_seconds: float, failures: Mapping[str, int], kubelet_failures: int
) -> ScanCounts:
    """Return the counts with one more scan."""
    buckets = list(counts.scan_buckets)
    buckets[bisect_left(SCAN_BUCKETS_SECONDS, duration)] += 1
    return ScanCounts(
        counts.looks,
        counts.scans + 1,
        counts.overruns + (duration > look_seconds),
        counts.scan_seconds + duration,
        tuple(buckets),
        {**failures, **({"kubelet": kubelet_failures} if kubelet_failures else {})},
    )
