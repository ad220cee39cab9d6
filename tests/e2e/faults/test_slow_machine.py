"""A machine that gives the daemon no time: two per cent of a processor, or none at all for a while."""

import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.campaign import Tally
from tests.e2e.daemon import EXAMPLE_COUNTS, SHARED
from tests.e2e.faults.rig import Rig
from tests.e2e.pods import pod_asking
from tests.e2e.stage import quiet
from tests.e2e.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.faults]
CGROUPS = Path("/sys/fs/cgroup")
PERIOD_US, QUOTA_US = 100_000, 2_000
WATCHDOG_SECONDS = 30.0
"""WatchdogSec of the unit."""
PATIENCE_SECONDS = 120.0


@contextmanager
def two_per_cent() -> Iterator[Path]:
    """Make a cgroup whose processes get two per cent of one processor; yields the file by which a process enters it."""
    if (CGROUPS / "cgroup.controllers").exists():
        folder, settings = CGROUPS / f"mortalgpu-slow-{os.getpid()}", {"cpu.max": f"{QUOTA_US} {PERIOD_US}"}
    else:
        folder = CGROUPS / "cpu" / f"mortalgpu-slow-{os.getpid()}"
        settings = {"cpu.cfs_period_us": str(PERIOD_US), "cpu.cfs_quota_us": str(QUOTA_US)}
    folder.mkdir()
    try:
        for name, value in settings.items():
            (folder / name).write_text(value)
        yield folder / "cgroup.procs"
    finally:
        for pid in (folder / "cgroup.procs").read_text().split():
            (folder.parent / "cgroup.procs").write_text(pid)
        folder.rmdir()


class Watchdog:
    """A service manager's socket: when each message came."""

    def __init__(self, folder: Path) -> None:
        """Listen; `environment` is what the watched process needs."""
        self.ready_at: float | None = None
        self.beats: list[float] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify.sock"))
        self.environment = {"NOTIFY_SOCKET": str(folder / "notify.sock"), "WATCHDOG_USEC": f"{WATCHDOG_SECONDS * 1e6:.0f}"}
        threading.Thread(target=self._listen, daemon=True).start()

    def longest_silence(self) -> float:
        """Return the longest time between two messages, up to now."""
        moments = [*self.beats, time.monotonic()]
        return max(after - before for before, after in itertools.pairwise(moments))

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _listen(self) -> None:
        while message := self._socket.recv(4096):
            self.beats.append(time.monotonic())
            if b"READY=1" in message:
                self.ready_at = time.monotonic()


@pytest.fixture
def watchdog(idle: Rig, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watchdog]:
    watchdog = Watchdog(idle.daemon.folder)
    for name, value in watchdog.environment.items():
        monkeypatch.setenv(name, value)
    yield watchdog
    watchdog.close()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a cgroup")
@pytest.mark.timeout(600)
def test_two_per_cent_of_a_processor_are_enough_to_hold_the_limit(
    idle: Rig, watchdog: Watchdog, long_form: bool, tally: Tally
) -> None:
    with two_per_cent() as entrance:
        idle.daemon.start()
        if long_form:
            # From its first instructions on: a start takes half a second of a whole processor.
            entrance.write_text(str(idle.daemon.pid))
        idle.settle(seconds=PATIENCE_SECONDS)
        eventually("READY", lambda: watchdog.ready_at, seconds=PATIENCE_SECONDS)
        entrance.write_text(str(idle.daemon.pid))
        tally.add("faults of the environment")
        made = dict(idle.manager.registrations.made)
        quiet(60 if long_form else 10)
        for _ in range(10 if long_form else 2):
            quiet(2)
            idle.over_the_limit()
            idle.greedy_dies(seconds=PATIENCE_SECONDS)
            idle.check()
        assert idle.manager.registrations.made == made
        assert set(idle.manager.registrations.live) == set(EXAMPLE_COUNTS)
        assert len(watchdog.beats) > 10
        assert watchdog.longest_silence() < WATCHDOG_SECONDS
        idle.manager.wait_allocatable(EXAMPLE_COUNTS, PATIENCE_SECONDS)
        # Want of time is no sickness of a device: not for a moment may kubelet count fewer.
        assert not idle.daemon.events("device became unhealthy")
    idle.sound()


@contextmanager
def in_slices(pid: int, *, running_seconds: float, stopped_seconds: float) -> Iterator[None]:
    """Let a process run in slices only, by SIGSTOP and SIGCONT: for want of root."""
    ended = threading.Event()

    def slice_it() -> None:
        while not ended.is_set():
            os.kill(pid, signal.SIGSTOP)
            ended.wait(stopped_seconds)
            os.kill(pid, signal.SIGCONT)
            ended.wait(running_seconds)

    thread = threading.Thread(target=slice_it)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_a_daemon_that_runs_in_slices_keeps_its_registrations(rig: Rig, long_form: bool, tally: Tally) -> None:
    made = dict(rig.manager.registrations.made)
    with in_slices(rig.daemon.pid, running_seconds=0.01, stopped_seconds=0.49):
        tally.add("faults of the environment")
        quiet(60 if long_form else 3)
        rig.over_the_limit()
        rig.greedy_dies(seconds=PATIENCE_SECONDS)
        rig.check()
    rig.sound()
    assert rig.manager.registrations.made == made


def test_a_daemon_that_stood_still_goes_on_where_it_was(rig: Rig, long_form: bool, tally: Tally) -> None:
    made = dict(rig.manager.registrations.made)
    os.kill(rig.daemon.pid, signal.SIGSTOP)
    tally.add("faults of the environment")
    rig.over_the_limit()
    # Admission waits for the daemon; kubelet does not give it up.
    pod = pod_asking("meanwhile", main={SHARED: 1})
    later = rig.manager.admit_later(pod)
    quiet(60 if long_form else 4)
    rig.check_tenants()
    os.kill(rig.daemon.pid, signal.SIGCONT)
    rig.greedy_dies()
    admission = later.result(30)
    assert admission.admitted, admission.message
    rig.manager.delete(pod)
    rig.sound()
    assert rig.manager.registrations.made == made
