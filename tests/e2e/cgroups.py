"""A cgroup subtree of the test's own: kubelet's pods go into it, and every process that the node started can be found in it.

Works with cgroup v1 (one tree per controller) and v2. Only processes in a subtree that this module made are ever signalled.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path

from tests.e2e.waiting import eventually

ROOT = Path("/sys/fs/cgroup")
PREFIX = "mortalgpu-e2e-"
"""Then the test run's pid, so that a later run can tell what a killed one left behind."""
DAEMONS = "daemons"
END_SECONDS = 10


class Subtree:
    """The cgroup `name` in every hierarchy of this machine."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.unified = (ROOT / "cgroup.controllers").exists()
        self.folders = [base / name for base in hierarchies()]

    def create(self) -> None:
        """Make it, usable as kubelet's cgroupRoot, with a child for the node's daemons. Raises OSError."""
        for folder in self.folders:
            folder.mkdir(exist_ok=True)
            for setting in ("cpuset.cpus", "cpuset.mems"):
                if (folder / setting).exists() and not self.unified:
                    (folder / setting).write_text((folder.parent / setting).read_text())
        if self.unified:
            enabled = (self.folders[0] / "cgroup.controllers").read_text().split()
            (self.folders[0] / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in enabled))
        self._daemons().mkdir(exist_ok=True)

    @property
    def daemons_listing(self) -> Path:
        """The file to which a process writes its pid to belong to the subtree, with all that it starts."""
        return self._daemons() / "cgroup.procs"

    def processes(self) -> set[int]:
        """Return the pids in it, at any depth."""
        pids: set[int] = set()
        for folder in self.folders:
            for listing in folder.rglob("cgroup.procs"):
                with suppress(OSError):
                    pids.update(int(word) for word in listing.read_text().split())
        return pids

    def remove(self) -> None:
        """Kill what is in it and remove it. Raises AssertionError when something in it does not end."""
        eventually(f"the end of all processes in cgroup {self.name}", self._kill_all, seconds=END_SECONDS)
        for folder in self.folders:
            for path, _, _ in os.walk(folder, topdown=False):
                with suppress(FileNotFoundError):
                    os.rmdir(path)

    def _kill_all(self) -> bool:
        pids = self.processes()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids

    def _daemons(self) -> Path:
        pids = [folder for folder in self.folders if folder.parent.name == "pids"]
        return (pids or self.folders)[0] / DAEMONS


def hierarchies() -> list[Path]:
    """Return the mount points of the cgroup hierarchies: one on v2; one per controller on v1, and the v2 one beside them."""
    if (ROOT / "cgroup.controllers").exists():
        return [ROOT]
    return [path for path in sorted(ROOT.iterdir()) if path.is_dir() and not path.is_symlink()]


def remove_leftovers() -> None:
    """Remove the subtrees of test runs that are no more."""
    for base in hierarchies():
        for folder in base.glob(f"{PREFIX}*"):
            owner = folder.name.removeprefix(PREFIX).split("-")[0]
            if owner.isdecimal() and not Path(f"/proc/{owner}").exists():
                Subtree(folder.name).remove()
