"""The wall clock jumps by a day while the daemon watches a real API server, whose certificate is then not valid, or not yet."""

import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.campaign import Tally
from tests.e2e.apiserver.control_plane import ControlPlane
from tests.e2e.faults.clock import DAY_SECONDS, Clock
from tests.e2e.faults.rig import Rig
from tests.e2e.real_cluster import access
from tests.e2e.stage import quiet
from tests.e2e.waiting import eventually
from tests.needs import skipped_where_missing

pytestmark = [pytest.mark.e2e, pytest.mark.faults]
LONGEST_PAUSE_SECONDS = 8.0
"""Between two tries to list the pods."""


@pytest.fixture
def plane(tmp_path: Path, long_form: bool) -> Iterator[ControlPlane]:
    if not long_form:
        pytest.skip("an API server is started three times; the long form has the time")
    with skipped_where_missing():
        made = ControlPlane(tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def clock(plane: ControlPlane, idle: Rig, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the rig's daemon, which learns of pods from the API server."""
    clock = Clock(idle.daemon.folder)
    idle.daemon.config |= {"podSource": "kubernetes", "kubernetes": access(plane, idle.daemon.folder)}
    with monkeypatch.context() as patched:
        for name, value in clock.environment.items():
            patched.setenv(name, value)
        idle.daemon.start()
    eventually("the counts", idle.is_right, seconds=20)
    eventually("the daemon's page", lambda: len(idle.daemon.events('"serving metrics"')) == 2, seconds=20)
    return clock


def figure(rig: Rig, name: str) -> float:
    """Read one figure of the daemon's own page."""
    for event in rig.daemon.events('"serving metrics"'):
        with urllib.request.urlopen(f"http://{event['address']}/metrics", timeout=5) as answer:
            found = re.search(rf"^{name}(?:\{{.*\}})? (\S+)$", answer.read().decode(), re.MULTILINE)
        if found:
            return float(found[1])
    raise AssertionError(f"no page has {name}")


def is_synced(rig: Rig) -> bool:
    """Whether the API server's word on pods is fresh."""
    return figure(rig, "mortalgpu_cluster_synced") == 1.0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("jump", [DAY_SECONDS, -DAY_SECONDS])
def test_a_watch_that_stands_goes_on_and_one_that_ended_stands_again_once_the_clock_is_right(
    plane: ControlPlane, idle: Rig, clock: Clock, tally: Tally, jump: int
) -> None:
    eventually("the first list", lambda: is_synced(idle), seconds=20)
    failures = figure(idle, "mortalgpu_cluster_failures_total")
    clock.set(jump)
    tally.add("faults of the environment")
    quiet(3)
    assert is_synced(idle), "the watch that stood was given up"
    assert figure(idle, "mortalgpu_cluster_failures_total") == failures
    assert plane.apiserver is not None
    plane.apiserver.kill()
    eventually("its loss", lambda: not is_synced(idle), seconds=20)
    plane.start_apiserver()
    tally.add("faults of the environment")
    quiet(LONGEST_PAUSE_SECONDS + 2)
    clock.set(0)
    eventually("the next list", lambda: is_synced(idle), seconds=2 * LONGEST_PAUSE_SECONDS)
    eventually("the counts", idle.is_right, seconds=5)
    idle.no_fault_of_ours()
