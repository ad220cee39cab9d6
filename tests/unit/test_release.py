"""What `--version` says of a frozen program, and of one that carries no note."""

from pathlib import Path

import pytest

from mortalgpu import __version__, release


def test_a_frozen_program_names_its_commit(tmp_path: Path) -> None:
    (tmp_path / "release.txt").write_text("1.2.3\n0123456789ab\n")
    assert release.text(tmp_path) == "1.2.3 (commit 0123456789ab)"


@pytest.mark.parametrize("note", [b"", b"\n\n", b"\xff\xfe"], ids=["empty", "blank", "no text"])
def test_a_damaged_note_leaves_the_version(tmp_path: Path, note: bytes) -> None:
    (tmp_path / "release.txt").write_bytes(note)
    assert release.text(tmp_path) == __version__


def test_without_a_note_the_version_stands_alone(tmp_path: Path) -> None:
    assert release.text(tmp_path) == __version__
