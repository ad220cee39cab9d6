"""What a run's samples say: did the daemon keep its promises, and is it after hours as it was in the beginning? Pure.

The rules:
1. A promise broken once is a failed run.
2. Times after the warm-up are cut into thirds, and the last is held against the first.
3. Resident memory must not rise: neither by its robust slope (Theil and Sen's) nor from third to third.
4. Open files, threads, tasks and child processes are compared at rest, where nobody is there and nothing is wrong: the lowest
   count of the last third is no more than the lowest of the first. What lingers for a while (files of processes that have
   just gone, the connection of a scrape) is given back in one rest or another; what is leaked never is.
5. Latencies are judged twice. The best tenth tells of the daemon itself; the median tells what callers had, and is given
   slack for how busy the machine was. What it is worth by itself is known from a fixed piece of work (the yardstick).
6. What was not seen is not good: a run without rests, or without a kill where there is enforcement, fails.
"""

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WARM_PART = 0.15
"""Of the run, in which what is made only once is made."""
LONG_SECONDS = 1800.0
"""From here on a slope per hour says something."""
SLOPE_MIB_PER_HOUR = 1.0
GROWTH = 1.02
SHORT_GROWTH = 1.10
SLOWER = 1.25
SLACK_MS = {"kill": 60.0, "recovery": 500.0}
"""A kill waits for the next look, of which there are ten a second; a recovery is of many kinds."""
USUAL_SLACK_MS = 2.0
MOST_POINTS = 400
"""More points than these are thinned before the slopes of all pairs are taken."""

KEPT = {"fds": 0, "threads": 2, "tasks": 0, "children": 0}
"""What is compared at rest, and how many more are no leak: threads of Trio's cache live until they were idle for a while."""
LATENCIES = ("list", "GetPreferredAllocation", "Allocate", "scrape gpus", "scrape daemon", "device API call", "kill")

