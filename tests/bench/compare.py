"""This run against an earlier one, and against loose bounds. Pure.

The rules:
1. Two runs are compared in ratio, row by row, at the median: the 99th percentile of one run and of the next differ by more than
   any change that is worth a name, and have their aims. Where a figure stretches with the machine's speed, the ratio of
   the calibration figure between the two runs is taken out first.
2. Within the figure's band, or its grain, nothing has changed. Beyond it, it is worse or better.
3. A row that the earlier run had and this one lacks is named, where its form was measured and no stage was left out by
   choice; a row that only this one has is new, and fine.
4. The loose bound is for a noisy machine and a short run: the median, the calibration against the earlier run's taken out
   where this machine is the slower one, may miss its aim by the figure's `loose` factor.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from tests.bench.figures import BY_NAME, NO_FORM, Figure
from tests.bench.report import Report, Row


class Change(Enum):
    """What became of a row; the words of the table."""

    SAME = "same"
    WORSE = "WORSE"
    BETTER = "better"
    NEW = "new"
    MISSING = "MISSING"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One row against the earlier run's. `ratio` is new to old, calibrated; None where one of them is not there."""

    name: str
    form: str
    change: Change
    ratio: float | None = None


def compare(new: Report, old: Report, *, is_whole: bool = True) -> list[Comparison]:
    """Compare all rows; those of the earlier run that are missing come last. `is_whole`: every stage was to be measured."""
    found = [_compared(row, old.row(*row.key), new, old) for row in new.rows]
    known, forms = {row.key for row in new.rows}, (*new.forms, NO_FORM)
    missing = [row.key for row in old.rows if is_whole and row.key not in known and row.form in forms]
    return found + [Comparison(*key, Change.MISSING) for key in missing]


def regressions(compared: Iterable[Comparison]) -> list[Comparison]:
    """Return what should not be: rows that got worse, and rows that are missing."""
    return [each for each in compared if each.change in (Change.WORSE, Change.MISSING)]


def broken_bounds(new: Report, old: Report | None) -> list[Row]:
    """Return the rows that miss even their loose bound."""
    return [row for row in new.rows if row.aim is not None and not _within(row, row.aim, new, old)]


def _compared(row: Row, before: Row | None, new: Report, old: Report) -> Comparison:
    if before is None:
        return Comparison(*row.key, Change.NEW)
    figure = BY_NAME[row.name]
    expected = before.p50 * _slowness(figure, new, old)
    ratio = row.p50 / expected if expected else (1.0 if not row.p50 else float("inf"))
    return Comparison(*row.key, _change(figure, row.p50, expected, ratio), ratio)


def _change(figure: Figure, value: float, expected: float, ratio: float) -> Change:
    if abs(value - expected) <= figure.grain or 1 / figure.band <= ratio <= figure.band:
        return Change.SAME
    return Change.BETTER if (ratio > 1) == figure.higher_is_better else Change.WORSE


def _slowness(figure: Figure, new: Report, old: Report | None) -> float:
    """Return how much more time this run's machine took for the same Python than the earlier one's."""
    now = new.row(figure.stretch, NO_FORM) if figure.stretch else None
    before = old.row(figure.stretch, NO_FORM) if old and figure.stretch else None
    return now.p50 / before.p50 if now and before else 1.0


def _within(row: Row, aim: float, new: Report, old: Report | None) -> bool:
    figure = BY_NAME[row.name]
    slack = figure.loose * max(1.0, _slowness(figure, new, old))
    return row.p50 >= aim / slack if figure.higher_is_better else row.p50 <= aim * slack
