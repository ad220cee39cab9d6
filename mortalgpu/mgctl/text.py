"""Text for terminals: harmless, coloured where that helps, in columns. Pure.

Pods, users and command lines are named by tenants: nothing of theirs reaches a terminal that could move its cursor, change
its colours or turn its direction.
"""

import re

GREEN, YELLOW, RED, FAINT, BOLD = "32", "33", "31", "2", "1"
ELLIPSIS = "…"
_GAP = "  "
_ELASTIC_LEAST = 12
_COLOUR = "\x1b\\[[0-9]*m"


def harmless(text: str) -> str:
    """Replace every character that is not printable, and so every control character, by a question mark."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


def cut(text: str, width: int) -> str:
    """Return text of at most `width` characters, with an ellipsis where it was cut."""
    if len(text) <= width:
        return text
    return text[: width - 1] + ELLIPSIS if width > 0 else ""


class Cell:
    """One cell of a table: a harmless text, and the colour it may have."""

    __slots__ = ("colour", "text")

    def __init__(self, text: str, colour: str = "") -> None:
        self.text = harmless(text)
        self.colour = colour


class Paint:
    """Colours text, or leaves it as it is."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled

    def __call__(self, text: str, colour: str) -> str:
        """Return the text in a colour; an empty colour is none."""
        return f"\x1b[{colour}m{text}\x1b[0m" if self.enabled and colour and text else text


PLAIN = Paint(False)


def table(
    header: list[str], rows: list[list[Cell]], paint: Paint, *, width: int = 0, elastic: int = -1, ruled: bool = False
) -> list[str]:
    """Return the lines of a table.

    With a `width` above 0 the column number `elastic` is cut, as far as it can be, so that lines fit. Nothing else is cut: a
    terminal wraps what is still too long, and nobody misses a number.
    """
    widths = [max([len(name), *(len(row[place].text) for row in rows)]) for place, name in enumerate(header)]
    if width and elastic >= 0:
        rest = sum(widths) - widths[elastic] + len(_GAP) * (len(widths) - 1)
        widths[elastic] = min(widths[elastic], max(len(header[elastic]), _ELASTIC_LEAST, width - rest))
    lines = [_line([Cell(name, BOLD) for name in header], widths, paint)]
    if ruled:
        lines.append(_GAP.join("─" * size for size in widths))
    return lines + [_line(row, widths, paint) for row in rows]


def _line(cells: list[Cell], widths: list[int], paint: Paint) -> str:
    """Return one line: colours are put around text of the right width, since terminals do not count them."""
    last = len(cells) - 1
    sized = enumerate(zip(cells, widths, strict=True))
    padded = [cut(cell.text, size).ljust(size if place < last else 0) for place, (cell, size) in sized]
    return _GAP.join(paint(text, cell.colour) for text, cell in zip(padded, cells, strict=True)).rstrip()


def clip(line: str, width: int) -> str:
    """Cut a line that may hold colours of ours to `width` characters that show; the colours stay."""
    parts = re.split(f"({_COLOUR})", line)
    if sum(len(part) for part in parts[::2]) <= width:
        return line
    room = max(0, width - 1)
    kept = []
    for place, part in enumerate(parts):
        is_colour = place % 2 == 1
        kept.append(part if is_colour else part[:room])
        room -= 0 if is_colour else min(room, len(part))
    return "".join(kept) + ELLIPSIS[:width]
