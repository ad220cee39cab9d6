"""The C library's heap: memory that was freed goes back to the kernel."""

import ctypes

TRIM_THRESHOLD = -1
"""glibc's number for it (mallopt(3))."""
TRIM_BYTES = 128 * 1024
"""glibc's own default, kept for good: by itself it raises it with the first large block, such as a list for kubelet."""


def return_freed_memory() -> None:
    """Let the heap shrink whenever so much at its end is free. Does nothing where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(TRIM_THRESHOLD, TRIM_BYTES)
