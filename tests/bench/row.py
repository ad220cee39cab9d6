"""One figure of the bench: what was measured, the figure, and what it aims at."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """`aim` is the highest figure that is good enough; None where nothing was promised."""

    name: str
    value: float
    unit: str
    aim: float | None = None

    @property
    def verdict(self) -> str:
        """Say whether the aim was met; empty without one."""
        if self.aim is None:
            return ""
        return "met" if self.value <= self.aim else "MISSED"

    def document(self) -> dict[str, object]:
        """Return the row as it stands in the JSON file."""
        return {**asdict(self), "met": None if self.aim is None else self.value <= self.aim}


def percentile(values: list[float], share: float) -> float:
    """Return the value below which this share of all values lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def table(rows: list[Row]) -> str:
    """Return the rows for people, in aligned columns."""
    cells = [("FIGURE", "VALUE", "UNIT", "AIM", "")]
    cells += [(row.name, f"{row.value:.2f}", row.unit, "" if row.aim is None else f"{row.aim:g}", row.verdict) for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(5)]
    lines = []
    for name, *figures, verdict in cells:
        padded = [text.rjust(width) for text, width in zip(figures, widths[1:4], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *padded, verdict]).rstrip())
    return "\n".join(lines)
