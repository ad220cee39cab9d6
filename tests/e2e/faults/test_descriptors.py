"""No more open files: from the start, and while the daemon runs and is called. It goes on with what it has, and recovers."""

import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.campaign import Tally
from tests.e2e.daemon import SHARED
from tests.e2e.faults.census import cpu_seconds, descriptors
from tests.e2e.faults.rig import Rig
from tests.e2e.pods import pod_asking
from tests.e2e.stage import quiet
from tests.e2e.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.faults]
LINES_PER_SECOND = 10.0
PROCESSOR_SHARE = 0.3
"""What the daemon may log and use while it has no descriptor left and clients knock: no more than a busy day."""


@contextmanager
def no_more_files(pid: int, spare: int) -> Iterator[None]:
    """Let a process open `spare` more files than it has open now, and no others, for the length of the block."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (max(descriptors(pid)) + 1 + spare, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@contextmanager
def knocking(rig: Rig) -> Iterator[None]:
    """Keep some connections waiting at every door."""
    daemon = rig.daemon
    doors: list[tuple[int, str | tuple[str, int]]] = []
    for event in daemon.events('"device API serves"')[-1:] + daemon.events('"serving metrics"')[-2:]:
        for address in [event["address"]] if isinstance(event["address"], str) else event["address"]:
            if address.startswith("unix://"):
                doors.append((socket.AF_UNIX, address.removeprefix("unix://")))
            else:
                host, _, port = address.rpartition(":")
                doors.append((socket.AF_INET, (host, int(port))))
    assert len(doors) == 5
    with ExitStack() as stack:
        for family, address in doors:
            for _ in range(4):
                client = stack.enter_context(socket.socket(family))
                client.settimeout(5)
                client.connect(address)
        yield


LIMITS = (12, 14, 16, 18, 20)
"""From what the loader and the interpreter need to what the daemon needs at rest."""


@pytest.mark.parametrize("limit", LIMITS)
def test_too_few_files_at_the_start_are_told_or_waited_for(idle: Rig, limit: int, long_form: bool, tally: Tally) -> None:
    if limit not in LIMITS[1::2] and not long_form:
        pytest.skip("one of the others will do in the short form")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    idle.daemon.before = ("prlimit", f"--nofile={limit}:{hard}", "--")
    idle.daemon.start()
    tally.add("faults of the environment")
    process = idle.daemon.process
    assert process is not None
    quiet(3)
    idle.no_fault_of_ours()
    if process.running:
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (hard, hard))
        eventually("a start, or its end", lambda: not process.running or idle.is_right(), seconds=20)
    if not process.running:
        assert (process.wait(1), "Too many open files" in idle.daemon.log()) == (69, True), idle.daemon.log()[-3000:]
        return
    idle.settle()
    idle.sound()


@pytest.mark.parametrize("spare", [0, 1, 3])
def test_out_of_files_while_called_neither_spins_nor_kills_nor_forgets(
    rig: Rig, spare: int, long_form: bool, tally: Tally
) -> None:
    seconds = 30.0 if long_form else 3.0
    made, lines = dict(rig.manager.registrations.made), len(rig.daemon.log().splitlines())
    with no_more_files(rig.daemon.pid, spare), knocking(rig):
        tally.add("faults of the environment")
        spent, began = cpu_seconds(rig.daemon.pid), time.monotonic()
        # kubelet's connections are open already: it is served as ever.
        pod = pod_asking("amid it", main={SHARED: 1})
        admission = rig.manager.admit(pod)
        assert admission.admitted, admission.message
        rig.over_the_limit()
        quiet(seconds)
        eventually("the counts", rig.is_right, seconds=5)
        rig.check()
        share = (cpu_seconds(rig.daemon.pid) - spent) / (time.monotonic() - began)
        told = (len(rig.daemon.log().splitlines()) - lines) / (time.monotonic() - began)
    assert share < PROCESSOR_SHARE, f"{share:.0%} of a processor, {told:.0f} lines a second"
    assert told < LINES_PER_SECOND, rig.daemon.log()[-5000:]
    rig.greedy_dies()
    rig.manager.delete(pod)
    rig.sound()
    assert rig.manager.registrations.made == made, "kubelet was registered with anew"
