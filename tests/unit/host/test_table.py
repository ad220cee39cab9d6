"""The real adapter over a tree of files: reuse of numbers, texts that are remembered, and readers that hang.

A named pipe stands in for a file whose reading never ends: opening it waits for somebody to write.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from mortalgpu.errors import HostError
from mortalgpu.host.base import HostProcess
from mortalgpu.host.table import ProcfsTable
from mortalgpu.model.pod import ContainerRef
from tests.standin.proctree import Recorded, write_machine, write_process

REF = ContainerRef("1f0c9c4e-6b1c-4a43-9d2b-1c2f3d4e5f60", "a" * 64)
OTHER = ContainerRef("2f0c9c4e-6b1c-4a43-9d2b-1c2f3d4e5f60", "b" * 64)
SHORT = 0.05


def recorded(pid: int, ref: ContainerRef = REF, **facts: object) -> Recorded:
    process = Recorded(pid, "a container", f"0::/kubepods/pod{ref.pod_uid}/{ref.container_id}\n", ref)
    return replace(process, **facts)  # type: ignore[arg-type]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_machine(tmp_path, (recorded(1), recorded(2), recorded(3)))
    return tmp_path


@pytest.fixture
def table(root: Path) -> Iterator[ProcfsTable]:
    with ProcfsTable(str(root), passwd=[str(root / "passwd")], patience_seconds=SHORT) as table:
        yield table


@contextmanager
def stuck(path: Path) -> Iterator[None]:
    """Make the reading of a file hang until the block is left."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    try:
        yield
    finally:
        os.close(os.open(path, os.O_RDWR))
        # A reader that came later than that would wait for ever.
        path.unlink()


async def test_an_unchanged_process_is_the_same_object_at_every_look(table: ProcfsTable) -> None:
    first = await table.inspect([1, 2])
    second = await table.inspect([1, 2])
    assert all(first[pid] is second[pid] for pid in (1, 2))


async def test_details_are_never_those_of_a_later_holder_of_the_number(root: Path, table: ProcfsTable) -> None:
    asked = await table.inspect([1, 2])
    (root / "2" / "stat").write_text((root / "2" / "stat").read_text().replace("360002", "999999"))
    assert set(await table.describe(tuple(asked.values()))) == {1}


async def test_details_of_a_number_used_again_are_the_new_ones(root: Path, table: ProcfsTable) -> None:
    old = await table.inspect([2])
    assert (await table.describe(tuple(old.values())))[2].command == "python3 -m train"
    (root / "2" / "stat").write_text((root / "2" / "stat").read_text().replace("360002", "999999"))
    (root / "2" / "cmdline").write_text("bash\0")
    new = HostProcess(2, 999999, REF)
    assert (await table.describe([new]))[2].command == "bash"


async def test_details_are_remembered_and_read_again_when_they_are_old(root: Path, mock_clock: MockClock) -> None:
    with ProcfsTable(str(root), patience_seconds=600) as table:
        asked = tuple((await table.inspect([2])).values())
        assert (await table.describe(asked))[2].command == "python3 -m train"
        (root / "2" / "cmdline").write_text("bash\0")
        assert (await table.describe(asked))[2].command == "python3 -m train"
        mock_clock.jump(61)
        assert (await table.describe(asked))[2].command == "bash"


async def test_a_command_line_that_hangs_its_reader_costs_only_itself(root: Path, table: ProcfsTable) -> None:
    asked = tuple((await table.inspect([1, 2, 3])).values())
    with stuck(root / "2" / "cmdline"), trio.fail_after(20):
        shown = await table.describe(asked)
        assert shown[2].command == "[python3]"
        assert shown[2].pid_inside == 1
        assert set(shown) == {1, 2, 3}
        again = await table.describe(asked)
    assert [again[pid].command for pid in (1, 2, 3)] == ["python3 -m train", "[python3]", "python3 -m train"]


async def test_when_every_reader_hangs_names_are_still_told(root: Path, table: ProcfsTable) -> None:
    pids = range(10, 16)
    for pid in pids:
        write_process(root, recorded(pid))
    asked = await table.inspect([*pids, 1])
    pipes = [stuck(root / str(pid) / "cmdline") for pid in pids]
    for pipe in pipes:
        pipe.__enter__()
    try:
        with trio.fail_after(20):
            for pid in pids:
                await table.describe([asked[pid]])
            assert (await table.describe([asked[1]]))[1].command == "[python3]"
    finally:
        for pipe in pipes:
            pipe.__exit__(None, None, None)
    with trio.fail_after(20):
        while (await table.describe([asked[1]]))[1].command != "python3 -m train":
            await trio.lowlevel.checkpoint()


async def test_a_command_line_that_may_not_be_read_is_shown_as_the_name(root: Path, table: ProcfsTable) -> None:
    (root / "2" / "cmdline").unlink()
    (root / "2" / "cmdline").mkdir()
    shown = await table.describe(tuple((await table.inspect([2])).values()))
    assert shown[2].command == "[python3]"


async def test_a_scan_that_hangs_is_given_up_on_time_and_the_next_one_waits_its_turn(root: Path, table: ProcfsTable) -> None:
    with stuck(root / "3" / "cgroup"):
        for _ in range(2):
            with trio.move_on_after(SHORT) as patience:
                await table.inspect([1, 3])
            assert patience.cancelled_caught
    write_process(root, recorded(3))
    with trio.fail_after(20):
        found = await table.inspect([1, 3])
    assert {process.container for process in found.values()} == {REF}


async def test_one_unreadable_process_is_an_error_and_not_a_process_that_is_gone(root: Path, table: ProcfsTable) -> None:
    (root / "2" / "cgroup").unlink()
    (root / "2" / "cgroup").symlink_to("cgroup")
    with pytest.raises(HostError, match="2/cgroup cannot be read: Too many levels of symbolic links"):
        await table.inspect([1, 2])
    assert set(await table.inspect([1])) == {1}


async def test_a_text_rewritten_in_place_is_seen(root: Path, table: ProcfsTable) -> None:
    assert (await table.inspect([1]))[1].container == REF
    write_process(root, recorded(1, OTHER))
    assert (await table.inspect([1]))[1].container == OTHER


async def test_the_users_of_the_first_file_that_has_any_are_used(root: Path) -> None:
    (root / "empty").write_text("")
    (root / "later").write_text("toor:x:0:0\n")
    files = [str(root / name) for name in ("missing", "empty", "passwd", "later")]
    with ProcfsTable(str(root), passwd=files) as table:
        shown = await table.describe(tuple((await table.inspect([1])).values()))
    assert shown[1].user == "root"
