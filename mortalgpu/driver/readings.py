"""What one device says when asked: memory, utilisation, processes. Blocking calls, made in a worker thread.

Sources: NVML API reference. `NOT_SUPPORTED` and its kin become None; every other error of NVML passes through, for the
caller knows which device it asked. All ones ("not available") is unknown, never a number.
"""

import time
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import pynvml

from mortalgpu.driver.translate import DRIVER_IS_GONE, NOT_OFFERED, NvmlError, fault_of
from mortalgpu.model.device import GpuProcess, Memory, Utilization

_T = TypeVar("_T")

Handle: TypeAlias = Any
"""The binding's handle of a device, good until the device goes."""

NO_INSTANCE = 0xFFFFFFFF
NOT_AVAILABLE = 2**64 - 1
SAMPLE_WINDOW_US = 2_000_000
LISTING_TRIES = 3
NO_SAMPLES = (pynvml.NVML_ERROR_NOT_FOUND, pynvml.NVML_SUCCESS)
"""The binding raises its error even for "success", which is how the driver may answer when nothing was busy."""

_LISTINGS = (
    ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2"),
    ("nvmlDeviceGetGraphicsRunningProcesses_v3", "nvmlDeviceGetGraphicsRunningProcesses_v2"),
    ("nvmlDeviceGetMPSComputeRunningProcesses_v3", "nvmlDeviceGetMPSComputeRunningProcesses_v2"),
)
"""The newest form first; older drivers know only the second."""


def offered(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return the call's answer, or None where the driver does not offer it, or not as text. Other errors pass through."""
    try:
        return call(*arguments)
    except UnicodeDecodeError:
        return None
    except NvmlError as error:
        if error.value in NOT_OFFERED:
            return None
        raise


def reached(call: Callable[..., _T], *arguments: Any) -> _T | None:
    """Return the call's answer, or None for a device that does not answer, or not with text. Raises DriverLost."""
    try:
        return call(*arguments)
    except UnicodeDecodeError:
        return None
    except NvmlError as error:
        fault_of(error)
        return None


def read_memory(handle: Handle) -> Memory:
    """Read a device's memory. The second form leaves what the driver reserves out of `used`; old drivers have the first.

    Raises NVML's NOT_SUPPORTED where size or use are "not available"; what is free is never more than they leave.
    """
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2)
    except NvmlError as error:
        if error.value not in NOT_OFFERED:
            raise
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    if NOT_AVAILABLE in (memory.total, memory.used):
        raise NvmlError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    return Memory(memory.total, memory.used, min(memory.free, max(0, memory.total - memory.used)))


def read_utilization(handle: Handle) -> Utilization:
    """Read how busy a device was; both figures are None on MIG, where NVML has none."""
    rates = offered(pynvml.nvmlDeviceGetUtilizationRates, handle)
    if rates is None:
        return Utilization(None, None)
    return Utilization(_percent(rates.gpu), _percent(rates.memory))


def _percent(figure: int) -> int | None:
    return figure if 0 <= figure <= 100 else None


def read_processes(handle: Handle) -> tuple[GpuProcess, ...]:
    """List a device's processes by pid, each once, and how busy each kept the device.

    A pid with a compute and a graphics context is listed in both, each time with all of its memory there: the larger
    figure counts. A GPU in MIG mode lists a pid once per instance: those add up. Raises NVML's NOT_SUPPORTED where the
    driver offers no list at all: an empty list would be a claim.
    """
    used: dict[tuple[int, int, int], int | None] = {}
    for process in _listed(handle):
        key = (process.pid, process.gpuInstanceId, process.computeInstanceId)
        used[key] = _larger(used.get(key), process.usedGpuMemory)
    by_pid: dict[int, int | None] = {}
    for (pid, _, _), used_bytes in used.items():
        by_pid[pid] = _sum_known(by_pid.get(pid, 0), used_bytes)
    busy = _busy(handle) if by_pid else None
    return tuple(GpuProcess(pid, by_pid[pid], None if busy is None else busy.get(pid, 0)) for pid in sorted(by_pid))


def _larger(one: int | None, other: int | None) -> int | None:
    return max((figure for figure in (one, other) if figure is not None), default=None)


def _sum_known(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _listed(handle: Handle) -> list[Any]:
    lists = [listed for names in _LISTINGS if (listed := _newest_listing(handle, names)) is not None]
    if not lists:
        raise NvmlError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    return [process for listed in lists for process in listed]


def _newest_listing(handle: Handle, names: tuple[str, ...]) -> list[Any] | None:
    for name in names:
        listed: list[Any] | None = offered(_list_again_when_it_grew, getattr(pynvml, name), handle)
        if listed is not None:
            return listed
    return None


def _list_again_when_it_grew(listing: Callable[[Handle], list[Any]], handle: Handle) -> list[Any]:
    """Call a listing; processes that start between the binding's two calls (count, then list) can make it fall short."""
    for _ in range(LISTING_TRIES - 1):
        try:
            return listing(handle)
        except NvmlError as error:
            if error.value != pynvml.NVML_ERROR_INSUFFICIENT_SIZE:
                raise
    return listing(handle)


def _busy(handle: Handle) -> dict[int, int | None] | None:
    """Return per cent by pid of the last seconds' samples; None where the driver keeps none (always on MIG), or does not say.

    No limit may go unheld for want of these figures: only a driver that is gone is an error. NVML samples only processes that
    kept the device busy: a pid that is not there was idle.
    """
    since = time.time_ns() // 1000 - SAMPLE_WINDOW_US
    try:
        samples = pynvml.nvmlDeviceGetProcessUtilization(handle, since)
    except NvmlError as error:
        if error.value in NO_SAMPLES:
            return {}
        if error.value in DRIVER_IS_GONE:
            raise
        return None
    newest: dict[int, tuple[int, int | None]] = {}
    for sample in samples:
        if sample.pid not in newest or sample.timeStamp >= newest[sample.pid][0]:
            newest[sample.pid] = (sample.timeStamp, _percent(sample.smUtil))
    return {pid: percent for pid, (_, percent) in newest.items()}
