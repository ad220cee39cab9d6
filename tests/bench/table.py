"""Reports for people: the table of a run, what changed since the last one, and the README's figures. Pure."""

from collections.abc import Iterable, Sequence

from tests.bench.compare import Change, Comparison
from tests.bench.figures import BY_NAME, FIGURES, NO_FORM, Figure
from tests.bench.forms import FROZEN, UNFROZEN
from tests.bench.report import Report, Row

HEAD = ("FIGURE", "FORM", "N", "P50", "P99", "UNIT", "AIM", "", "TO LAST", "")
MET = {None: "", True: "met", False: "MISSED"}


def table(report: Report, compared: Iterable[Comparison] = ()) -> str:
    """Return all rows in aligned columns, with the comparison to the last result where there is one."""
    changes = {(each.name, each.form): each for each in compared}
    cells = [HEAD, *(_cells(row, changes.get(row.key)) for row in report.rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEAD))]
    return "\n".join(_line(line, widths) for line in cells)


def footnotes(report: Report, compared: Iterable[Comparison] = ()) -> str:
    """Return what the table cannot show: the machine, what was left out, what is missing."""
    machine = report.machine
    lines = [
        f"{machine.cores} cores, {machine.arch}, Python {machine.python}, version {report.version}; "
        f"load {machine.load_before:g} before and {machine.load_after:g} after, {machine.stolen_percent:g} % stolen, "
        f"niceness {machine.niceness}"
    ]
    lines += [f"left out: {each.what}: {each.why}" for each in report.left_out]
    lines += [f"missing: {_title(each.name, each.form)}" for each in compared if each.change is Change.MISSING]
    return "\n".join(lines)


def readme_table(report: Report) -> str:
    """Return the headline figures in Markdown: medians, or the 99th percentile where that is what counts."""
    lines = ["| figure | aim | frozen | unfrozen |", "|---|---|---|---|"]
    for figure in FIGURES:
        rows = [report.row(figure.name, form) for form in (FROZEN, UNFROZEN)]
        if not figure.headline or not any((*rows, report.row(figure.name, NO_FORM))):
            continue
        shown = [_with_verdict(row) if row else "" for row in rows]
        without = report.row(figure.name, NO_FORM)
        title = figure.title + (", p99" if figure.judged == "p99" else "")
        cells = [title, _aims(figure), *(shown if without is None else [_shown(without), ""])]
        lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return "\n".join(lines)


def row_line(row: Row) -> str:
    """Return one row in one line."""
    aim = "" if row.aim is None else f", aim {_sign(row)} {row.aim:g}"
    return f"{_title(row.name, row.form)}: {row.p50:g} {row.unit}{aim}"


def _sign(row: Row) -> str:
    return "≥" if row.direction == "higher" else "≤"


def _title(name: str, form: str) -> str:
    title = BY_NAME[name].title if name in BY_NAME else name
    return f"{title}, {form}" if form else title


def _shown(row: Row) -> str:
    """Return a value to three figures, with its unit's first word."""
    number = f"{row.value:.3g}" if row.value < 1000 else f"{row.value:,.0f}"
    return f"{number} {row.unit.partition(' ')[0]}".rstrip()


def _aims(figure: Figure) -> str:
    """Return the frozen program's aim, and the other form's where that is another."""
    sign = "≥" if figure.higher_is_better else "≤"
    first, second = (figure.aims.get(form) for form in (FROZEN, UNFROZEN))
    shown = "–" if first is None else f"{sign} {first:g} {figure.unit}"
    return shown if second in (None, first) else f"{shown}, unfrozen {sign} {second:g}"


def _with_verdict(row: Row) -> str:
    return _shown(row) if row.met is not False else f"**{_shown(row)}**"


def _cells(row: Row, change: Comparison | None) -> tuple[str, ...]:
    aim = "" if row.aim is None else f"{row.judged} {_sign(row)} {row.aim:g}"
    p99 = f"{row.p99:g}" if row.n > 1 else ""
    ratio = "" if change is None or change.ratio is None else f"x{change.ratio:.2f}"
    word = "" if change is None or change.change is Change.SAME else change.change.value
    title = BY_NAME[row.name].title
    return (title, row.form, str(row.n), f"{row.p50:g}", p99, row.unit, aim, MET[row.met], ratio, word)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    is_number = (False, False, True, True, True, False, False, False, True, False)
    padded = [
        text.rjust(width) if right else text.ljust(width) for text, width, right in zip(cells, widths, is_number, strict=True)
    ]
    return "  ".join(padded).rstrip()
