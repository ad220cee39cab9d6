"""Which release this is: the version, and the commit where a build noted it. Knows no git: only a frozen tree has the note."""

from pathlib import Path

from mortalgpu import __version__

_NOTE = "release.txt"
"""Beside this module in a frozen tree: the version, then the commit, a line each."""


def text(folder: Path | None = None) -> str:
    """Return `0.1.0 (commit 0123456789ab)`, or the version alone where nobody noted a commit. `folder` is this module's own."""
    try:
        lines = ((folder or Path(__file__).parent) / _NOTE).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return __version__
    version, commit = [*lines, "", ""][:2]
    return f"{version or __version__} (commit {commit})" if commit else version or __version__
