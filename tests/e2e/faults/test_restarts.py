"""Kubelet restarted, and the daemon killed, again and again while pods come and go: nothing is lost, doubled or left behind."""

import os
import signal
from pathlib import Path

import pytest

from tests.campaign import Tally
from tests.e2e.daemon import EXAMPLE_COUNTS, SHARED, TWENTY, Daemon
from tests.e2e.device_manager import DeviceManager
from tests.e2e.faults.census import at_rest, comes_to_rest
from tests.e2e.faults.churn import Churn, told
from tests.e2e.node import Node
from tests.e2e.pods import pod_asking
from tests.e2e.waiting import eventually, until

pytestmark = [pytest.mark.e2e, pytest.mark.faults]
SEED = 20240607
TIMES = {False: 8, True: 100}
"""Of each, in the short and in the long form."""


@pytest.mark.timeout(900)
def test_a_kubelet_restarted_again_and_again_loses_nothing(
    device_manager: DeviceManager, everything: Daemon, long_form: bool, tally: Tally, capsys: pytest.CaptureFixture[str]
) -> None:
    churn = Churn(device_manager, everything, SEED)
    pid, before = everything.pid, at_rest(everything.pid)
    for number in range(TIMES[long_form]):
        with told(churn, number, everything):
            churn.undisturbed(4)
            churn.restart_kubelet_amid_admissions()
        tally.add("restarts of kubelet")
    churn.finish()
    assert everything.pid == pid
    comes_to_rest(pid, before)
    with capsys.disabled():
        print(f"\nkubelet restarted {TIMES[long_form]} times: {churn.report()}")


@pytest.mark.timeout(1800)
def test_a_daemon_killed_at_any_moment_leaves_nothing_that_holds_up_the_next(
    device_manager: DeviceManager, everything: Daemon, long_form: bool, tally: Tally, capsys: pytest.CaptureFixture[str]
) -> None:
    churn = Churn(device_manager, everything, SEED)
    churn.undisturbed(4)
    before = at_rest(everything.pid)
    moments = [churn.MOMENTS[number % len(churn.MOMENTS)] for number in range(TIMES[long_form])]
    for number, moment in enumerate(moments):
        with told(churn, number, everything):
            churn.kill_daemon_at(moment)
            churn.undisturbed(4)
        tally.add("kills of the daemon")
    comes_to_rest(everything.pid, before)
    assert not everything.events("waiting for another daemon"), "a dead daemon's lock held up the next"
    churn.finish()
    with capsys.disabled():
        print(f"\ndaemon killed {TIMES[long_form]} times: {churn.report()}")


HANGING_ALLOCATOR = """#!/bin/sh
exec sleep 600
"""


def test_what_a_killed_daemon_started_does_not_hold_up_the_next(
    device_manager: DeviceManager, everything: Daemon, tally: Tally
) -> None:
    """A program of the daemon's that outlives it, and with it whatever it may have inherited."""
    program = device_manager.directory / "allocator"
    program.write_text(HANGING_ALLOCATOR)
    program.chmod(0o755)
    external = {"plugin": "external", "externalConfig": {"path": str(program), "timeoutSeconds": 20}}
    everything.stop()
    usual = everything.config
    everything.config = usual | {"allocator": external}
    everything.start()
    device_manager.wait_allocatable(EXAMPLE_COUNTS, 20)
    later = device_manager.admit_later(pod_asking("one", main={SHARED: 1}))
    (child,) = eventually("the program", lambda: children_of(everything.pid), seconds=10)
    everything.kill()
    tally.add("kills of the daemon")
    assert not later.result(30).admitted
    everything.config = usual
    everything.start()
    device_manager.wait_allocatable(EXAMPLE_COUNTS, 20)
    assert not everything.events("waiting for another daemon")
    if Path(f"/proc/{child}").exists():
        os.kill(child, signal.SIGKILL)


def children_of(pid: int) -> list[int]:
    """Return the children of all threads of a process."""
    return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


@pytest.mark.root
@pytest.mark.timeout(600)
def test_a_whole_kubelet_restarted_again_and_again_hurts_no_pod(
    node: Node, node_daemon: Daemon, long_form: bool, tally: Tally
) -> None:
    for name, resource in (("one", SHARED), ("two", TWENTY)):
        node.put(pod_asking(name, main={resource: 40}))
    before = {name: node.wait_running(name) for name in ("one", "two")}
    held = sorted(node.held(), key=str)
    pid, rest = node_daemon.pid, at_rest(node_daemon.pid)
    for number in range(10 if long_form else 2):
        node.restart_kubelet(hard=number % 2 == 0, wipe_sockets=number % 3 == 2)
        until("the counts", node.allocatable, EXAMPLE_COUNTS.__eq__, seconds=20, every_seconds=0.05)
        for name, status in before.items():
            assert node.wait_running(name).containers == status.containers, "a container was started again"
        assert sorted(node.held(), key=str) == held
        tally.add("restarts of a whole kubelet")
    assert node_daemon.pid == pid
    comes_to_rest(pid, rest)
