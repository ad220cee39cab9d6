"""`python -m tests.bench.profiled FILE WORDS…`: `mortalgpu WORDS…`, with the event loop's thread profiled between two SIGUSR1.

At the second one the profile is in FILE, for pstats. Only what runs in that thread is seen: driver calls are not.
"""

import cProfile
import signal
import sys
from pathlib import Path

from mortalgpu.__main__ import main


class Switch:
    """Starts at the first signal, writes and ends at the second."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._profile: cProfile.Profile | None = None

    def __call__(self, *_: object) -> None:
        if self._profile is None:
            self._profile = cProfile.Profile()
            self._profile.enable()
            return
        self._profile.disable()
        draft = self._path.with_suffix(".new")
        self._profile.dump_stats(draft)
        draft.rename(self._path)
        self._profile = None


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, Switch(Path(sys.argv[1])))
    main(sys.argv[2:])
