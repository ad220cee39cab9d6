"""Text for terminals: harmless, coloured where that helps, in columns. Pure.

Pods, users and command lines are named by tenants: nothing of theirs reaches a terminal that could move its cursor, change
its colours or turn its direction.
"""

import re

GREEN, YELLOW, RED, FAINT, BOLD = "32", "33", "31", "2", "1"
ELLIPSIS = "…"
_GAP = "  "
_COLOUR = "\x1b\\[[0-9]*m"

# Unicode's East Asian Width "W" and "F", and its combining marks, as far as names and commands have them. A table of our own,
# since `unicodedata` would have to be in every container.
_WIDE = (
    *((0x1100, 0x115F), (0x2E80, 0x303E), (0x3041, 0xA4CF), (0xA960, 0xA97C), (0xAC00, 0xD7A3), (0xF900, 0xFAFF)),
    *((0xFE10, 0xFE19), (0xFE30, 0xFE6F), (0xFF01, 0xFF60), (0xFFE0, 0xFFE6), (0x1F300, 0x1F64F), (0x1F680, 0x1F6FF)),
    *((0x1F900, 0x1FAFF), (0x20000, 0x3FFFD)),
)
_COMBINING = (
    *((0x0300, 0x036F), (0x0483, 0x0489), (0x0591, 0x05BD), (0x064B, 0x065F), (0x0E34, 0x0E3A), (0x1AB0, 0x1AFF)),
    *((0x1DC0, 0x1DFF), (0x20D0, 0x20F0), (0xFE00, 0xFE0F), (0xFE20, 0xFE2F)),
)


def harmless(text: str) -> str:
    """Replace every character that is not printable, and so every control character, by a question mark."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


def columns(text: str) -> int:
    """Return how many columns of a terminal a harmless text takes: East Asian characters two, combining ones none."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(char: str) -> int:
    code = ord(char)
    return 1 + (code >= _WIDE[0][0] and _is_in(code, _WIDE)) - (code >= _COMBINING[0][0] and _is_in(code, _COMBINING))


def _is_in(code: int, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= code <= last for first, last in ranges)


def start(text: str, width: int) -> str:
    """Return as much of the beginning of a text as fits in `width` columns."""
    if text.isascii():
        return text[: max(0, width)]
    taken = 0
    for place, char in enumerate(text):
        taken += _columns(char)
        if taken > width:
            return text[:place]
    return text


def cut(text: str, width: int) -> str:
    """Return text of at most `width` columns, with an ellipsis where it was cut."""
    if columns(text) <= width:
        return text
    return start(text, width - 1) + ELLIPSIS if width > 0 else ""


def padded(text: str, width: int) -> str:
    """Return a text with spaces after it, so that it takes `width` columns."""
    return text + " " * (width - columns(text))


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
    header: list[str],
    rows: list[list[Cell]],
    paint: Paint,
    *,
    width: int = 0,
    elastic: tuple[tuple[int, int], ...] = (),
    ruled: bool = False,
) -> list[str]:
    """Return the lines of a table.

    With a `width` above 0 the columns of `elastic` (number, least width) are cut one after the other, as far as they can be,
    until lines fit. Nothing else is cut: a terminal wraps what is still too long, and nobody misses a number.
    """
    widths = [max([len(name), *(columns(row[place].text) for row in rows)]) for place, name in enumerate(header)]
    for place, least in elastic if width else ():
        excess = sum(widths) + len(_GAP) * (len(widths) - 1) - width
        widths[place] = min(widths[place], max(len(header[place]), least, widths[place] - max(0, excess)))
    lines = [_line([Cell(name, BOLD) for name in header], widths, paint)]
    if ruled:
        lines.append(_GAP.join("─" * size for size in widths))
    return lines + [_line(row, widths, paint) for row in rows]


def _line(cells: list[Cell], widths: list[int], paint: Paint) -> str:
    """Return one line: colours are put around text of the right width, since terminals do not count them."""
    last = len(cells) - 1
    sized = enumerate(zip(cells, widths, strict=True))
    texts = [padded(cut(cell.text, size), size if place < last else 0) for place, (cell, size) in sized]
    return _GAP.join(paint(text, cell.colour) for text, cell in zip(texts, cells, strict=True)).rstrip()


def clip(line: str, width: int) -> str:
    """Cut a line that may hold colours of ours to `width` columns; the colours stay."""
    parts = re.split(f"({_COLOUR})", line)
    if sum(columns(part) for part in parts[::2]) <= width:
        return line
    room = max(0, width - 1)
    kept = []
    for place, part in enumerate(parts):
        is_colour = place % 2 == 1
        shown = part if is_colour else start(part, room)
        kept.append(shown)
        # After the first part that was cut nothing fits, however narrow it is.
        room = room if is_colour else room - columns(shown) if shown == part else 0
    return "".join(kept) + ELLIPSIS[:width]
