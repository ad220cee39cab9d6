"""Going ahead of the neighbours, and back."""

import os
from contextlib import suppress
from pathlib import Path

import pytest

from tests.bench.priority import NICENESS, ahead


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_priority_holds_for_the_block_and_is_given_back_when_it_fails() -> None:
    group = Path("/proc/self/autogroup")
    before = os.nice(0), group.read_text() if group.exists() else ""
    with suppress(KeyError), ahead():
        assert os.nice(0) == NICENESS
        assert not group.exists() or group.read_text().endswith(f"nice {NICENESS}\n")
        raise KeyError
    assert (os.nice(0), group.read_text() if group.exists() else "") == before
