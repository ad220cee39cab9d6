"""Disks that are full, read-only or taken away: under the daemon's files, kubelet's sockets and what containers mount."""

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.campaign import Tally
from tests.e2e.daemon import EXAMPLE_COUNTS, EXAMPLE_SHARING, SHARED
from tests.e2e.device_manager import Capacity
from tests.e2e.faults.rig import Rig
from tests.e2e.stage import quiet
from tests.e2e.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.faults]
needs_mounts = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small disk")
CHECKPOINT = "kubelet_internal_checkpoint"
PLACES = ("state", "host", "sockets")


@pytest.fixture
def disks() -> Iterator[ExitStack]:
    """What is mounted in a test, unmounted at its end."""
    with ExitStack() as stack:
        yield stack


class Disk:
    """A small disk at a folder, whose content it takes over."""

    def __init__(self, folder: Path, disks: ExitStack) -> None:
        """Mount it; `disks` unmounts it."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        _run("mount", "-t", "tmpfs", "-o", "size=256k,nr_inodes=64,mode=755", "tmpfs", str(folder))
        disks.callback(_unmount_all, folder)

    def fill(self) -> None:
        """Take every block and every inode."""
        with (self.folder / ".filler").open("wb", buffering=0) as filler:
            try:
                while filler.write(b"x" * 4096):
                    continue
            except OSError:
                pass
        for number in range(64):
            try:
                (self.folder / f".filler.{number}").touch()
            except OSError:
                return

    def empty(self) -> None:
        """Give back what `fill` took."""
        for filler in self.folder.glob(".filler*"):
            filler.unlink()

    def protect(self, *, read_only: bool = True) -> None:
        """Let nothing be written any more, or again; files that are open for writing stay so, as on a disk that had errors."""
        if read_only:
            _run("mount", "--bind", str(self.folder), str(self.folder))
            _run("mount", "-o", "remount,bind,ro", str(self.folder))
        else:
            _run("umount", "--lazy", str(self.folder))


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def _unmount_all(folder: Path) -> None:
    """Unmount the disk, and what protects it, should a test have ended before."""
    while os.path.ismount(folder):
        _run("umount", "--lazy", str(folder))


def folder_of(rig: Rig, place: str) -> Path:
    config = rig.daemon.config
    return {
        "state": Path(config["stateDir"]),
        "host": Path(config["mgctl"]["hostMount"]["hostPath"]),
        "sockets": rig.manager.socket_dir,
    }[place]


def a_disk(rig: Rig, place: str, disks: ExitStack) -> Disk:
    """Put a place on a small disk, before the daemon is started; kubelet starts anew where the place is its own."""
    if place != "sockets":
        return Disk(folder_of(rig, place), disks)
    rig.manager.stop()
    disk = Disk(folder_of(rig, place), disks)
    rig.manager.start()
    return disk


def other_shares(rig: Rig) -> dict[str, Any]:
    """Return the configuration with other reserved shares: another layout, to be written down, which may come at any time."""
    return rig.daemon.config | {"deviceSharing": [entry | {"reservedChunks": 10} for entry in EXAMPLE_SHARING]}


FULL: dict[str, tuple[Callable[[Disk], None], Callable[[Disk], None]]] = {
    "full": (Disk.fill, Disk.empty),
    "read-only": (Disk.protect, lambda disk: disk.protect(read_only=False)),
}


@pytest.mark.root
@needs_mounts
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("trouble", FULL)
def test_a_disk_that_takes_nothing_for_a_while_stops_nothing_that_runs(
    idle: Rig, disks: ExitStack, place: str, trouble: str, tally: Tally
) -> None:
    begin, end = FULL[trouble]
    disk = a_disk(idle, place, disks)
    idle.daemon.start()
    idle.settle()
    begin(disk)
    tally.add("faults of the environment")
    for _ in range(2):
        quiet(1)
        idle.over_the_limit()
        idle.greedy_dies()
        idle.check_tenants()
    if place != "sockets":
        # kubelet writes its own checkpoint into that place: without it, it admits nobody.
        idle.sound()
    end(disk)
    idle.sound()
    assert idle.daemon.stop() == 0


@pytest.mark.root
@needs_mounts
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("trouble", FULL)
def test_a_disk_that_takes_nothing_at_the_start_is_named_or_done_without(
    idle: Rig, disks: ExitStack, place: str, trouble: str, tally: Tally
) -> None:
    begin, end = FULL[trouble]
    disk = a_disk(idle, place, disks)
    begin(disk)
    idle.daemon.start()
    tally.add("faults of the environment")
    process = idle.daemon.process
    assert process is not None
    eventually("a start, or its refusal", lambda: not process.running or '"ready"' in idle.daemon.log(), seconds=20)
    idle.no_fault_of_ours()
    if not process.running:
        assert process.wait(1) == 69
        assert str(disk.folder) in idle.daemon.log().splitlines()[-1], "the place is not named"
        end(disk)
        idle.daemon.start()
    else:
        end(disk)
    idle.settle()
    idle.sound()


@pytest.mark.root
@needs_mounts
def test_a_layout_that_could_not_be_written_is_written_when_the_disk_has_room(
    idle: Rig, disks: ExitStack, tally: Tally
) -> None:
    disk = a_disk(idle, "state", disks)
    idle.daemon.start()
    idle.settle()
    layout = disk.folder / "layout.json"
    before = layout.read_text()
    disk.fill()
    tally.add("faults of the environment")
    (idle.daemon.folder / "config.json").write_text(json.dumps(other_shares(idle)))
    eventually("the news", lambda: idle.daemon.events("share layout cannot be remembered"), seconds=20)
    eventually("the new layout", lambda: idle.manager.capacity(SHARED) == Capacity(780, 780), seconds=20)
    idle.check()
    assert layout.read_text() == before, "half a layout"
    disk.empty()
    eventually("the layout on the disk", lambda: '"reserved": 10' in layout.read_text(), seconds=20)
    assert json.loads(layout.read_text())
    assert len(idle.daemon.events("share layout cannot be remembered")) == 1, "told more than once"
    (idle.daemon.folder / "config.json").write_text(json.dumps(idle.daemon.config))
    idle.manager.wait_allocatable(EXAMPLE_COUNTS, 20)
    idle.sound()


def test_a_file_size_limit_of_nothing_stops_nothing_that_runs(rig: Rig, tally: Tally) -> None:
    """Without root: no file may grow, the log among them. Sockets and locks are no files in this sense."""
    before = resource.prlimit(rig.daemon.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(rig.daemon.pid, resource.RLIMIT_FSIZE, (0, before[1]))
    tally.add("faults of the environment")
    (rig.daemon.folder / "config.json").write_text(json.dumps(other_shares(rig)))
    eventually("the new layout", lambda: rig.manager.capacity(SHARED) == Capacity(780, 780), seconds=20)
    rig.over_the_limit()
    rig.greedy_dies()
    rig.check()
    resource.prlimit(rig.daemon.pid, resource.RLIMIT_FSIZE, before)
    (rig.daemon.folder / "config.json").write_text(json.dumps(rig.daemon.config))
    rig.manager.wait_allocatable(EXAMPLE_COUNTS, 20)
    rig.sound()
    assert rig.daemon.events("lines of this log were lost")


@pytest.mark.parametrize("kubelet_first", [True, False], ids=["kubelet back first", "the folder back first"])
def test_kubelets_folder_taken_away_and_made_again_is_registered_in_again(rig: Rig, kubelet_first: bool, tally: Tally) -> None:
    """kubelet's own checkpoint is put back, as without it kubelet itself forgets who holds what."""
    folder, aside = rig.manager.socket_dir, rig.manager.socket_dir.with_name("aside")
    rig.manager.stop()
    folder.rename(aside)
    tally.add("faults of the environment")
    quiet(1)
    rig.check_tenants()
    folder.mkdir()
    shutil.copy(aside / CHECKPOINT, folder)
    if not kubelet_first:
        quiet(1)
    for admission in rig.manager.start():
        assert admission.admitted, admission.message
    rig.sound()


@contextmanager
def moved(folder: Path) -> Iterator[None]:
    """Move a folder out of its place for the length of the block."""
    aside = folder.with_name(f"{folder.name}.aside")
    folder.rename(aside)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)


@pytest.mark.parametrize("place", ["state", "sockets"])
def test_a_folder_moved_away_for_a_while_is_done_without(rig: Rig, place: str, tally: Tally) -> None:
    with moved(folder_of(rig, place)):
        tally.add("faults of the environment")
        quiet(2)
        rig.over_the_limit()
        rig.greedy_dies()
        rig.check_tenants()
    rig.sound()
