"""The real adapter on real processes in real cgroups: attribution, tricks that tenants play, and exactly one death."""

import os
import signal
import subprocess
import time
from dataclasses import replace

import pytest
import trio

from mortalgpu.host.base import KillOutcome
from mortalgpu.host.table import ProcfsTable
from tests.standin.cgroups import Box, KubepodsTree, move, needs_unified, needs_v1, wait_until
from tests.unit.host.real import SLEEP, first_line, kill, only, python


@needs_unified
@pytest.mark.parametrize("systemd", [False, True], ids=["cgroupfs", "systemd"])
async def test_a_process_is_attributed_to_the_container_it_runs_in(
    tree: KubepodsTree, table: ProcfsTable, systemd: bool
) -> None:
    box = tree.container(systemd=systemd)
    process = tree.run(box, SLEEP)
    found = await only(table, process.pid)
    assert found.container == box.ref
    details = (await table.describe([found]))[process.pid]
    assert details.command == "sleep 60"
    assert details.user in ("root", "0")


@needs_unified
async def test_children_are_in_the_container_of_their_parent(tree: KubepodsTree, table: ProcfsTable) -> None:
    box = tree.container()
    fork = "import os, time; child = os.fork() or time.sleep(60); print(child, flush=True); time.sleep(60)"
    parent = tree.run(box, python(fork), stdout=subprocess.PIPE)
    child = int(first_line(parent))
    found = await table.inspect([parent.pid, child])
    assert {process.container for process in found.values()} == {box.ref}
    assert await kill(table, found[child]) is KillOutcome.KILLED
    assert parent.poll() is None


@needs_unified
async def test_exactly_the_condemned_process_dies(tree: KubepodsTree, table: ProcfsTable) -> None:
    box, neighbour = tree.container(), tree.container()
    victim, sibling, other = tree.run(box, SLEEP), tree.run(box, SLEEP), tree.run(neighbour, SLEEP)
    assert await kill(table, await only(table, victim.pid)) is KillOutcome.KILLED
    assert victim.wait(10) == -signal.SIGKILL
    assert sibling.poll() is None
    assert other.poll() is None
    assert victim.pid not in await table.inspect([victim.pid, sibling.pid])


@needs_unified
async def test_a_process_that_is_not_our_child_dies_too(tree: KubepodsTree, table: ProcfsTable) -> None:
    box = tree.container()
    shell = tree.run(box, ["sh", "-c", "sleep 60 & echo $!; wait; wait"], stdout=subprocess.PIPE)
    grandchild = await only(table, int(first_line(shell)))
    assert await kill(table, grandchild) is KillOutcome.KILLED


@needs_unified
async def test_a_tenants_own_nested_cgroups_change_nothing(tree: KubepodsTree, table: ProcfsTable) -> None:
    box, victim = tree.container(), tree.container()
    process = tree.run(box, SLEEP)
    forged = tree.nested(box, f"kubepods/burstable/pod{victim.ref.pod_uid}/{victim.ref.container_id}")
    move(process.pid, forged)
    found = await only(table, process.pid)
    assert found.container == box.ref
    assert await kill(table, found) is KillOutcome.KILLED


@needs_unified
async def test_a_move_is_seen_at_the_next_look(tree: KubepodsTree, table: ProcfsTable) -> None:
    box, other = tree.container(), tree.container()
    process = tree.run(box, SLEEP)
    before = await only(table, process.pid)
    move(process.pid, other)
    after = await only(table, process.pid)
    assert after == replace(before, container=other.ref)


@needs_unified
async def test_a_process_moved_after_it_was_condemned_is_not_signalled(tree: KubepodsTree, table: ProcfsTable) -> None:
    box, other = tree.container(), tree.container()
    process = tree.run(box, SLEEP)
    condemned = await only(table, process.pid)
    move(process.pid, other)
    assert await kill(table, condemned) is KillOutcome.IDENTITY_CHANGED
    assert process.poll() is None


