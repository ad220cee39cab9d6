"""Going ahead of the neighbours, and back, wherever the process was started."""

import os
from contextlib import suppress
from pathlib import Path

import pytest

from tests.bench.priority import NICENESS, ahead

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def test_the_process_goes_ahead_and_is_given_back_when_the_block_fails(tmp_path: Path) -> None:
    before = os.nice(0)
    with suppress(KeyError), ahead(tmp_path / "a kernel without sessions' groups"):
        assert os.nice(0) == NICENESS
        raise KeyError
    assert os.nice(0) == before


def test_the_session_goes_ahead_and_is_given_back_when_the_block_fails(tmp_path: Path) -> None:
    group = tmp_path / "autogroup"
    group.write_text("/autogroup-97 nice 3\n")
    with suppress(KeyError), ahead(group):
        assert group.read_text() == f"{NICENESS}\n"
        raise KeyError
    assert group.read_text() == "3\n"


def test_a_process_without_a_session_of_its_own_goes_ahead_alone(tmp_path: Path) -> None:
    group = tmp_path / "autogroup"
    group.write_text("")
    with ahead(group):
        assert os.nice(0) == NICENESS
        assert group.read_text() == ""


def test_the_kernels_own_file_is_as_before_when_the_block_ends() -> None:
    group = Path("/proc/self/autogroup")
    before = group.read_text() if group.exists() else ""
    with ahead(group):
        assert not before or group.read_text().endswith(f"nice {NICENESS}\n")
    assert (group.read_text() if group.exists() else "") == before
