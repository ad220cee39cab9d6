"""Bytes, MiB and their text: the only file in which MiB exists.

Everything inside MortalGPU is bytes and seconds; MiB appears in the environment of a container, on the device API
(MetaGPU's wire has MiB) and in tables for people.
"""

MIB = 1024 * 1024


def mib_floor(size_bytes: int) -> int:
    """Return whole MiB in `size_bytes`, rounded down: a limit must never read larger than it is."""
    return size_bytes // MIB


def mib_ceil(size_bytes: int) -> int:
    """Return MiB that hold `size_bytes`, rounded up: a use must never read smaller than it is."""
    return -(-size_bytes // MIB)


def from_mib(size_mib: int) -> int:
    """Return the bytes in `size_mib` MiB."""
    return size_mib * MIB


def quantity(size_bytes: int) -> str:
    """Return a size for people, in the binary unit that keeps three digits (`39.2 GiB`, `512 MiB`, `0 B`)."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    size = float(size_bytes)
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.0f} {unit}" if size >= 100 else f"{size:.3g} {unit}"
    return f"{size / 1024:.3g} TiB"