@needs_unified
async def test_a_process_moved_after_it_was_opened_is_not_signalled(tree: KubepodsTree, table: ProcfsTable) -> None:
    box, other = tree.container(), tree.container()
    process = tree.run(box, SLEEP)
    condemned = await only(table, process.pid)
    handle = await table.open(process.pid)
    assert handle is not None

    async def moved_meanwhile() -> bool:
        move(process.pid, other)
        return True

    with handle:
        assert handle.process == condemned
        assert await handle.kill(condemned, still_wanted=moved_meanwhile) is KillOutcome.IDENTITY_CHANGED
    assert process.poll() is None


@needs_unified
async def test_a_process_moved_during_its_grace_gets_no_second_signal(tree: KubepodsTree, table: ProcfsTable) -> None:
    box, other = tree.container(), tree.container()
    stubborn = "import signal, time; signal.signal(15, lambda *_: print('asked', flush=True)); print('set', flush=True)\n"
    process = tree.run(box, python(stubborn + "while True: time.sleep(60)"), stdout=subprocess.PIPE)
    assert first_line(process) == "set"
    condemned = await only(table, process.pid)
    async with trio.open_nursery() as nursery:

        async def move_when_asked() -> None:
            assert await trio.to_thread.run_sync(first_line, process) == "asked"
            move(process.pid, other)

        nursery.start_soon(move_when_asked)
        assert await kill(table, condemned, grace_seconds=2.0) is KillOutcome.IDENTITY_CHANGED
    assert process.poll() is None


@needs_unified
async def test_a_stubborn_process_is_asked_then_forced(tree: KubepodsTree, table: ProcfsTable) -> None:
    ignoring = "import signal, time; signal.signal(15, signal.SIG_IGN); print('set', flush=True); time.sleep(60)"
    process = tree.run(tree.container(), python(ignoring), stdout=subprocess.PIPE)
    assert first_line(process) == "set"
    assert await kill(table, await only(table, process.pid), grace_seconds=0.1) is KillOutcome.KILLED
    assert process.wait(10) == -signal.SIGKILL


@needs_unified
async def test_a_polite_process_ends_within_its_grace(tree: KubepodsTree, table: ProcfsTable) -> None:
    process = tree.run(tree.container(), SLEEP)
    assert await kill(table, await only(table, process.pid), grace_seconds=10.0) is KillOutcome.KILLED
    assert process.wait(10) == -signal.SIGTERM


@needs_unified
async def test_a_number_used_again_is_not_signalled(tree: KubepodsTree, table: ProcfsTable) -> None:
    process = tree.run(tree.container(), SLEEP)
    now = await only(table, process.pid)
    earlier_holder = replace(now, start_ticks=now.start_ticks - 1)
    assert await kill(table, earlier_holder) is KillOutcome.IDENTITY_CHANGED
    assert process.poll() is None


def start_with_number(tree: KubepodsTree, box: Box, pid: int) -> "subprocess.Popen[bytes]":
    """Start a process that gets a certain free pid: the kernel lets root say which one it gave last."""
    for _ in range(200):
        with open("/proc/sys/kernel/ns_last_pid", "w") as last:
            last.write(str(pid - 1))
        process = tree.run(box, SLEEP)
        if process.pid == pid:
            return process
        process.kill()
        process.wait(10)
    pytest.skip("other processes are started too fast to be given a certain number")


@needs_unified
@pytest.mark.skipif(not os.access("/proc/sys/kernel/ns_last_pid", os.W_OK), reason="numbers cannot be chosen here")
async def test_a_process_that_really_got_the_number_again_is_never_signalled(tree: KubepodsTree, table: ProcfsTable) -> None:
    box = tree.container()
    first = tree.run(box, SLEEP)
    condemned = await only(table, first.pid)
    handle = await table.open(first.pid)
    assert handle is not None
    with handle:
        first.kill()
        first.wait(10)
        # Within one tick two lives of a number look alike; no kernel gets through all its numbers in that time.
        wait_until(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) * 100 > condemned.start_ticks + 2)
        second = start_with_number(tree, box, first.pid)
        assert await handle.kill(condemned) is KillOutcome.ALREADY_GONE
    now = await only(table, second.pid)
    assert (now.pid, now.container) == (condemned.pid, condemned.container)
    assert now.start_ticks > condemned.start_ticks
    assert await table.describe([condemned]) == {}
    assert await kill(table, condemned, grace_seconds=1.0) is KillOutcome.IDENTITY_CHANGED
    assert second.poll() is None


