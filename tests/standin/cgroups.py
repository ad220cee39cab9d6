"""STAND-IN for kubelet and the runtime: real cgroups shaped as kubelet's, with real processes in them.

    with KubepodsTree.unified() as tree:
        box = tree.container()
        process = tree.run(box, ["sleep", "60"])      # a subprocess.Popen, inside before its first instruction
        ...                                           # box.ref is what must be read from its cgroup

Each tree has a root of its own, so that suites may run at the same time, and takes everything down when it is left: the
processes in its cgroups first, whoever started them. Needs root on Linux; `needs_unified` and `needs_v1(controller)` are the
marks for tests that use it.
"""

import os
import secrets
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import pytest

from mortalgpu.model.pod import ContainerRef

Test = TypeVar("Test", bound=Callable[..., object])

_PATIENCE_SECONDS = 20.0
_LOOK_EVERY_SECONDS = 0.002


@dataclass(frozen=True)
class Box:
    """One container's cgroup, and the reference that must be read from it."""

    path: Path
    ref: ContainerRef

    def pids(self) -> list[int]:
        """The processes directly in it."""
        return [int(pid) for pid in (self.path / "cgroup.procs").read_text().split()]


class KubepodsTree:
    """A `kubepods` tree below a root of its own in the hierarchy mounted at `mount`. Use it in a `with` block."""

    def __init__(self, mount: Path) -> None:
        self.root = mount / f"mortalgpu-test-{os.getpid()}-{secrets.token_hex(4)}"
        self._started: list[subprocess.Popen[bytes]] = []

    @classmethod
    def unified(cls) -> Self:
        """A tree in the cgroup v2 hierarchy."""
        return cls(_mount_of("cgroup2") or _missing("cgroup2"))

    @classmethod
    def v1(cls, controller: str) -> Self:
        """A tree in the v1 hierarchy of a controller."""
        return cls(_mount_of("cgroup", controller) or _missing(f"cgroup v1 {controller}"))

    def container(self, pod_uid: str = "", container_id: str = "", *, systemd: bool = False) -> Box:
        """Make a burstable pod's container; ids not given are new ones. `systemd` names it as the systemd driver does."""
        ref = ContainerRef(pod_uid or str(uuid.uuid4()), container_id or secrets.token_hex(32))
        if systemd:
            pod = f"kubepods-burstable-pod{ref.pod_uid.replace('-', '_')}.slice"
            below = f"kubepods.slice/kubepods-burstable.slice/{pod}/cri-containerd-{ref.container_id}.scope"
        else:
            below = f"kubepods/burstable/pod{ref.pod_uid}/{ref.container_id}"
        return Box(self._made(below), ref)

    def nested(self, box: Box, below: str) -> Path:
        """Make a cgroup inside of a container, as a tenant could, and return its path."""
        return self._made(str(box.path.relative_to(self.root) / below))

    def run(self, box: Box | Path | None, command: Sequence[str], *, stdout: int | None = None) -> "subprocess.Popen[bytes]":
        """Start a command in a cgroup (None: where we are) and return when it is running there."""
        gate = ["/bin/sh", "-c", 'read -r go; exec "$@"', "sh", *command]
        process = subprocess.Popen(gate, stdin=subprocess.PIPE, stdout=stdout, stderr=subprocess.DEVNULL)
        self._started.append(process)
        if box is not None:
            move(process.pid, box)
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.close()
        expected = "\0".join(command).encode() + b"\0"
        wait_until(lambda: process.poll() is not None or _read(f"/proc/{process.pid}/cmdline") == expected)
        return process

    def take_down(self) -> None:
        """End every process in the tree and remove it."""
        for folder in self._folders():
            _end_all_in(folder)
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait(_PATIENCE_SECONDS)
            if process.stdout is not None:
                process.stdout.close()
        for folder in self._folders():
            wait_until(lambda folder=folder: _removed(folder))  # type: ignore[misc]

    def __enter__(self) -> Self:
        self.root.mkdir()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.take_down()

    def _made(self, below: str) -> Path:
        path = self.root / below
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _folders(self) -> list[Path]:
        """Deepest first."""
        return [Path(folder) for folder, _, _ in os.walk(self.root, topdown=False)]


def move(pid: int, where: Box | Path) -> None:
    """Move a process, all its threads, into a cgroup."""
    path = where.path if isinstance(where, Box) else where
    (path / "cgroup.procs").write_text(f"{pid}\n")


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds; fails after twenty seconds."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        pause.wait(_LOOK_EVERY_SECONDS)


def _mount_of(kind: str, option: str = "") -> Path | None:
    """Where a hierarchy is mounted, if it may be written."""
    for line in (_read("/proc/self/mounts") or b"").decode().splitlines():
        _, where, found, options, *_ = line.split(" ")
        if found == kind and (not option or option in options.split(",")) and os.access(where, os.W_OK):
            return Path(where)
    return None


def _missing(what: str) -> Path:
    raise RuntimeError(f"no {what} hierarchy may be written here: run as root, or skip by the mark")


def _read(path: str) -> bytes | None:
    try:
        return Path(path).read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _end_all_in(folder: Path) -> None:
    for pid in (_read(str(folder / "cgroup.procs")) or b"").split():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue


def _removed(folder: Path) -> bool:
    _end_all_in(folder)
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class Needs:
    """Marks of a test, to decorate it with; `marks` is for a `pytest.param`."""

    marks: tuple[pytest.MarkDecorator, ...]

    def __call__(self, test: Test) -> Test:
        for mark in self.marks:
            test = mark(test)
        return test


def _needs(mount: Path | None, what: str) -> Needs:
    missing = mount is None or os.geteuid() != 0
    return Needs((pytest.mark.root, pytest.mark.skipif(missing, reason=f"needs root and a writable {what} hierarchy")))


needs_unified = _needs(_mount_of("cgroup2"), "cgroup v2")


def needs_v1(controller: str) -> Needs:
    """Mark a test that makes a tree in the v1 hierarchy of a controller."""
    return _needs(_mount_of("cgroup", controller), f"cgroup v1 {controller}")
