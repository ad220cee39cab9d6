"""What standard output is: a terminal with a width and colours, or something else."""

import os
import sys

from mortalgpu.mgctl.text import Paint, clip

_CLEAR, _HOME, _CLEAR_REST, _CLEAR_BELOW = "\x1b[2J", "\x1b[H", "\x1b[K", "\x1b[J"


def is_terminal() -> bool:
    """Whether standard output is a terminal that can place its cursor."""
    return sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def paint() -> Paint:
    """Return colours if the terminal has them and the user has not declined them (no-color.org)."""
    return Paint(is_terminal() and not os.environ.get("NO_COLOR"))


def width() -> int:
    """Return the terminal's columns; 0 when standard output is no terminal."""
    return size()[0] if sys.stdout.isatty() else 0


def size() -> tuple[int, int]:
    """Return the terminal's columns and rows; 80 by 24 when it does not tell."""
    try:
        columns, rows = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return 80, 24
    return columns or 80, rows or 24


def show(lines: list[str]) -> None:
    """Write lines at once."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def redraw(lines: list[str], *, first: bool = False) -> None:
    """Replace what the terminal shows by these lines, as far as they fit; without a flicker. The first time it is cleared."""
    columns, rows = size()
    kept = lines if len(lines) < rows else [*lines[: rows - 2], f"… {len(lines) - rows + 2} more lines"]
    picture = "".join(f"{clip(line, columns)}{_CLEAR_REST}\n" for line in kept)
    sys.stdout.write(f"{_CLEAR if first else ''}{_HOME}{picture}{_CLEAR_BELOW}")
    sys.stdout.flush()
