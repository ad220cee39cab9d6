"""How much is measured: the long form for figures that are compared, the short one for CI, which looks for catastrophes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Effort:
    """Samples of each kind, and seconds of the windows in which nothing is done but count."""

    sizes: tuple[int, ...]
    starts: int
    restarts: int
    losses: int
    calls: int
    idle_seconds: float
    reactions: int
    scans: int
    scrapes: int
    processes: int
    """Runs of mgctl and other programs from start to end."""
    questions: int
    """To the device API."""


LONG = Effort(
    sizes=(320, 6_400, 60_000),
    starts=7,
    restarts=5,
    losses=5,
    calls=300,
    idle_seconds=20,
    reactions=100,
    scans=60,
    scrapes=300,
    processes=11,
    questions=40,
)
SHORT = Effort(
    sizes=(6_400,),
    starts=1,
    restarts=1,
    losses=1,
    calls=40,
    idle_seconds=4,
    reactions=5,
    scans=5,
    scrapes=25,
    processes=3,
    questions=5,
)
