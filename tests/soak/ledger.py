"""What the soak notes while it runs: counts of what happened, latencies, and every broken promise. Written as JSON lines."""

import json
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.soak.judge import Run

MOST_WRONGS = 200
"""So many broken promises are written out; the rest is counted."""


@dataclass
class Ledger:
    """The notes of one run. `path` is where the lines go; each is written at once, so that a killed run leaves its data."""

    path: Path
    begun: float = field(default_factory=time.monotonic)
    counts: Counter[str] = field(default_factory=Counter)
    wrongs: list[str] = field(default_factory=list)
    _latencies: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.begun

    def count(self, what: str, more: int = 1) -> None:
        """Count something that was done, or was seen."""
        self.counts[what] += more

    def took(self, what: str, seconds: float) -> None:
        """Note how long something took."""
        self._latencies[what].append(round(seconds * 1000, 2))

    def wrong(self, what: str) -> None:
        """Note a promise that was broken."""
        self.counts["broken promises"] += 1
        if len(self.wrongs) < MOST_WRONGS:
            self.wrongs.append(what)
            self.write("wrong", what=what)

    def write(self, kind: str, **values: Any) -> None:
        """Append a line."""
        with self.path.open("a") as file:
            file.write(json.dumps({"kind": kind, "t": round(self.elapsed, 1), **values}) + "\n")

    def sample(self, **values: Any) -> None:
        """Append a sample, with the latencies since the one before and all counts so far."""
        latencies, self._latencies = dict(self._latencies), defaultdict(list)
        self.write("sample", **values, latencies=latencies, counts=dict(self.counts))


def read_run(path: Path) -> Run:
    """Read what a ledger wrote."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    about = next(line for line in lines if line["kind"] == "begin")
    samples = [line for line in lines if line["kind"] == "sample"]
    wrongs = [line["what"] for line in lines if line["kind"] == "wrong"]
    return Run({name: value for name, value in about.items() if name not in ("kind", "t")}, samples, wrongs)
