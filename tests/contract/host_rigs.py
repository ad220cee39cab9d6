"""The same machine made two ways for the contract suite: the twin, and real processes in real cgroups.

A rig makes containers and processes; the suite asks its table. A stubborn process ignores SIGTERM.
"""

import signal
import subprocess
import sys
from collections.abc import Iterator
from math import inf
from typing import Protocol

import pytest

from mortalgpu.host.base import ProcessTable
from mortalgpu.host.table import ProcfsTable
from mortalgpu.model.pod import ContainerRef
from mortalgpu.simulation.host import SimulatedHost, Temper
from tests.standin.cgroups import Box, KubepodsTree, move, needs_unified

IGNORE_TERM = "import signal, time; signal.signal(15, signal.SIG_IGN); print('set', flush=True); time.sleep(60)"


class Rig(Protocol):
    """A machine whose processes a test may make, move and end."""

    @property
    def table(self) -> ProcessTable: ...

    def container(self) -> ContainerRef:
        """Make a container."""

    def start(self, container: ContainerRef | None, *, stubborn: bool = False) -> int:
        """Start `sleep 60` (or something stubborn) and return its pid; None: outside of Kubernetes."""

    def move(self, pid: int, container: ContainerRef) -> None:
        """Move a process to another container."""

    def end(self, pid: int) -> None:
        """End a process and reap it, not by the port."""

    def fate(self, pid: int) -> str | None:
        """By which signal it ended; None while it runs. Asked only of processes that the port was to kill."""


class SimulatedRig:
    """The twin."""

    def __init__(self) -> None:
        self._host = SimulatedHost()
        self._made = 0

    @property
    def table(self) -> ProcessTable:
        return self._host

    def container(self) -> ContainerRef:
        self._made += 1
        return ContainerRef(f"00000000-0000-4000-8000-{self._made:012x}", f"{self._made:064x}")

    def start(self, container: ContainerRef | None, *, stubborn: bool = False) -> int:
        return self._host.start(container, command="sleep 60", temper=Temper(term_seconds=inf if stubborn else 0.0)).pid

    def move(self, pid: int, container: ContainerRef) -> None:
        self._host.move(pid, container)

    def end(self, pid: int) -> None:
        self._host.exit(pid)

    def fate(self, pid: int) -> str | None:
        return None if self._host.running(pid) else self._host.signals[-1].name


class RealRig:
    """Real processes in cgroups shaped as kubelet's, under the real adapter."""

    def __init__(self, tree: KubepodsTree, table: ProcfsTable) -> None:
        self.table: ProcessTable = table
        self._tree = tree
        self._boxes: dict[ContainerRef, Box] = {}
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def container(self) -> ContainerRef:
        box = self._tree.container()
        self._boxes[box.ref] = box
        return box.ref

    def start(self, container: ContainerRef | None, *, stubborn: bool = False) -> int:
        box = None if container is None else self._boxes[container]
        command = [sys.executable, "-c", IGNORE_TERM] if stubborn else ["sleep", "60"]
        process = self._tree.run(box, command, stdout=subprocess.PIPE)
        if stubborn:
            assert process.stdout is not None
            assert process.stdout.readline() == b"set\n"
        self._running[process.pid] = process
        return process.pid

    def move(self, pid: int, container: ContainerRef) -> None:
        move(pid, self._boxes[container])

    def end(self, pid: int) -> None:
        self._running[pid].kill()
        self._running[pid].wait(20)

    def fate(self, pid: int) -> str | None:
        code = self._running[pid].poll()
        return None if code is None else signal.Signals(-code).name


@pytest.fixture(params=["twin", pytest.param("real", marks=needs_unified.marks)])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    if request.param == "twin":
        yield SimulatedRig()
        return
    with KubepodsTree.unified() as tree, ProcfsTable() as table:
        yield RealRig(tree, table)
