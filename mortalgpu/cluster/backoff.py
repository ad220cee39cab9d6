"""How long to wait before asking again: doubling, capped, with jitter, so that a thousand nodes do not return as one.

Pure: randomness is handed in, and waiting is the caller's.
"""

from collections.abc import Callable


class Backoff:
    """Counts failures in a row. The n-th waits a random time between half of and the whole of base x 2^(n-1), capped."""

    def __init__(self, random: Callable[[], float], base_seconds: float = 0.5, cap_seconds: float = 30.0) -> None:
        self._random = random
        self._base_seconds = base_seconds
        self._cap_seconds = cap_seconds
        self._failures = 0

    def succeeded(self) -> None:
        """Start from the shortest wait again."""
        self._failures = 0

    def failed(self, at_least_seconds: float = 0.0) -> float:
        """Count one more failure and return the seconds to wait, no less than what the other side asked for (capped too)."""
        longest = min(self._cap_seconds, self._base_seconds * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return max(longest * (0.5 + self._random() / 2), min(at_least_seconds, self._cap_seconds))
