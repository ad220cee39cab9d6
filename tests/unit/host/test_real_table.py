"""The real adapter's open files, and numbers that mean nobody."""

import os
from dataclasses import replace

import pytest

from mortalgpu.errors import HostError
from mortalgpu.host.base import KillOutcome
from mortalgpu.host.table import ProcfsTable
from tests.standin.cgroups import KubepodsTree, needs_unified
from tests.unit.host.real import SLEEP, kill


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@needs_unified
async def test_files_are_kept_for_those_asked_about_and_no_longer(tree: KubepodsTree, table: ProcfsTable) -> None:
    box = tree.container()
    pids = [tree.run(box, SLEEP).pid for _ in range(5)]
    before = open_files()
    for _ in range(3):
        assert len(await table.inspect(pids)) == 5
    assert open_files() == before + 5
    for _ in range(12):
        await table.inspect(pids[:1])
    assert open_files() == before + 1
    table.close()
    assert open_files() == before


@needs_unified
async def test_above_the_bound_of_kept_files_answers_are_the_same(tree: KubepodsTree, table: ProcfsTable) -> None:
    box = tree.container()
    pids = [tree.run(box, SLEEP).pid for _ in range(4)]
    before = open_files()
    with ProcfsTable(held_at_most=1) as frugal:
        for _ in range(3):
            assert await frugal.inspect(pids) == await table.inspect(pids)
        assert open_files() == before + 1 + 4


@needs_unified
async def test_no_file_stays_open_after_kills_refusals_and_misses(tree: KubepodsTree, table: ProcfsTable) -> None:
    box = tree.container()
    victim, spared = tree.run(box, SLEEP), tree.run(box, SLEEP)
    found = await table.inspect([victim.pid, spared.pid])
    table.close()
    before = open_files()
    assert await kill(table, found[victim.pid]) is KillOutcome.KILLED
    assert await kill(table, replace(found[spared.pid], start_ticks=1)) is KillOutcome.IDENTITY_CHANGED
    assert await table.open(victim.pid) is None
    assert open_files() == before


async def test_numbers_that_nobody_has_are_left_out(table: ProcfsTable) -> None:
    assert await table.inspect([0, -1, 2**31 - 1]) == {}
    for pid in (0, -1, 2**31 - 1):
        assert await table.open(pid) is None


async def test_a_process_table_of_another_pid_namespace_is_not_used_to_kill(tmp_path: "os.PathLike[str]") -> None:
    os.symlink("1", os.path.join(tmp_path, "self"))
    with ProcfsTable(str(tmp_path)) as table:
        with pytest.raises(HostError, match=r"another pid namespace .* \(1 there, .*hostPID"):
            await table.open(os.getpid())
