"""Finding and loading libnvidia-ml.so.1, and NVML's life: initialised, shut down.

NVML is global to the process, and so is the binding's idea of which library it calls: one library at a time. The binding
itself would only ask the loader; a container or a host of another layout keeps the library elsewhere.

An upgrade of the driver puts a new file in the library's place, and the loaded one goes on until the new kernel module refuses
it. From then on the new file is taken, without a restart; the old one stays loaded, since calls may hang in it.
"""

import ctypes
import os
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
_path = ""
"""Where the loaded library lies."""
_file: tuple[int, int, int] | None = None
"""What file that was."""
_is_refused = False
"""The kernel module wants another version than the one that is loaded."""
_replacements = 0
_owed_shutdowns = 0


def load(configured: str = "") -> str:
    """Load the driver library and return the name or path it was found by. Blocks.

    A configured path is the only one tried. Raises DriverError that lists where it looked and what the loader said.
    """
    global _loaded_from, _path
    refusals: list[str] = []
    for candidate in (configured,) if configured else (LIBRARY_NAME, *USUAL_PLACES):
        if candidate == _loaded_from and not _was_replaced():
            return candidate
        try:
            library = ctypes.CDLL(_another_name(_path) if candidate == _loaded_from else candidate)
        except OSError as error:
            refusals.append(_refusal(candidate, error))
            continue
        if candidate != _loaded_from:
            _loaded_from, _path = candidate, _path_of(library, candidate)
        _bind(library)
        return candidate
    raise DriverError(
        f"the NVIDIA driver library {LIBRARY_NAME} cannot be loaded; looked at: {'; '.join(refusals)}. "
        f"Install the NVIDIA driver on this node, or name the library in config.driver.library"
    )


def _was_replaced() -> bool:
    """Whether the loaded library is of no use any more, and another file lies in its place."""
    return _is_refused and _file_at(_path) not in (None, _file)


def _file_at(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _another_name(path: str) -> str:
    """Return the path in a spelling that the loader has not met: it takes a known name for a known library."""
    global _replacements
    _replacements += 1
    return "/." * _replacements + path


class _LinkMap(ctypes.Structure):
    """The beginning of the loader's own record of a library (dlinfo(3))."""

    _fields_ = (("address", ctypes.c_void_p), ("name", ctypes.c_char_p))


def _path_of(library: ctypes.CDLL, name: str) -> str:
    """Return the path of a loaded library; the name it was loaded by where the loader does not tell."""
    found = ctypes.POINTER(_LinkMap)()
    try:
        refused = ctypes.CDLL(None).dlinfo(ctypes.c_void_p(library._handle), 2, ctypes.byref(found))
    except (OSError, AttributeError):
        return name
    return name if refused or not found.contents.name else os.fsdecode(found.contents.name)


def _refusal(candidate: str, error: OSError) -> str:
    reason = str(error).removeprefix(f"{candidate}: ")
    # The loader names the file that is missing: another name than the candidate's is a library that this one needs.
    if "No such file" in reason and reason != str(error):
        return f"{candidate} (not there)" if "/" in candidate else f"{candidate} (not known to the loader)"
    return f"{candidate} ({reason})"


def _bind(library: Any) -> None:
    """Make the binding call this library: it only loads one by itself where none is set."""
    global _file, _is_refused, _owed_shutdowns
    _file, _is_refused, _owed_shutdowns = _file_at(_path), False, 0
    with pynvml.libLoadLock:
        pynvml.nvmlLib = library
        pynvml._nvmlGetFunctionPointer_cache.clear()


def address_of(handle: Any) -> int | None:
    """Return what makes a device's handle the same one as another: the binding makes a new object of it each time."""
    return ctypes.cast(handle, ctypes.c_void_p).value


def initialise() -> None:
    """Initialise NVML. Blocks, for seconds on GPUs without persistence mode. Raises DriverError with the way out."""
    global _is_refused
    _settle()
    try:
        pynvml.nvmlInit()
    except NvmlError as error:
        _is_refused = error.value == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
        raise DriverError(f"the NVIDIA driver does not start: {name_of(error)}{_way_out(error.value)}") from error


def _way_out(code: int) -> str:
    ways = {
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "load its kernel module (modprobe nvidia), or see dmesg for why it left",
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "library and kernel module are of different versions: finish the driver's "
        "update, or reboot the node; in a container, restart mortalgpu's pod",
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
