"""NVML's return codes in MortalGPU's words: one table, and what each code means for a device or for the driver."""

from typing import Any

import pynvml

from mortalgpu.errors import DriverError, DriverLost
from mortalgpu.model.device import Fault

NvmlError: Any = pynvml.NVMLError
"""What the binding raises; `value` is the return code."""

DRIVER_IS_GONE = frozenset(
    (
        pynvml.NVML_ERROR_UNINITIALIZED,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
    )
)
"""Nothing works until the driver is opened again."""

DEVICE_IS_GONE = frozenset(
    (
        pynvml.NVML_ERROR_GPU_IS_LOST,
        pynvml.NVML_ERROR_RESET_REQUIRED,
        pynvml.NVML_ERROR_NOT_FOUND,
        pynvml.NVML_ERROR_GPU_NOT_FOUND,
    )
)
"""This device does not work until it is reset or enumerated again."""

NOT_OFFERED = frozenset(
    (
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        pynvml.NVML_ERROR_DEPRECATED,
        pynvml.NVML_ERROR_NO_DATA,
        pynvml.NVML_ERROR_NOT_READY,
    )
)
"""The driver is well and does not answer this question for this device: unknown, never a number."""

STALE_HANDLE = frozenset((pynvml.NVML_ERROR_INVALID_ARGUMENT, pynvml.NVML_ERROR_NOT_FOUND, pynvml.NVML_ERROR_GPU_IS_LOST))
"""What a handle answers that outlived its device: worth one look-up by UUID."""

_NAMES = {
    getattr(pynvml, name): name.removeprefix("NVML_ERROR_").lower().replace("_", " ")
    for name in dir(pynvml)
    if name.startswith("NVML_ERROR_")
}


def name_of(error: Exception) -> str:
    """Return NVML's own word for an error, with its code: `gpu is lost (NVML error 15)`."""
    code: int = getattr(error, "value", pynvml.NVML_ERROR_UNKNOWN)
    return f"{_NAMES.get(code, 'unknown')} (NVML error {code})"


def fault_of(error: Exception) -> Fault:
    """Return a device's fault. Raises DriverLost when the error concerns the driver rather than the device."""
    code: int = getattr(error, "value", pynvml.NVML_ERROR_UNKNOWN)
    if code in DRIVER_IS_GONE:
        raise DriverLost(f"the NVIDIA driver is gone: {name_of(error)}") from error
    return Fault(name_of(error), lost=code in DEVICE_IS_GONE)


def raised_for(action: str, error: Exception) -> DriverError:
    """Return the error to raise when `action`, which concerns no single device, failed with `error`."""
    code: int = getattr(error, "value", pynvml.NVML_ERROR_UNKNOWN)
    kind = DriverLost if code in DRIVER_IS_GONE else DriverError
    return kind(f"{action}: {name_of(error)}")