Sample = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """A run as it was written: what it was, its samples in order, and the promises that were broken."""

    about: Mapping[str, Any]
    samples: Sequence[Sample]
    wrongs: Sequence[str] = ()

    @property
    def seconds(self) -> float:
        """From the first sample to the last."""
        return float(self.samples[-1]["t"] - self.samples[0]["t"]) if self.samples else 0.0

    @property
    def counts(self) -> Mapping[str, int]:
        """What was counted in the whole run."""
        return self.samples[-1]["counts"] if self.samples else {}

    def third(self, number: int) -> list[Sample]:
        """The samples of one third of the time after the warm-up, from 0."""
        if not self.samples:
            return []
        begun = self.samples[0]["t"] + self.seconds * WARM_PART
        length = self.seconds * (1 - WARM_PART) / 3
        ends = float("inf") if number == 2 else begun + (number + 1) * length
        return [sample for sample in self.samples if begun + number * length <= sample["t"] < ends]

    def warm(self) -> list[Sample]:
        """The samples after the warm-up."""
        return [sample for number in range(3) for sample in self.third(number)]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was judged: its figure in the first and in the last third, and what the last may be."""

    name: str
    unit: str
    first: float
    last: float
    most: float

    @property
    def good(self) -> bool:
        """Whether the daemon is as it was. A figure that could not be had (NaN) is not."""
        return self.last <= self.most


def judge(run: Run) -> list[Finding]:
    """Return everything that was judged; the run passed if all is good."""
    findings = [Finding("broken promises", "", 0, len(run.wrongs), 0), *_memory(run), *_kept(run), *_times(run)]
    if run.about.get("enforces"):
        # As a shortfall, since a finding is good when its figure is low enough.
        stopped = run.counts.get("processes stopped", 0)
        findings.append(Finding("kills missing", "", 0, max(0, 1 - stopped), 0))
    return findings


def passed(findings: Iterable[Finding]) -> bool:
    """Tell whether all is good."""
    return all(finding.good for finding in findings)


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return Theil and Sen's slope: the median of the slopes between all pairs. NaN for less than two points."""
    thinned = points[:: max(1, len(points) // MOST_POINTS)]
    slopes = [
        (late - early) / (after - before)
        for number, (before, early) in enumerate(thinned)
        for after, late in thinned[number + 1 :]
        if after > before
    ]
    return statistics.median(slopes) if slopes else float("nan")


def _memory(run: Run) -> Iterator[Finding]:
    first, last = (_median(sample["rss_kib"] / 1024 for sample in run.third(number)) for number in (0, 2))
    is_long = run.seconds >= LONG_SECONDS
    yield Finding("resident memory", "MiB", first, last, first * (GROWTH if is_long else SHORT_GROWTH))
    if is_long:
        per_second = slope([(sample["t"], sample["rss_kib"] / 1024) for sample in run.warm()])
        yield Finding("its slope", "MiB/h", 0, per_second * 3600, SLOPE_MIB_PER_HOUR)


def _kept(run: Run) -> Iterator[Finding]:
    ends: Callable[[int], list[Sample]] = run.third if run.seconds >= LONG_SECONDS else lambda number: _half(run, number // 2)
    for what, slack in KEPT.items():
        first, last = (_lowest_at_rest(ends(number), what) for number in (0, 2))
        yield Finding(f"{what} at rest", "", first, last, first + slack)


def _half(run: Run, number: int) -> list[Sample]:
    """Return one half of the rests, from 0, the first left out as the warm-up: a short run has too few for thirds."""
    rests: dict[int, list[Sample]] = {}
    for sample in run.samples:
        if sample["quiet"]:
            rests.setdefault(sample["counts"].get("rests", 0), []).append(sample)
    later = list(rests.values())[1:]
    chosen = later[len(later) // 2 :] if number else later[: len(later) // 2]
    return [sample for rest in chosen for sample in rest]


def _lowest_at_rest(samples: Iterable[Sample], what: str) -> float:
    known = [sample[what] for sample in samples if sample["quiet"] and sample[what] is not None]
    return float(min(known, default=float("nan")))


def _times(run: Run) -> Iterator[Finding]:
    if run.seconds < LONG_SECONDS:
        return
    yardstick = [_median(sample["yardstick_ms"] for sample in run.third(number)) for number in (0, 2)]
    load = [statistics.fmean(sample["load"] for sample in run.third(number)) for number in (0, 2)]
    yield Finding("yardstick of the machine", "ms", yardstick[0], yardstick[1], float("inf"))
    yield Finding("load of the machine", "", load[0], load[1], float("inf"))
    slower = SLOWER * max(1.0, yardstick[1] / yardstick[0])
    busier = max(slower, SLOWER * load[1] / load[0])
    for name in LATENCIES:
        if name == "kill" and not run.about.get("enforces"):
            continue
        slack = SLACK_MS.get(name, USUAL_SLACK_MS)
        for what, part, factor in (("median", 0.5, busier), ("best tenth", 0.1, slower)):
            first, last = (latency(run.third(number), name, part) for number in (0, 2))
            yield Finding(f"{name}, {what}", "ms", first, last, first * factor + slack)
    first, last = (_cpu_percent(run.third(number)) for number in (0, 2))
    yield Finding("CPU", "% of a core", first, last, first * slower)


def latency(samples: Iterable[Sample], name: str, part: float = 0.5) -> float:
    """Return the value below which this part of all measurements of a latency in these samples lies; NaN without any."""
    known = sorted(each for sample in samples for each in sample["latencies"].get(name, ()))
    return float(known[min(len(known) - 1, int(len(known) * part))]) if known else float("nan")


def _cpu_percent(samples: Sequence[Sample]) -> float:
    if len(samples) < 2:
        return float("nan")
    first, last = samples[0], samples[-1]
    return float((last["cpu_seconds"] - first["cpu_seconds"]) / (last["t"] - first["t"]) * 100)


def _median(values: Iterable[float]) -> float:
    known = list(values)
    return float(statistics.median(known)) if known else float("nan")