@needs_unified
async def test_an_open_handle_does_not_follow_the_number_to_another_process(tree: KubepodsTree, table: ProcfsTable) -> None:
    box = tree.container()
    first, second = tree.run(box, SLEEP), tree.run(box, SLEEP)
    other = await only(table, second.pid)
    handle = await table.open(first.pid)
    assert handle is not None
    with handle:
        assert await handle.kill(other) is KillOutcome.IDENTITY_CHANGED
        first.kill()
        first.wait(10)
        assert await handle.kill(handle.process) is KillOutcome.ALREADY_GONE
    assert second.poll() is None


async def test_a_process_outside_of_every_container_is_never_signalled(table: ProcfsTable) -> None:
    with subprocess.Popen(SLEEP) as process:
        try:
            found = await only(table, process.pid)
            assert found.container is None
            assert await kill(table, found) is KillOutcome.IDENTITY_CHANGED
            assert process.poll() is None
        finally:
            process.kill()


@needs_unified
async def test_a_tenant_cannot_freeze_itself_out_of_its_death(tree: KubepodsTree, table: ProcfsTable) -> None:
    box = tree.container()
    process = tree.run(box, SLEEP)
    (box.path / "cgroup.freeze").write_text("1")
    wait_until(lambda: "frozen 1" in (box.path / "cgroup.events").read_text())
    assert await kill(table, await only(table, process.pid)) is KillOutcome.KILLED


