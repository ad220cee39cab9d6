"""A run for people: a table of what was judged, its counts, and charts in plain text. Pure."""

import statistics
from collections.abc import Sequence

from tests.soak.judge import LATENCIES, Finding, Run, Sample, latency

WIDTH, HEIGHT = 90, 8


def table(findings: Sequence[Finding]) -> str:
    """Return what was judged, one a line."""
    lines = [("", "FIRST THIRD", "LAST THIRD", "AT MOST", "", "")]
    for each in findings:
        most = "" if each.most == float("inf") else f"{each.most:.2f}"
        lines.append((each.name, f"{each.first:.2f}", f"{each.last:.2f}", most, each.unit, "" if each.good else "TOO MUCH"))
    widths = [max(len(line[column]) for line in lines) for column in range(6)]
    return "\n".join(
        "  ".join(
            [name.ljust(widths[0]), *(text.rjust(width) for text, width in zip(rest[:3], widths[1:4], strict=True)), *rest[3:]]
        ).rstrip()
        for name, *rest in lines
    )


def charts(run: Run) -> str:
    """Return charts of memory, open files, tasks and latencies over the run."""
    samples = run.samples
    parts = [
        chart("resident memory, MiB", [(each["t"], each["rss_kib"] / 1024) for each in samples], zero=False),
        chart("open files", [(each["t"], each["fds"]) for each in samples]),
        chart("open files at rest", [(each["t"], each["fds"]) for each in samples if each["quiet"]]),
        chart("tasks", [(each["t"], each["tasks"]) for each in samples if each["tasks"] is not None]),
    ]
    for name in LATENCIES:
        points = [(each["t"], latency([each], name)) for each in samples if each["latencies"].get(name)]
        parts.append(chart(f"{name}, ms", points))
    return "\n\n".join(part for part in parts if part)


def chart(title: str, points: Sequence[tuple[float, float]], *, zero: bool = True) -> str:
    """Return a chart of medians over time, from 0 or, without `zero`, from the lowest; empty without points."""
    if not points:
        return ""
    columns = _columns(points)
    highest = max(each for each in columns if each is not None)
    lowest = 0.0 if zero else min(each for each in columns if each is not None)
    step = (highest - lowest) / (HEIGHT - 1) or 1.0
    rows = [None if each is None else round((each - lowest) / step) for each in columns]
    lines = [title]
    for row in reversed(range(HEIGHT)):
        label = f"{lowest + row * step:8.1f}" if row in (0, HEIGHT - 1) or row == HEIGHT // 2 else " " * 8
        lines.append(f"{label} |{''.join('*' if each == row else ' ' for each in rows)}".rstrip())
    span = points[-1][0] - points[0][0]
    ends = f"{span / 60:.0f} min"
    lines.append(f"{' ' * 8} +{'-' * WIDTH}")
    lines.append(f"{' ' * 10}0{ends.rjust(WIDTH - 1)}")
    return "\n".join(lines)


def _columns(points: Sequence[tuple[float, float]]) -> list[float | None]:
    begun, span = points[0][0], (points[-1][0] - points[0][0]) or 1.0
    bins: list[list[float]] = [[] for _ in range(WIDTH)]
    for moment, value in points:
        bins[min(WIDTH - 1, int((moment - begun) / span * WIDTH))].append(value)
    return [statistics.median(each) if each else None for each in bins]


def counts(run: Run) -> str:
    """Return what was counted, in a few lines."""
    return "\n".join(f"{count:>9,}  {what}" for what, count in sorted(run.counts.items()))


def document(run: Run, findings: Sequence[Finding]) -> dict[str, object]:
    """Return the run as it is kept: what it was, what was judged, counts, and a series with a point for each minute."""
    minutes: dict[int, list[Sample]] = {}
    for each in run.samples:
        minutes.setdefault(int(each["t"] // 60), []).append(each)
    series: dict[str, list[float | None]] = {
        "rss_mib": [round(_median([each["rss_kib"] for each in some]) / 1024, 2) for some in minutes.values()],
        "uss_mib": [round(_median([each["uss_kib"] for each in some]) / 1024, 2) for some in minutes.values()],
        **{what: [min(each[what] for each in some) for some in minutes.values()] for what in ("fds", "threads", "tasks")},
    }
    for name in LATENCIES:
        series[f"{name}_ms"] = [_rounded(latency(some, name)) for some in minutes.values()]
    rests: dict[int, list[Sample]] = {}
    for each in run.samples:
        if each["quiet"]:
            rests.setdefault(each["counts"].get("rests", 0), []).append(each)
    at_rest = {
        what: [min(each[what] for each in some) for some in rests.values()] for what in ("fds", "threads", "tasks", "children")
    }
    at_rest["rss_mib"] = [round(min(each["rss_kib"] for each in some) / 1024, 2) for some in rests.values()]
    return {
        **run.about,
        "judged": [
            {"name": each.name, "unit": each.unit, "first": _rounded(each.first), "last": _rounded(each.last),
             "most": _rounded(each.most), "good": each.good}
            for each in findings
        ],
        "counts": dict(sorted(run.counts.items())),
        "broken_promises": list(run.wrongs),
        "minutes": list(minutes),
        "by_minute": series,
        "at_rest": at_rest,
    }  # fmt: skip


def _rounded(value: float) -> float | None:
    """JSON knows neither NaN nor infinity."""
    return round(value, 2) if abs(value) < float("inf") else None


def _median(values: Sequence[float]) -> float:
    return float(statistics.median(values))
