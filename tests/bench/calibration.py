"""How fast this machine runs Python while the bench runs: a fixed loop, and a process that does nothing.

Taken before each stage, so that what the neighbours do meanwhile shows as the distance between median and 99th percentile.
"""

import subprocess
import sys

from tests.bench.figures import LOOP, PASS
from tests.bench.timing import Samples, timed

TURNS = 50_000
LOOPS, STARTS = 40, 8


def measure() -> Samples:
    """Return both figures' samples. Blocks for a second."""
    return {LOOP: timed(LOOPS, _loop), PASS: timed(STARTS, _pass)}


def _loop() -> int:
    """Integers, a dictionary and calls: what the daemon's own code is made of."""
    counts: dict[int, int] = {}
    for number in range(TURNS):
        key = number * 7 % 1024
        counts[key] = counts.get(key, 0) + number
    return len(counts)


def _pass() -> None:
    subprocess.run([sys.executable, "-c", "pass"], check=True)