@needs_unified
async def test_a_zombie_is_gone(tree: KubepodsTree, table: ProcfsTable) -> None:
    process = tree.run(tree.container(), SLEEP)
    found = await only(table, process.pid)
    handle = await table.open(process.pid)
    assert handle is not None
    with handle:
        os.kill(process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert await handle.kill(found) is KillOutcome.ALREADY_GONE
    assert await table.open(process.pid) is None
    with ProcfsTable() as fresh:
        assert await fresh.inspect([process.pid]) == {}


ONLY_OTHER_THREADS_LIVE = (
    "import ctypes, threading, time\n"
    "threading.Thread(target=time.sleep, args=(60,)).start()\n"
    "print('set', flush=True)\n"
    "ctypes.CDLL(None).pthread_exit(None)\n"
)


@needs_v1("pids")
async def test_ending_the_first_thread_does_not_hide_a_process(table: ProcfsTable) -> None:
    with KubepodsTree.v1("pids") as tree:
        box = tree.container()
        process = tree.run(box, python(ONLY_OTHER_THREADS_LIVE), stdout=subprocess.PIPE)
        before = await only(table, process.pid)
        assert first_line(process) == "set"
        with open(f"/proc/{process.pid}/cgroup") as cgroup:
            wait_until(lambda: cgroup.seek(0) == 0 and box.ref.container_id not in cgroup.read())
        found = await only(table, process.pid)
        assert found == before
        assert found.container == box.ref
        assert await kill(table, found) is KillOutcome.KILLED
        assert process.wait(10) == -signal.SIGKILL


@needs_v1("pids")
@needs_v1("memory")
async def test_v1_hierarchies_that_disagree_make_a_process_nobodys(table: ProcfsTable) -> None:
    with KubepodsTree.v1("memory") as memory, KubepodsTree.v1("pids") as pids:
        box, other = memory.container(), pids.container()
        process = memory.run(box, SLEEP)
        condemned = await only(table, process.pid)
        move(process.pid, other)
        assert (await only(table, process.pid)).container is None
        assert await kill(table, condemned) is KillOutcome.IDENTITY_CHANGED
        assert process.poll() is None


MOVES_AND_LETS_ITS_FIRST_THREAD_DIE = (
    "import time\nwhile open('/proc/self/cgroup').read().count('/kubepods/') < 2: time.sleep(0.01)\n" + ONLY_OTHER_THREADS_LIVE
)


@needs_unified
@needs_v1("pids")
@pytest.mark.parametrize("first_thread", ["lives", "dies"])
async def test_on_a_hybrid_host_the_unified_hierarchy_does_not_speak_against_the_others(
    tree: KubepodsTree, table: ProcfsTable, first_thread: str
) -> None:
    with KubepodsTree.v1("pids") as pids:
        box, victim = pids.container(), tree.container()
        command = python(MOVES_AND_LETS_ITS_FIRST_THREAD_DIE) if first_thread == "dies" else SLEEP
        process = pids.run(box, command, stdout=subprocess.PIPE)
        move(process.pid, victim)
        if first_thread == "dies":
            assert first_line(process) == "set"
            with open(f"/proc/{process.pid}/cgroup") as cgroup:
                wait_until(lambda: cgroup.seek(0) == 0 and box.ref.container_id not in cgroup.read())
                cgroup.seek(0)
                assert victim.ref.container_id in cgroup.read()
        found = await only(table, process.pid)
        assert found.container == box.ref
        assert await kill(table, found) is KillOutcome.KILLED


# By steps, since no single path may be that long. Prints when it is in, and undoes it when its input ends.
BURROW = """
import os, sys
home, pid, name = sys.argv[1], sys.argv[2], "x" * 250
os.chdir(home)
for _ in range(20):
    os.mkdir(name)
    os.chdir(name)
open("cgroup.procs", "w").write(pid)
print("in", flush=True)
sys.stdin.read()
open(home + "/cgroup.procs", "w").write(pid)
for _ in range(20):
    os.chdir("..")
    os.rmdir(name)
"""


@needs_unified
async def test_a_path_longer_than_the_kernel_writes_does_not_lead_to_another_container(
    tree: KubepodsTree, table: ProcfsTable
) -> None:
    box = tree.container()
    process = tree.run(box, SLEEP)
    command = [*python(BURROW), str(box.path), str(process.pid)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as burrow:
        assert first_line(burrow) == "in"
        # Some kernels cut the path at its end, others refuse to write it.
        assert (await only(table, process.pid)).container in (box.ref, None)
    assert burrow.returncode == 0


@needs_unified
@needs_v1("freezer")
async def test_a_process_that_cannot_die_is_reported_as_still_there(tree: KubepodsTree, table: ProcfsTable) -> None:
    with KubepodsTree.v1("freezer") as freezer:
        process = tree.run(tree.container(), SLEEP)
        ice = freezer.container().path
        move(process.pid, ice)
        (ice / "freezer.state").write_text("FROZEN")
        wait_until(lambda: (ice / "freezer.state").read_text().strip() == "FROZEN")
        condemned = await only(table, process.pid)
        handle = await table.open(process.pid)
        assert handle is not None
        with handle:
            assert await handle.kill(condemned, gone_within_seconds=0.1) is KillOutcome.STILL_THERE
            (ice / "freezer.state").write_text("THAWED")
            process.wait(10)
            assert await handle.kill(condemned) is KillOutcome.ALREADY_GONE


@needs_unified
async def test_a_signal_that_the_kernel_refuses_us_is_reported(tree: KubepodsTree, table: ProcfsTable) -> None:
    process = tree.run(tree.container(), SLEEP)
    condemned = await only(table, process.pid)
    os.setresuid(65534, 65534, 0)
    try:
        assert await kill(table, condemned) is KillOutcome.NOT_PERMITTED
    finally:
        os.setresuid(0, 0, 0)
    assert process.poll() is None
