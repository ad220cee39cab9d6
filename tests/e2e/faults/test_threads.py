"""No more threads: a pids cgroup that is full, at the start, and while a GPU hangs. Those that there are take turns."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mortalgpu.__main__ import LAST_SECONDS
from mortalgpu.simulation.driver import partition_uuid
from tests.campaign import Tally
from tests.e2e.daemon import EXAMPLE_COUNTS, SHARED
from tests.e2e.faults.rig import Rig
from tests.e2e.pods import pod_asking
from tests.e2e.stage import quiet
from tests.e2e.waiting import eventually

pytestmark = [
    *(pytest.mark.e2e, pytest.mark.faults, pytest.mark.root),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a cgroup"),
]
CGROUPS = Path("/sys/fs/cgroup")
TOLD = '"no thread can be started'


class Few:
    """A cgroup that says how many threads may be started in it."""

    def __init__(self, folder: Path) -> None:
        self._limit = folder / "pids.max"
        self.entrance = folder / "cgroup.procs"

    def allow(self, count: int | None) -> None:
        """Let there be so many threads at most (None: any number). Those above it live on."""
        self._limit.write_text("max" if count is None else str(count))


@pytest.fixture
def few() -> Iterator[Few]:
    unified = (CGROUPS / "cgroup.controllers").exists()
    folder = (CGROUPS if unified else CGROUPS / "pids") / f"mortalgpu-few-{os.getpid()}"
    folder.mkdir()
    few = Few(folder)
    try:
        yield few
    finally:
        few.allow(None)
        for pid in few.entrance.read_text().split():
            (folder.parent / "cgroup.procs").write_text(pid)
        folder.rmdir()


@pytest.fixture
def _time_enough(long_form: bool) -> None:
    if not long_form:
        pytest.skip("a part of the long form (--campaign long)")


@contextmanager
def no_more(few: Few, pid: int) -> Iterator[None]:
    """Start no thread of a process for the length of the block."""
    few.entrance.write_text(str(pid))
    few.allow(1)
    yield
    few.allow(None)


@pytest.mark.usefixtures("_time_enough")
def test_a_daemon_that_gets_no_thread_at_its_start_says_so_and_waits(idle: Rig, few: Few, tally: Tally) -> None:
    few.allow(1)
    idle.daemon.before = ("/bin/sh", "-c", f'echo $$ > {few.entrance}; exec "$@"', "sh")
    idle.daemon.start()
    tally.add("faults of the environment")
    process = idle.daemon.process
    assert process is not None
    eventually("the reason", lambda: idle.daemon.events(TOLD), seconds=20)
    quiet(1)
    assert process.running, idle.daemon.log()
    idle.no_fault_of_ours()
    few.allow(None)
    idle.settle()
    idle.sound()


def test_no_thread_and_a_gpu_that_hangs_take_neither_the_limit_nor_the_other_gpus(
    rig: Rig, few: Few, long_form: bool, tally: Tally
) -> None:
    """A thread or two of the few hang in the driver: everything else must do with what is left."""
    made, pid = dict(rig.manager.registrations.made), rig.daemon.pid
    with no_more(few, pid):
        rig.daemon.driver.add_fault("nvmlDeviceGetMemoryInfo_v2", partition_uuid(9), hang=0)
        tally.add("faults of the environment", 2)
        eventually("want of a thread", lambda: rig.daemon.events(TOLD), seconds=20)
        quiet(60 if long_form else 1)
        pod = pod_asking("amid it", main={SHARED: 1})
        admission = rig.manager.admit(pod)
        assert admission.admitted, admission.message
        os.kill(pid, signal.SIGHUP)
        rig.over_the_limit()
        rig.greedy_dies()
        rig.manager.delete(pod)
        rig.check()
        rig.daemon.driver.clear_faults()
        rig.manager.wait_allocatable(EXAMPLE_COUNTS, 30)
    rig.sound()
    assert rig.daemon.pid == pid
    assert rig.manager.registrations.made == made


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("_time_enough")
def test_a_thread_that_never_comes_back_does_not_keep_a_daemon_from_its_end(rig: Rig, tally: Tally) -> None:
    state = rig.daemon.folder / "state"
    os.mkfifo(state / f".layout.json.{rig.daemon.pid}")  # Where the layout is written first: nobody reads it.
    config = json.loads((rig.daemon.folder / "config.json").read_text())
    config["deviceSharing"][2]["metagpusPerGpu"] = 100
    (rig.daemon.folder / "config.json").write_text(json.dumps(config))
    tally.add("faults of the environment")
    quiet(6)  # It looks at its file every two seconds.
    process = rig.daemon.process
    assert process is not None
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(LAST_SECONDS + 30) == -signal.SIGALRM
    rig.check_tenants()
