"""Times of actions, and percentiles of samples."""

import time
from collections.abc import Callable, Sequence

Samples = dict[str, list[float]]
"""What a part of the bench has measured: samples by the figure's name, in the figure's unit."""


def timed(times: int, action: Callable[[], object]) -> list[float]:
    """Return how many milliseconds the action took each time. Blocks."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        action()
        taken.append((time.perf_counter() - begun) * 1000)
    return taken


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which this share of all values lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]
