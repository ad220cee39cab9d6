"""This machine's clocks."""

import time


class MachineClock:
    """A `WallClock` on the kernel's clocks."""

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since boot, without the time spent asleep."""
        return time.monotonic()
