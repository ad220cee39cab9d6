"""What a container was told of its shares, and what may be believed of it."""

import pytest

from mortalgpu.model.grant import Grant
from mortalgpu.sharing.evidence import agreed_totals, parse_shares, shares_text
from tests.unit.sharing.devices import shared


def test_the_text_of_a_grant_reads_back() -> None:
    grant = Grant("example.com/gpu", (), {"GPU-a": 2, "GPU-b": 10}, {})
    text = shares_text(grant, {"GPU-a": shared("GPU-a", 5), "GPU-b": shared("GPU-b", 10)})
    assert text == "GPU-a=2/5;GPU-b=10/10"
    assert parse_shares(text) == {"GPU-a": (2, 5), "GPU-b": (10, 10)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "GPU-a",
        "GPU-a=",
        "GPU-a=2",
        "GPU-a=2/",
        "=2/5",
        "GPU-a=-2/5",
        "GPU-a=6/5",
        "GPU-a=0/5",
        "GPU-a=²/5",
        "GPU-a=1/1000000000",
    ],
)
def test_a_part_that_cannot_be_true_is_skipped(text: str) -> None:
    assert parse_shares(f"{text};GPU-b=1/2") == {"GPU-b": (1, 2)}


def test_the_total_that_most_containers_tell_counts() -> None:
    assert agreed_totals(["GPU-a=1/7", "GPU-a=1/9", "GPU-a=2/7;GPU-b=1/3"]) == {"GPU-a": 7, "GPU-b": 3}
