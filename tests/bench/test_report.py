"""Reports: percentiles, JSON and back, tables for people, the README's figures."""

import json
from pathlib import Path

import msgspec
import pytest

from tests.bench.__main__ import README, RESULT
from tests.bench.compare import compare
from tests.bench.figures import BY_NAME, FIGURES, LOOP, NO_FORM, PASS
from tests.bench.forms import BEFORE, FROZEN, UNFROZEN
from tests.bench.readme import BEGIN, END, figures_in, put_figures
from tests.bench.report import LeftOut, Machine, Watch, read, report_of, row_of
from tests.bench.table import footnotes, readme_table, row_line, table
from tests.bench.timing import percentile

MACHINE = Machine("x86_64", 2, "3.11.7", 0.1, 0.2, 0.5, 0)
REPORT = report_of(
    [
        row_of("scan", FROZEN, [25.0, 30.0, 21.0]),
        row_of("allocate_6400", UNFROZEN, [1.0] * 90 + [4.0] * 10),
        row_of("metagpu_dead", NO_FORM, [4998.4, 9278.1]),
        row_of("version", UNFROZEN, [0.0274]),
        row_of("looks_kept", FROZEN, [99.0]),
    ],
    [LeftOut("the frozen form", "it was not built")],
    MACHINE,
    is_short=False,
)


def test_names_of_figures_are_unique_and_their_calibration_is_there() -> None:
    assert len(BY_NAME) == len(FIGURES)
    assert {figure.stretch for figure in FIGURES} == {"", LOOP, PASS}
    assert all(figure.title and figure.judged in ("p50", "p99") and figure.band > 1 for figure in FIGURES)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 50), (0.99, 99), (1.0, 100)])
def test_percentiles_are_samples(share: float, expected: float) -> None:
    assert percentile([float(number) for number in range(100, 0, -1)], share) == pytest.approx(expected, abs=1)


def test_a_row_carries_its_samples_aim_and_verdict() -> None:
    row = row_of("scan", FROZEN, [25.04449, 30.0, 21.0])
    assert (row.n, row.p50, row.p99, row.unit, row.direction, row.aim, row.met) == (3, 25.04, 30.0, "ms", "lower", 20, False)
    assert row_of("looks_kept", FROZEN, [99.0]).met
    assert row_of("version", UNFROZEN, [9.0]).met is None


def test_a_figure_that_nobody_declared_is_refused() -> None:
    with pytest.raises(KeyError):
        row_of("of_a_dream", FROZEN, [1.0])


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    REPORT.write(tmp_path / "deep" / "bench.json")
    assert read(tmp_path / "deep" / "bench.json") == REPORT


def test_what_was_measured_beside_it_is_not_kept() -> None:
    both = report_of([row_of("scan", FROZEN, [1.0]), row_of("scan", BEFORE, [9.0])], [], MACHINE, is_short=False)
    assert [row.form for row in both.without(BEFORE).rows] == [FROZEN]
    assert row_of("scan", BEFORE, [99.0]).met is None, "another binary promised nothing"


def test_no_result_is_none_and_another_file_is_an_error(tmp_path: Path) -> None:
    assert read(tmp_path / "none.json") is None
    (tmp_path / "other.json").write_text('{"rows": 3}')
    with pytest.raises(msgspec.ValidationError):
        read(tmp_path / "other.json")


def test_a_report_names_no_host_and_no_path(tmp_path: Path) -> None:
    import socket

    machine = Watch().machine()
    text = json.dumps(msgspec.to_builtins(machine))
    assert socket.gethostname() not in text
    assert "/" not in text


def test_the_table_has_a_line_for_each_row_in_the_declared_order() -> None:
    lines = table(REPORT).splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "FIGURE",
        *("mortalgpu --version", "6,400 meta-devices: Allocate", "the same by MetaGPU's loop, modelled"),
        *("full scan: 8 GPUs, 800 processes", "quick looks kept while scraped"),
    ]
    (scan,) = [line for line in lines if "full scan" in line]
    assert " ".join(scan.split()) == "full scan: 8 GPUs, 800 processes frozen 3 25 30 ms p50 ≤ 20 MISSED"


def test_the_table_shows_what_changed() -> None:
    last = report_of([row_of("scan", FROZEN, [10.0])], [], MACHINE, is_short=False)
    (scan,) = [line for line in table(REPORT, compare(REPORT, last)).splitlines() if "full scan" in line]
    assert scan.endswith("x2.50  WORSE")


def test_the_footnotes_tell_machine_and_gaps() -> None:
    last = report_of([row_of("cpu_idle", FROZEN, [0.4])], [], MACHINE, is_short=False)
    text = footnotes(REPORT, compare(REPORT, last))
    assert "2 cores" in text
    assert "left out: the frozen form: it was not built" in text
    assert "missing: CPU: no process on any GPU, frozen" in text


def test_a_row_fits_a_line() -> None:
    assert row_line(row_of("scan", FROZEN, [70.0])) == "full scan: 8 GPUs, 800 processes, frozen: 70 ms, aim ≤ 20"


def test_the_readme_shows_what_is_judged_and_marks_what_missed() -> None:
    lines = readme_table(REPORT).splitlines()
    assert "| full scan: 8 GPUs, 800 processes | ≤ 20 ms | **25 ms** | |" in lines
    assert "| 6,400 meta-devices: Allocate, p99 | ≤ 5 ms | | 4 ms |" in lines
    assert "| the same by MetaGPU's loop, modelled, p99 | – | 9,278 ms | |" in lines


def test_the_readmes_figures_are_replaced_between_their_marks(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    put_figures(path, REPORT)
    text = path.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert figures_in(text) == readme_table(REPORT)


@pytest.mark.skipif(not RESULT.exists(), reason="no result was kept yet")
def test_the_readmes_figures_are_those_of_the_kept_result() -> None:
    kept = read(RESULT)
    assert kept is not None
    assert figures_in(README.read_text()) == readme_table(kept)


@pytest.mark.skipif(not RESULT.exists(), reason="no result was kept yet")
def test_the_kept_result_has_every_declared_figure_in_both_forms() -> None:
    kept = read(RESULT)
    assert kept is not None
    assert not kept.is_short
    assert {row.name for row in kept.rows} == set(BY_NAME)
    for figure in FIGURES:
        assert all(kept.row(figure.name, form) for form in figure.aims), f"{figure.name} has an aim and no figure"
