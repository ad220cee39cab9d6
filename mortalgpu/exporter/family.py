"""One metric with its values, as collectors hand it to a page. Pure; knows nothing of text formats."""

from collections.abc import Iterable
from dataclasses import dataclass

from mortalgpu.exporter.names import Metric


@dataclass(frozen=True, slots=True)
class Distribution:
    """A histogram's state: upper bounds, counts by bucket (not cumulative, one more than bounds), and the sum of all."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float


Row = tuple[tuple[str, ...], float | Distribution]
"""Values of the metric's labels, in its order, and the figure."""


@dataclass(frozen=True, slots=True)
class Family:
    """A metric and its rows. No two rows have the same labels."""

    metric: Metric
    rows: tuple[Row, ...]


def family(metric: Metric, rows: Iterable[tuple[tuple[str, ...], float | Distribution | None]]) -> Family:
    """Return the metric with those rows whose figure is known; of rows with equal labels the first counts."""
    known: dict[tuple[str, ...], float | Distribution] = {}
    for labels, value in rows:
        if value is not None:
            known.setdefault(labels, value)
    return Family(metric, tuple(known.items()))


def single(metric: Metric, value: float | Distribution | None) -> Family:
    """Return a metric without labels of its own."""
    return family(metric, [((), value)])


def ratio(percent: int | None) -> float | None:
    """Return per cent as a ratio; unknown stays unknown."""
    return None if percent is None else percent / 100
