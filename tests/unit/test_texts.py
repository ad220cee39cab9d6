"""Foreign text on a line of ours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mortalgpu.texts import one_line


@given(st.text(max_size=300), st.integers(1, 256))
def test_any_text_becomes_one_printable_line_of_bounded_length(text: str, longest: int) -> None:
    shown = one_line(text, longest)
    assert shown.isprintable()
    assert len(shown) <= longest
    assert shown.endswith("…") or len(text) <= longest


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("größe 🐍", "größe 🐍"),
        ("two\nlines\tand\u2028more", "two lines and more"),
        ("\x1b[2J\u202ered", "?[2J?red"),
        ("x" * 11, "x" * 9 + "…"),
        ("x" * 10, "x" * 10),
        ("", ""),
    ],
)
def test_what_it_looks_like(text: str, shown: str) -> None:
    assert one_line(text, 10 if text.startswith("x") else 100) == shown
