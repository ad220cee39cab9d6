"""Words for what is wrong with a value or a key."""

import difflib
from collections.abc import Sequence

LONGEST_SHOWN = 200
"""Characters of somebody's text that a message shows."""


def kind_of(value: object) -> str:
    """Return the name of what a value is, as msgspec has it."""
    return {list: "array", str: "str", type(None): "null"}.get(type(value), type(value).__name__)


def suggestion(name: str, names: Sequence[str]) -> str:
    """Return the end of a message about an unknown name: the known one that is like it, else all of them."""
    close = difflib.get_close_matches(name, names, 1, 0.6)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known here: {', '.join(sorted(names))}" if names else ""
