"""A machine that boots: a Debian under its own systemd, in a container without this machine's network or processes.

It needs root, systemd-nspawn, and cgroups that may be written. Everything it made is gone after `stop`.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.e2e.process import Process
from tests.e2e.waiting import eventually
from tests.started import Started

BOOT_SECONDS = 60.0
HIERARCHIES = ("systemd", "unified", "")
"""Where systemd's own cgroup hierarchy is: on version 1, on a mix, on version 2."""


class Machine(Started):
    """A booted tree; `binds` are folders of this machine, writable, by their place in it."""

    def __init__(self, folder: Path, binds: Mapping[str, Path]) -> None:
        if os.geteuid() != 0 or shutil.which("systemd-nspawn") is None:
            pytest.skip("booting a container needs root and systemd-nspawn (Debian package systemd-container)")
        self.folder = folder
        self._binds = binds
        self._cgroups = cgroups_for(f"mortalgpu-boot-{os.getpid()}")
        self._process: Process | None = None
        self._leader = 0

    def start(self) -> None:
        """Boot it; returns when its systemd answers. Raises AssertionError with what it said."""
        for cgroup in self._cgroups:
            cgroup.mkdir(exist_ok=True)
        join = "".join(f"echo $$ >'{cgroup}/cgroup.procs'; " for cgroup in self._cgroups)
        command = ["systemd-nspawn", "--quiet", "--directory", str(self.folder), "--boot", "--register=no", "--keep-unit"]
        command += ["--private-network", "--console=read-only", *(f"--bind={ours}:{its}" for its, ours in self._binds.items())]
        self._process = Process("nspawn", ["/bin/sh", "-ec", f'{join} exec "$@"', "sh", *command], self.folder / "boot.log")
        try:
            eventually("the container's first process", self._find_leader, seconds=10)
            eventually("systemd inside", self._is_up, seconds=BOOT_SECONDS, every_seconds=0.2)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._process.log()[-2000:]}") from None

    def run(self, *argv: str, seconds: float = 60) -> "subprocess.CompletedProcess[str]":
        """Run a command inside."""
        command = ["nsenter", "--target", str(self._leader), "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd"]
        return subprocess.run([*command, *argv], capture_output=True, text=True, check=False, timeout=seconds)

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.run("/usr/bin/systemctl", "show", "--property", name, "--value", unit).stdout.strip()

    def journal(self, unit: str) -> str:
        """Return what a unit has logged."""
        return self.run("/usr/bin/journalctl", "--no-pager", "--output=cat", "--unit", unit).stdout

    def stop(self) -> None:
        """End it with everything in it."""
        if self._leader:
            os.kill(self._leader, signal.SIGKILL)
        if self._process is not None:
            self._process.terminate()
        for cgroup in self._cgroups:
            subprocess.run(
                ["find", cgroup, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"], check=False, capture_output=True
            )

    def _find_leader(self) -> bool:
        assert self._process is not None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        inside = [int(child) for child in children if Path(f"/proc/{child}/comm").read_text().strip() == "systemd"]
        self._leader = inside[0] if inside else 0
        return bool(inside)

    def _is_up(self) -> bool:
        assert self._process is not None
        assert self._process.running, "the container has ended"
        return self.run("/usr/bin/systemctl", "is-system-running").stdout.strip() in ("running", "degraded")


def cgroups_for(name: str) -> list[Path]:
    """Return where a container's cgroups go, in each hierarchy that systemd keeps; skips the test where they cannot be made."""
    top = Path("/sys/fs/cgroup")
    found = [top / part / name for part in HIERARCHIES if part and (top / part / "cgroup.procs").exists()]
    cgroups = found or [top / name]
    if not os.access(cgroups[0].parent, os.W_OK):
        pytest.skip("the cgroup tree is not writable here")
    return cgroups
