"""PORT: what MortalGPU asks of a GPU driver, in its own words.

Every verb takes all the devices it is about, so that an adapter answers with one hop to a worker thread. One device's
trouble is a `Fault` in that device's place; an exception means that the driver itself did not answer.

Errors of every verb: `DriverLost` when the driver is gone and must be opened anew, `DriverTimeout` when it did not return
within the adapter's own deadline, `DriverError` for anything else. All verbs may be cancelled at any time.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from mortalgpu.model.device import Device, DriverInfo, Fault, GpuProcess, HealthEvent, Memory, Utilization


class GpuDriver(Protocol):
    """An opened driver. UUIDs are those that `devices` gave; an unknown one yields a Fault."""

    async def info(self) -> DriverInfo:
        """Return the driver's versions."""
        ...

    async def devices(self) -> tuple[Device, ...]:
        """Enumerate physical GPUs and MIG partitions, ordered by GPU index, then GPU instance, then compute instance.

        A GPU that the driver can no longer reach is left out; the others are returned.
        """
        ...

    async def memory(self, uuids: Sequence[str]) -> Mapping[str, Memory | Fault]:
        """Read the memory of each device: the quick look, one cheap call a device."""
        ...

    async def watch_memory(
        self, uuids: Sequence[str], moved: Callable[[Mapping[str, Memory | Fault]], bool], every_seconds: float, looks: int
    ) -> tuple[Mapping[str, Memory | Fault], int]:
        """Read the memory of each device every `every_seconds`, first after one such pause, until `moved` is true of a reading.

        Returns the last reading and how many were made: at most `looks`, and maybe none. `moved` is pure; another thread may
        call it.
        """
        ...

    async def utilization(self, uuids: Sequence[str]) -> Mapping[str, Utilization | Fault]:
        """Read how busy each device was; figures the driver does not have are None."""
        ...

    async def processes(self, uuids: Sequence[str]) -> Mapping[str, tuple[GpuProcess, ...] | Fault]:
        """List compute and graphics processes of each device, each pid once, with its memory there."""
        ...

    async def probe(self, uuids: Sequence[str]) -> Mapping[str, Fault | None]:
        """Ask each device whether it still answers; None means well."""
        ...

    async def health_event(self) -> HealthEvent:
        """Wait for the next event the driver reports by itself. Only one task may wait at a time."""
        ...


class OpenDriver(Protocol):
    """Opens the driver; closing the context lets go of it."""

    def __call__(self) -> AbstractAsyncContextManager[GpuDriver]:
        """Open. Raises DriverError with what was tried and where when there is no usable driver."""
        ...
