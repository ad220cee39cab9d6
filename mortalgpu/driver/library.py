"""Finding and loading libnvidia-ml.so.1, and NVML's life: initialised, shut down.

NVML is global to the process, and so is the binding's idea of which library it calls: one library at a time. The binding
itself would only ask the loader; a container or a host of another layout keeps the library elsewhere.
"""

import ctypes
from typing import Any

import pynvml

from mortalgpu.driver.translate import NvmlError, name_of
from mortalgpu.errors import DriverError

LIBRARY_NAME = "libnvidia-ml.so.1"

USUAL_PLACES = tuple(
    f"{folder}/{LIBRARY_NAME}"
    for folder in (
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/run/nvidia/driver/usr/lib/x86_64-linux-gnu",
        "/run/nvidia/driver/usr/lib/aarch64-linux-gnu",
        "/run/nvidia/driver/usr/lib64",
        "/home/kubernetes/bin/nvidia/lib64",
        "/usr/local/nvidia/lib64",
    )
)
"""Distributions, the GPU operator's driver container, and the managed clouds' hosts; tried after the loader's own search."""

_loaded_from = ""
_owed_shutdowns = 0


def load(configured: str = "") -> str:
    """Load the driver library and return the name or path it was found by. Blocks.

    A configured path is the only one tried. Raises DriverError that lists where it looked and what the loader said.
    """
    global _loaded_from
    refusals: list[str] = []
    for candidate in (configured,) if configured else (LIBRARY_NAME, *USUAL_PLACES):
        if candidate == _loaded_from:
            return candidate
        try:
            library = ctypes.CDLL(candidate)
        except OSError as error:
            refusals.append(_refusal(candidate, error))
            continue
        _bind(library)
        _loaded_from = candidate
        return candidate
    raise DriverError(
        f"the NVIDIA driver library {LIBRARY_NAME} cannot be loaded; looked at: {'; '.join(refusals)}. "
        f"Install the NVIDIA driver on this node, or name the library in config.driver.library"
    )


def _refusal(candidate: str, error: OSError) -> str:
    reason = str(error).removeprefix(f"{candidate}: ")
    # The loader names the file that is missing: another name than the candidate's is a library that this one needs.
    if "No such file" in reason and reason != str(error):
        return f"{candidate} (not there)" if "/" in candidate else f"{candidate} (not known to the loader)"
    return f"{candidate} ({reason})"


def _bind(library: Any) -> None:
    """Make the binding call this library: it only loads one by itself where none is set."""
    with pynvml.libLoadLock:
        pynvml.nvmlLib = library
        pynvml._nvmlGetFunctionPointer_cache.clear()


def initialise() -> None:
    """Initialise NVML. Blocks, for seconds on GPUs without persistence mode. Raises DriverError with the way out."""
    _settle()
    try:
        pynvml.nvmlInit()
    except NvmlError as error:
        raise DriverError(f"the NVIDIA driver does not start: {name_of(error)}{_way_out(error.value)}") from error


def _way_out(code: int) -> str:
    ways = {
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "load its kernel module (modprobe nvidia), or see dmesg for why it left",
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "library and kernel module are of different versions: restart mortalgpu, "
        "or reboot the node after a driver update",
        pynvml.NVML_ERROR_NO_PERMISSION: "let mortalgpu open /dev/nvidiactl and /dev/nvidia*",
    }
    return f"; {ways[code]}" if code in ways else ""


def shut_down() -> None:
    """Let go of NVML. Blocks. Errors are of no use to anybody here: a driver that left has nothing to shut down."""
    try:
        pynvml.nvmlShutdown()
    except NvmlError:
        return


def owe_shutdown() -> None:
    """Leave NVML initialised because calls still hang in it; the next `initialise` makes up for it.

    Shutting down under a running call is not safe, and NVML counts: it starts anew only when shut down as often as
    initialised.
    """
    global _owed_shutdowns
    _owed_shutdowns += 1


def _settle() -> None:
    global _owed_shutdowns
    while _owed_shutdowns:
        _owed_shutdowns -= 1
        shut_down()
