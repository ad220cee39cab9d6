"""A driver that outlives the driver: opened anew, by a service of its own, whenever it was lost.

Rules:
1. The first opening must succeed; what fails later is tried again for ever, every `pause_seconds`.
2. While the driver is gone every verb raises DriverLost at once, with the reason of the last attempt; nobody waits for it.
3. Knows the port only: which driver it is, the caller decides by what it passes to open.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import trio

from mortalgpu.driver.base import GpuDriver, OpenDriver
from mortalgpu.errors import DriverError, DriverLost, DriverTimeout
from mortalgpu.model.counts import DriverCounts
from mortalgpu.model.device import Device, DriverInfo, Fault, GpuProcess, HealthEvent, Memory, Utilization

log = logging.getLogger(__name__)

_T = TypeVar("_T")


async def keep_open(
    open_driver: OpenDriver,
    *,
    pause_seconds: float = 1.0,
    counts: DriverCounts | None = None,
    task_status: trio.TaskStatus[GpuDriver] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Keep the driver open until cancelled; `started` with the driver to use, once it is open for the first time.

    What fails is counted in `counts`. Raises DriverError when it cannot be opened the first time.
    """
    counts = DriverCounts() if counts is None else counts
    lasting = _LastingDriver(counts)
    async with open_driver() as driver:
        task_status.started(lasting)
        reason = await lasting.serve_with(driver)
    log.warning("driver lost, opening it anew", extra={"reason": reason})
    while True:
        await trio.sleep(pause_seconds)
        try:
            async with open_driver() as driver:
                log.warning("driver opened anew")
                counts.reopened += 1
                reason = await lasting.serve_with(driver)
            log.warning("driver lost, opening it anew", extra={"reason": reason})
        except DriverError as error:
            lasting.reason = str(error)
            log.debug("driver not back", extra={"error": str(error)})


def _kind(error: DriverError) -> str:
    if isinstance(error, DriverLost):
        return "lost"
    return "timeout" if isinstance(error, DriverTimeout) else "failed"


class _LastingDriver:
    """The port's verbs, by the driver that is open at present."""

    def __init__(self, counts: DriverCounts) -> None:
        self._counts = counts
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

    async def _ask(self, verb: Callable[[GpuDriver], Awaitable[_T]]) -> _T:
        driver = self._driver
        if driver is None:
            await trio.lowlevel.checkpoint()
            raise DriverLost(f"the GPU driver is gone and is tried again and again; last: {self.reason}")
        try:
            return await verb(driver)
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
        return await self._ask(lambda driver: driver.devices())

    async def memory(self, uuids: Sequence[str]) -> Mapping[str, Memory | Fault]:
        """See the port."""
        return await self._ask(lambda driver: driver.memory(uuids))

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
        return await self._ask(lambda driver: driver.health_event())
