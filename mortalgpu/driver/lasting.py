"""A driver that outlives the driver: opened anew, by a service of its own, whenever it was lost.

Rules:
1. The first opening must succeed; what fails later is tried again for ever, every `pause_seconds`.
2. While the driver is gone every verb raises DriverLost at once, with the reason of the last attempt; nobody waits for it.
3. Knows the port only: which driver it is, the caller decides by what it passes to open.
4. An adapter has deadlines of its own. Should one fail to keep them, nobody waits for ever: a verb ends as a DriverTimeout
   after `answer_seconds`, but for the one that waits for events.
5. A list of devices that contradicts itself, or the quick look, is no answer but a DriverError: what a share is worth, and
   who is above a limit, follows from the sizes in it.
"""

import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

from mortalgpu.driver.base import GpuDriver, OpenDriver
from mortalgpu.errors import DriverError, DriverLost, DriverTimeout
from mortalgpu.model.counts import DriverCounts
from mortalgpu.model.device import Device, DriverInfo, Fault, GpuProcess, HealthEvent, Memory, Utilization

log = logging.getLogger(__name__)

_T = TypeVar("_T")

ANSWER_SECONDS = 75.0
"""Longer than any deadline of an adapter: opening may take a minute, and so may the longest call that can be configured."""


async def keep_open(
    open_driver: OpenDriver,
    *,
    pause_seconds: float = 1.0,
    answer_seconds: float = ANSWER_SECONDS,
    counts: DriverCounts | None = None,
    task_status: trio.TaskStatus[GpuDriver] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Keep the driver open until cancelled; `started` with the driver to use, once it is open for the first time.

    What fails is counted in `counts`. Raises DriverError when it cannot be opened the first time.
    """
    counts = DriverCounts() if counts is None else counts
    lasting = _LastingDriver(counts, answer_seconds)
    async with _opened(open_driver, answer_seconds) as driver:
        task_status.started(lasting)
        reason = await lasting.serve_with(driver)
    log.warning("driver lost, opening it anew", extra={"reason": reason})
    while True:
        await trio.sleep(pause_seconds)
        try:
            async with _opened(open_driver, answer_seconds) as driver:
                log.warning("driver opened anew")
                counts.reopened += 1
                reason = await lasting.serve_with(driver)
            log.warning("driver lost, opening it anew", extra={"reason": reason})
        except DriverError as error:
            lasting.reason = str(error)
            log.debug("driver not back", extra={"error": str(error)})


async def _consistent_devices(driver: GpuDriver) -> tuple[Device, ...]:
    devices = await driver.devices()
    problem = contradiction(devices) or disagreement(devices, await driver.memory([device.uuid for device in devices]))
    if problem:
        raise DriverError(f"the driver's list of devices cannot be true: {problem}")
    return devices


def contradiction(devices: Sequence[Device]) -> str:
    """Return what cannot be in a list of devices; empty when it can be true."""
    seen: set[tuple[str, int, int] | str] = set()
    for device in devices:
        place = (device.mig.parent_uuid, device.mig.gi_id, device.mig.ci_id) if device.mig else device.uuid
        if not device.uuid:
            return "a device has no UUID"
        if device.uuid in seen or place in seen:
            return f"{device.uuid}, or its place, is there twice"
        if device.memory_bytes < 0:
            return f"{device.uuid} has {device.memory_bytes} bytes of memory"
        seen |= {device.uuid, place}
    return ""


def disagreement(devices: Iterable[Device], look: Mapping[str, Memory | Fault]) -> str:
    """Return which device has one size in the list and another in the quick look; empty when none has."""
    for device in devices:
        seen = look.get(device.uuid)
        if isinstance(seen, Memory) and seen.total_bytes != device.memory_bytes:
            return f"{device.uuid} has {device.memory_bytes} bytes of memory in it, and {seen.total_bytes} a moment later"
    return ""


@asynccontextmanager
async def _opened(open_driver: OpenDriver, seconds: float) -> AsyncIterator[GpuDriver]:
    """Open the driver, or raise DriverTimeout after so many seconds."""
    with trio.CancelScope(deadline=trio.current_time() + seconds) as patience:
        async with open_driver() as driver:
            patience.deadline = math.inf
            yield driver
    if patience.cancelled_caught:
        raise DriverTimeout(f"the driver was not open within {seconds:g} s")


def _kind(error: DriverError) -> str:
    if isinstance(error, DriverLost):
        return "lost"
    return "timeout" if isinstance(error, DriverTimeout) else "failed"


class _LastingDriver:
    """The port's verbs, by the driver that is open at present."""

    def __init__(self, counts: DriverCounts, answer_seconds: float) -> None:
        self._counts = counts
        self._answer_seconds = answer_seconds
        self._driver: GpuDriver | None = None
        self._lost = trio.Event()
        self.reason = ""

    async def serve_with(self, driver: GpuDriver) -> str:
        """Answer from `driver` until it is lost; return why."""
        self._driver, self._lost = driver, trio.Event()
        try:
            await self._lost.wait()
        finally:
            self._driver = None
        return self.reason

    async def _ask(self, verb: Callable[[GpuDriver], Awaitable[_T]], *, waits: bool = False) -> _T:
        driver = self._driver
        if driver is None:
            await trio.lowlevel.checkpoint()
            raise DriverLost(f"the GPU driver is gone and is tried again and again; last: {self.reason}")
        try:
            with trio.move_on_after(math.inf if waits else self._answer_seconds):
                return await verb(driver)
            raise DriverTimeout(f"the driver did not answer within {self._answer_seconds:g} s")
        except DriverError as error:
            self._counts.errors[_kind(error)] += 1
            if isinstance(error, DriverLost) and self._driver is driver:
                self._driver, self.reason = None, str(error)
                self._lost.set()
            raise

    async def info(self) -> DriverInfo:
        """See the port."""
        return await self._ask(lambda driver: driver.info())

    async def devices(self) -> tuple[Device, ...]:
        """See the port."""
        return await self._ask(_consistent_devices)

    async def memory(self, uuids: Sequence[str]) -> Mapping[str, Memory | Fault]:
        """See the port."""
        return await self._ask(lambda driver: driver.memory(uuids))

    async def watch_memory(
        self, uuids: Sequence[str], moved: Callable[[Mapping[str, Memory | Fault]], bool], every_seconds: float, looks: int
    ) -> tuple[Mapping[str, Memory | Fault], int]:
        """See the port."""
        return await self._ask(lambda driver: driver.watch_memory(uuids, moved, every_seconds, looks))

    async def utilization(self, uuids: Sequence[str]) -> Mapping[str, Utilization | Fault]:
        """See the port."""
        return await self._ask(lambda driver: driver.utilization(uuids))

    async def processes(self, uuids: Sequence[str]) -> Mapping[str, tuple[GpuProcess, ...] | Fault]:
        """See the port."""
        return await self._ask(lambda driver: driver.processes(uuids))

    async def probe(self, uuids: Sequence[str]) -> Mapping[str, Fault | None]:
        """See the port."""
        return await self._ask(lambda driver: driver.probe(uuids))

    async def health_event(self) -> HealthEvent:
        """See the port."""
        return await self._ask(lambda driver: driver.health_event(), waits=True)
