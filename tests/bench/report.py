"""What a run of the bench has found: rows of figures, and the machine it ran on. Written as JSON, read back the same."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mortalgpu import __version__
from tests.bench.figures import BY_NAME, NO_FORM
from tests.bench.timing import percentile


class Row(msgspec.Struct, frozen=True):
    """One figure of one form. `p50` and `p99` are those of `n` samples, in the figure's unit; with one sample they are it."""

    name: str
    form: str
    unit: str
    n: int
    p50: float
    p99: float
    judged: str
    direction: str
    """`lower` or `higher`: which is better."""
    aim: float | None
    met: bool | None

    @property
    def key(self) -> tuple[str, str]:
        """What makes it one row of a report."""
        return self.name, self.form

    @property
    def value(self) -> float:
        """What the aim looks at."""
        return self.p99 if self.judged == "p99" else self.p50


class LeftOut(msgspec.Struct, frozen=True):
    """Figures that were not measured, and why."""

    what: str
    why: str


class Machine(msgspec.Struct, frozen=True):
    """What the figures depend on besides the program. `niceness` 0: the bench waited its turn among the machine's others.

    `stolen_percent` is what other machines took of the processors' time.
    """

    arch: str
    cores: int
    python: str
    load_before: float
    load_after: float
    stolen_percent: float
    niceness: int


class Report(msgspec.Struct, frozen=True):
    """One run."""

    version: str
    is_short: bool
    machine: Machine
    rows: tuple[Row, ...]
    left_out: tuple[LeftOut, ...] = ()

    def row(self, name: str, form: str) -> Row | None:
        """Return a figure's row."""
        return next((row for row in self.rows if row.key == (name, form)), None)

    @property
    def forms(self) -> tuple[str, ...]:
        """The forms of the daemon that were measured."""
        return tuple(dict.fromkeys(row.form for row in self.rows if row.form != NO_FORM))

    def without(self, form: str) -> "Report":
        """Return it without the rows of a form."""
        return msgspec.structs.replace(self, rows=tuple(row for row in self.rows if row.form != form))

    def write(self, path: Path) -> None:
        """Write it as JSON, for people too."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")


def read(path: Path) -> Report | None:
    """Return a report from its file, None where there is none. Raises msgspec.ValidationError for another kind of file."""
    return msgspec.json.decode(path.read_bytes(), type=Report) if path.exists() else None


def row_of(name: str, form: str, samples: Sequence[float]) -> Row:
    """Return the row of a declared figure from its samples, rounded to what a reader can use."""
    figure = BY_NAME[name]
    p50, p99 = (_rounded(percentile(samples, share)) for share in (0.5, 0.99))
    value = p99 if figure.judged == "p99" else p50
    direction = "higher" if figure.higher_is_better else "lower"
    met = figure.meets(form, value)
    return Row(name, form, figure.unit, len(samples), p50, p99, figure.judged, direction, figure.aims.get(form), met)


def _rounded(value: float) -> float:
    """Four figures are more than any of these is good for."""
    return float(f"{value:.4g}")


class Watch:
    """The machine's load over a run: begins when it is made."""

    def __init__(self) -> None:
        self._load_before = os.getloadavg()[0]
        self._stolen, self._all = _processor_ticks()

    def machine(self) -> Machine:
        """Return the machine as it was from then until now."""
        stolen, everything = _processor_ticks()
        share = (stolen - self._stolen) / max(1, everything - self._all) * 100
        loads = (round(self._load_before, 2), round(os.getloadavg()[0], 2))
        return Machine(platform.machine(), os.cpu_count() or 1, platform.python_version(), *loads, round(share, 2), os.nice(0))


def _processor_ticks() -> tuple[int, int]:
    """Return the ticks stolen, and all of them, since the machine started."""
    numbers = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return numbers[7], sum(numbers)


def report_of(rows: Sequence[Row], left_out: Sequence[LeftOut], machine: Machine, *, is_short: bool) -> Report:
    """Return a report with its rows in the order in which figures are declared."""
    order = list(BY_NAME)
    ordered = sorted(rows, key=lambda row: order.index(row.name))
    return Report(__version__, is_short, machine, tuple(ordered), tuple(left_out))
