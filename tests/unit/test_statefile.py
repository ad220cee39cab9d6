"""Small files that survive a crash, and the lock against a second daemon."""

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from mortalgpu.errors import HostError
from mortalgpu.statefile import only_one, read_state, write_state


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "layout.json"
    assert read_state(path) is None
    write_state(path, "ü\n")
    assert read_state(path) == "ü\n"
    write_state(path, "")
    assert read_state(path) == ""
    assert [entry.name for entry in path.parent.iterdir()] == ["layout.json"]


def test_drafts_of_killed_writers_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as child:
        child.wait()
    dead, alive, other = (tmp_path / f".{name}" for name in (f"layout.json.{child.pid}", "layout.json.1", f"key.{child.pid}"))
    for draft in (dead, alive, other, tmp_path / ".layout.json.draft"):
        draft.write_text("half")
    write_state(tmp_path / "layout.json", "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [alive.name, other.name, ".layout.json.draft", "layout.json"]
    )


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_mode_is_the_one_asked_for_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_state(tmp_path / "secret", "x")
        write_state(tmp_path / "public", "x", 0o644)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "public").stat().st_mode) == 0o644


UNREADABLE: dict[str, Callable[[Path], object]] = {
    "a directory": lambda path: path.mkdir(),
    "no text": lambda path: path.write_bytes(b"\xff"),
    "a circle of links": lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize("make", UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_is_an_error_and_not_an_absence(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "layout.json")
    with pytest.raises(HostError, match=r"layout\.json: cannot be read"):
        read_state(tmp_path / "layout.json")


def test_a_path_through_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="cannot be written"):
        write_state(tmp_path / "file" / "layout.json", "x")


def test_a_write_that_fails_leaves_the_old_text_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "layout.json"
    write_state(path, "old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(HostError, match="No space left"):
        write_state(path, "new")
    assert read_state(path) == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["layout.json"]


async def test_a_second_holder_waits_for_the_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    order = list[str]()

    async def second() -> None:
        async with only_one(tmp_path):
            order.append("second")

    async with trio.open_nursery() as nursery:
        async with only_one(tmp_path):
            nursery.start_soon(second)
            await trio.sleep(0.5)
            order.append("first")
    assert order == ["first", "second"]
    assert [record.message for record in caplog.records].count("waiting for another daemon to end") == 1


async def test_waiting_for_the_lock_can_be_cancelled(tmp_path: Path) -> None:
    async with only_one(tmp_path):
        before = len(os.listdir("/proc/self/fd"))
        with trio.move_on_after(0.05) as scope:
            async with only_one(tmp_path):
                raise AssertionError("two holders")
        assert scope.cancelled_caught
        assert len(os.listdir("/proc/self/fd")) == before


async def test_a_lock_that_cannot_be_made_names_the_flag(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="--state-dir"):
        async with only_one(tmp_path / "file"):
            raise AssertionError("no lock")
