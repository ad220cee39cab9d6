"""Processes that are traced: who stops another in the middle of its end, with all that it holds, ends with it."""

import os
import signal
import subprocess

import pytest

from mortalgpu.host.base import KillOutcome
from mortalgpu.host.table import ProcfsTable
from tests.standin.cgroups import Box, KubepodsTree, move, needs_unified
from tests.unit.host.real import SLEEP, first_line, kill, only, python

STOPS_ITS_CHILD_AT_THE_END = (
    "import ctypes, os, sys, time\n"
    "libc = ctypes.CDLL(None, use_errno=True)\n"
    "child = os.fork()\n"
    "while not child: time.sleep(60)\n"
    "seize, trace_exit = 0x4206, 0x40\n"
    "refused = libc.ptrace(seize, child, None, ctypes.c_void_p(trace_exit))\n"
    "print(ctypes.get_errno() if refused else -child, flush=True)\n"
    "time.sleep(60)\n"
)


def traced(tree: KubepodsTree, box: Box) -> "tuple[subprocess.Popen[bytes], int]":
    """Start a process that lets its child stop in the middle of its end; return both."""
    tracer = tree.run(box, python(STOPS_ITS_CHILD_AT_THE_END), stdout=subprocess.PIPE)
    child = -int(first_line(tracer))
    if child < 0:
        pytest.skip(f"nobody may trace here: {os.strerror(-child)}")
    return tracer, child


@needs_unified
async def test_who_stops_its_child_in_the_middle_of_its_end_ends_with_it(
    tree: KubepodsTree, table: ProcfsTable, caplog: pytest.LogCaptureFixture
) -> None:
    box = tree.container()
    bystander = tree.run(box, SLEEP)
    tracer, child = traced(tree, box)
    assert await kill(table, await only(table, child)) is KillOutcome.KILLED
    assert tracer.wait(10) == -signal.SIGKILL
    assert bystander.poll() is None
    assert "stopped a process that kept another of its pod from ending" in caplog.text


@needs_unified
async def test_a_tracer_of_another_pod_is_not_ours_to_end(tree: KubepodsTree, table: ProcfsTable) -> None:
    tracer, child = traced(tree, tree.container())
    for elsewhere in (tree.container(), None):
        move(tracer.pid, elsewhere or tree.root.parent)
        condemned = await only(table, child)
        handle = await table.open(child)
        assert handle is not None
        with handle:
            assert await handle.kill(condemned, gone_within_seconds=1.0) is KillOutcome.STILL_THERE
        assert tracer.poll() is None


@needs_unified
async def test_a_debugger_that_does_not_stop_the_end_lives(tree: KubepodsTree, table: ProcfsTable) -> None:
    source = STOPS_ITS_CHILD_AT_THE_END.replace("0x4206, 0x40", "0x4206, 0")
    tracer = tree.run(tree.container(), python(source), stdout=subprocess.PIPE)
    child = -int(first_line(tracer))
    assert await kill(table, await only(table, child)) in (KillOutcome.KILLED, KillOutcome.STILL_THERE)
    assert tracer.poll() is None
