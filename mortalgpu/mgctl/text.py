"""Text for terminals: harmless, coloured where that helps, in columns. Pure.

Pods, users and command lines are named by tenants: nothing of theirs reaches a terminal that could move its cursor, change
its colours or turn its direction.
"""

GREEN, YELLOW, RED, FAINT, BOLD = "32", "33", "31", "2", "1"
ELLIPSIS = "…"
_GAP = "  "


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
    """Return the lines of a table. With a `width` above 0, the column number `elastic` is cut so that lines fit."""
    widths = [max([len(name), *(len(row[place].text) for row in rows)]) for place, name in enumerate(header)]
    if width and elastic >= 0:
        rest = sum(widths) - widths[elastic] + len(_GAP) * (len(widths) - 1)
        widths[elastic] = max(len(header[elastic]), min(widths[elastic], width - rest))
    lines = [_line([Cell(name, BOLD) for name in header], widths, paint, width)]
    if ruled:
        lines.append(cut(_GAP.join("─" * size for size in widths), width or sum(widths) * 2 + 99))
    return lines + [_line(row, widths, paint, width) for row in rows]


def _line(cells: list[Cell], widths: list[int], paint: Paint, width: int) -> str:
    """Return one line: colours are put around text of the right width, since terminals do not count them."""
    room = width or sum(widths) + len(_GAP) * len(widths)
    parts = []
    last = len(cells) - 1
    for place, (cell, size) in enumerate(zip(cells, widths, strict=True)):
        text = cut(cell.text, size)
        padded = text if place == last else text.ljust(size)
        gap = _GAP if place else ""
        shown = cut(gap + padded, room)
        room -= len(shown)
        parts.append(paint(shown, cell.colour))
    return "".join(parts).rstrip()
