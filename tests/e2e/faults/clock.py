"""A wall clock of its own for one process, to be set while it runs, by a preloaded library: no clock of the machine moves.

A time namespace would not do: it shifts the monotonic clocks, and the wall clock is the one clock that it leaves alone.
"""

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("clock.c")
DAY_SECONDS = 86400


class Clock:
    """The clock of what is started with `environment`."""

    def __init__(self, folder: Path) -> None:
        """Compile the library into a folder. Skips the test where there is no compiler."""
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            pytest.skip("needs a C compiler")
        library = folder / "clock.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE], check=True, capture_output=True)
        self._file = folder / "clock.shift"
        self._file.write_bytes(struct.pack("q", 0))
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_SHIFT": str(self._file)}

    def set(self, seconds: int) -> None:
        """Let the clock be so many seconds ahead of the machine's from now on."""
        with self._file.open("r+b", buffering=0) as file:
            file.write(struct.pack("q", seconds))
