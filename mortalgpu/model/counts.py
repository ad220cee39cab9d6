"""Figures that only grow, kept by the service they are about and read by the exporters: counts, and latency histograms."""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

LATENCY_BUCKETS_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds; one more bucket above the last takes the rest."""


EventCounts = Counter[tuple[str, str, int]]
"""What the driver reported by itself, by device (empty: all), kind and code."""


CallCounts = Counter[str]
"""Calls of the device API that ended, by gRPC's word for how: `OK`, `PERMISSION_DENIED` and so on."""


@dataclass(slots=True)
class Histogram:
    """How long something took, in seconds: not cumulative counts by bucket, and the sum."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BUCKETS_SECONDS) + 1))
    sum_seconds: float = 0.0

    def observe(self, seconds: float) -> None:
        """Add one duration. A duration equal to a bound belongs below it."""
        self.buckets[bisect_left(LATENCY_BUCKETS_SECONDS, seconds)] += 1
        self.sum_seconds += seconds

    @property
    def count(self) -> int:
        """How many durations were added."""
        return sum(self.buckets)


@dataclass(slots=True)
class PluginCounts:
    """What one resource's device plugin did since the daemon started."""

    registrations: int = 0
    """Accepted by kubelet; every one after the first is a registration again."""
    failed_registrations: int = 0
    allocations: int = 0
    """Containers whose Allocate was answered with a grant."""
    refusals: Counter[str] = field(default_factory=Counter)
    """Containers refused, by the error's fixed reason word."""
    allocate: Histogram = field(default_factory=Histogram)
    preferred: Histogram = field(default_factory=Histogram)
    registered: bool = False
    """Whether kubelet is listening to our list at this moment."""


@dataclass(slots=True)
class DriverCounts:
    """How the GPU driver answered since the daemon started."""

    errors: Counter[str] = field(default_factory=Counter)
    """Calls that failed, by kind: `lost`, `timeout` (the call was abandoned), `failed`."""
    reopened: int = 0
    """How often a lost driver was opened anew."""


@dataclass(slots=True)
class ReloadCounts:
    """How reading the configuration again went."""

    outcomes: Counter[str] = field(default_factory=Counter)
    """`applied`, `unchanged`, `partly` (some keys wait for a restart), `refused` (a bad file)."""
    is_good: bool = True
    """Whether the configuration on disk is good and all of it is in force."""
    taken_at: float = 0.0
    """Wall-clock seconds since the epoch at which a configuration was last taken, the start included; 0 when never."""


@dataclass(slots=True)
class Pulse:
    """When the scan loop last turned, in monotonic seconds; minus infinity before the first time."""

    beat_at: float = float("-inf")
