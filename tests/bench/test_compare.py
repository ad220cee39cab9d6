"""Comparing two runs, and holding one to loose bounds."""

from collections.abc import Sequence

from tests.bench.compare import Change, broken_bounds, compare, regressions
from tests.bench.figures import BY_NAME, LOOP, NO_FORM
from tests.bench.forms import FROZEN, UNFROZEN
from tests.bench.report import LeftOut, Machine, Report, Row, report_of, row_of

MACHINE = Machine("x86_64", 2, "3.11.7", 0.1, 0.1, 0.0, 0)


def report(*rows: Row, left_out: Sequence[LeftOut] = ()) -> Report:
    return report_of(rows, left_out, MACHINE, is_short=False)


def one(name: str, value: float, form: str = FROZEN) -> Row:
    return row_of(name, form, [value])


def only(new: Report, old: Report) -> tuple[Change, float | None]:
    """The only row's comparison, calibration aside."""
    (found,) = [each for each in compare(new, old) if each.name != LOOP]
    return found.change, found.ratio


def test_a_figure_beyond_its_band_is_worse_or_better() -> None:
    last = report(one("scan", 10.0))
    assert only(report(one("scan", 16.0)), last) == (Change.WORSE, 1.6)
    assert only(report(one("scan", 5.0)), last) == (Change.BETTER, 0.5)


def test_noise_within_the_band_changes_nothing() -> None:
    last = report(one("scan", 10.0))
    assert only(report(one("scan", 14.0)), last)[0] is Change.SAME
    assert only(report(one("scan", 7.0)), last)[0] is Change.SAME


def test_a_difference_below_the_grain_is_noise_whatever_its_ratio() -> None:
    assert only(report(one("allocate_320", 1.4)), report(one("allocate_320", 0.5)))[0] is Change.SAME


def test_where_more_is_better_less_is_worse() -> None:
    assert BY_NAME["looks_kept"].higher_is_better
    assert only(report(one("looks_kept", 50.0)), report(one("looks_kept", 100.0)))[0] is Change.WORSE
    assert only(report(one("looks_kept", 100.0)), report(one("looks_kept", 50.0)))[0] is Change.BETTER


def test_a_slower_machine_is_no_regression() -> None:
    last = report(one(LOOP, 4.0, NO_FORM), one("scan", 10.0))
    slower = report(one(LOOP, 8.0, NO_FORM), one("scan", 20.0))
    assert only(slower, last) == (Change.SAME, 1.0)


def test_a_regression_does_not_hide_behind_a_faster_machine() -> None:
    last = report(one(LOOP, 8.0, NO_FORM), one("scan", 10.0))
    faster = report(one(LOOP, 4.0, NO_FORM), one("scan", 10.0))
    assert only(faster, last) == (Change.WORSE, 2.0)


def test_memory_does_not_stretch_with_the_machine() -> None:
    last = report(one(LOOP, 4.0, NO_FORM), one("resident_idle", 40.0))
    slower = report(one(LOOP, 8.0, NO_FORM), one("resident_idle", 44.0))
    assert only(slower, last)[0] is Change.WORSE


def test_medians_are_compared_for_the_tail_is_noise() -> None:
    assert BY_NAME["preferred_6400"].judged == "p99"
    last = report(row_of("preferred_6400", FROZEN, [4.0] * 100))
    assert only(report(row_of("preferred_6400", FROZEN, [4.0] * 90 + [40.0] * 10)), last)[0] is Change.SAME
    assert only(report(row_of("preferred_6400", FROZEN, [8.0] * 100)), last)[0] is Change.WORSE


def test_a_new_figure_is_accepted() -> None:
    compared = compare(report(one("scan", 10.0)), report())
    assert [(each.name, each.change) for each in compared] == [("scan", Change.NEW)]
    assert regressions(compared) == []


def test_a_missing_figure_is_named_and_counts_as_a_regression() -> None:
    last = report(one("scan", 10.0), one("cpu_idle", 0.4))
    missing = regressions(compare(report(one("scan", 10.0)), last))
    assert [(each.name, each.form, each.change) for each in missing] == [("cpu_idle", FROZEN, Change.MISSING)]


def test_what_was_not_to_be_measured_is_not_missing() -> None:
    last = report(one("scan", 10.0), one("scan", 10.0, UNFROZEN), one("cpu_idle", 0.4, UNFROZEN))
    assert regressions(compare(report(one("scan", 10.0, UNFROZEN)), last, is_whole=False)) == []
    missing = regressions(compare(report(one("scan", 10.0, UNFROZEN)), last))
    assert [each.name for each in missing] == ["cpu_idle"], "only of the form that was measured"


def test_each_form_is_compared_with_its_own_past() -> None:
    last = report(one("scan", 10.0, UNFROZEN), one("scan", 30.0))
    changes = {each.form: each.change for each in compare(report(one("scan", 30.0, UNFROZEN), one("scan", 30.0)), last)}
    assert changes == {UNFROZEN: Change.WORSE, FROZEN: Change.SAME}


def test_a_figure_that_was_nothing_and_is_something_is_worse() -> None:
    assert only(report(one("cpu_idle", 0.0)), report(one("cpu_idle", 0.0)))[0] is Change.SAME
    assert only(report(one("cpu_idle", 2.0)), report(one("cpu_idle", 0.0)))[0] is Change.WORSE


def test_a_declared_figure_that_is_no_longer_declared_is_still_named() -> None:
    gone = one("scan", 1.0).__class__("of_old", FROZEN, "ms", 1, 1.0, 1.0, "p50", "lower", None, None)
    last = Report("0.1.0", False, MACHINE, (gone,))
    assert [each.name for each in regressions(compare(report(one("scan", 10.0)), last))] == ["of_old"]


def test_the_loose_bound_lets_a_missed_aim_pass_and_a_catastrophe_not() -> None:
    assert BY_NAME["scan"].aims[FROZEN] == 20
    assert broken_bounds(report(one("scan", 55.0)), None) == []
    (broken,) = broken_bounds(report(one("scan", 65.0)), None)
    assert broken.name == "scan"


def test_the_loose_bound_judges_the_median_and_not_the_tail() -> None:
    assert broken_bounds(report(row_of("allocate_6400", FROZEN, [1.0] * 9 + [900.0])), None) == []


def test_the_loose_bound_gives_way_on_a_slow_machine_and_never_tightens_on_a_fast_one() -> None:
    last = report(one(LOOP, 4.0, NO_FORM))
    assert broken_bounds(report(one(LOOP, 16.0, NO_FORM), one("scan", 200.0)), last) == []
    assert broken_bounds(report(one(LOOP, 1.0, NO_FORM), one("scan", 55.0)), last) == []


def test_the_loose_bound_of_what_should_be_high_is_low() -> None:
    assert broken_bounds(report(one("looks_kept", 60.0)), None) == []
    assert len(broken_bounds(report(one("looks_kept", 20.0)), None)) == 1


def test_figures_without_an_aim_have_no_bound() -> None:
    assert broken_bounds(report(one("cpu_churn", 100.0)), None) == []
