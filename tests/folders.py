"""Folders for sockets, whose paths must be short: 107 bytes in all, which pytest's own folders may exceed."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def short_folder() -> Iterator[Path]:
    """Make a folder with a short path, gone after the block with all that is in it."""
    folder = Path(tempfile.mkdtemp(prefix="mg-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
