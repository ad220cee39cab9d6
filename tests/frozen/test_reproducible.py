"""The same commit gives the same bytes, wherever it is built."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.frozen import built

pytestmark = [pytest.mark.frozen, pytest.mark.slow, pytest.mark.timeout(600)]

FREEZE = ("/usr/bin/python3.11", "packaging/binary/freeze.py", "binary", "mgctl")


def build_in(folder: Path, cache: Path, source: Path) -> dict[str, bytes]:
    """Build a clone of a checkout's commit and return every file that came out, by path."""
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", source, folder], check=True)
    subprocess.run(FREEZE, cwd=folder, env={**os.environ, "XDG_CACHE_HOME": str(cache)}, check=True, capture_output=True)
    output = folder / "build"
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in output.rglob("*") if path.is_file()}


def test_two_builds_in_different_places_are_the_same_to_the_byte(tmp_path: Path) -> None:
    built.binary()
    if not Path(FREEZE[0]).exists() or not (built.BUILD.parent / ".git").exists():
        pytest.skip("building needs Debian's Python and a git checkout")
    first = build_in(tmp_path / "here", tmp_path / "cache", built.BUILD.parent)
    second = build_in(tmp_path / "another" / "place", tmp_path / "another" / "cache", tmp_path / "here")
    assert "mortalgpu" in first
    assert [name for name in first if first[name] != second.get(name)] == []
    assert first.keys() == second.keys()
