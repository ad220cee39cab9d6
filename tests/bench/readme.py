"""The README's section of figures: the table of a kept result, between two lines that mark it."""

from pathlib import Path

from tests.bench.report import Report
from tests.bench.table import readme_table

BEGIN, END = "<!-- figures: written by `just bench --keep` -->", "<!-- end of figures -->"


def figures_in(text: str) -> str:
    """Return what stands between the marks. Raises ValueError where they are not there."""
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    return text[begin:end].strip()


def put_figures(path: Path, report: Report) -> None:
    """Replace what stands between the marks. Raises ValueError where they are not there."""
    text = path.read_text()
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    path.write_text(f"{text[:begin]}\n{readme_table(report)}\n{text[end:]}")
