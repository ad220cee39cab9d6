"""No more memory: an address space that may not grow, a memory cgroup too small. The daemon ends, says why, and comes back."""

import os
import resource
import signal
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from mortalgpu.__main__ import LAST_SECONDS
from tests.campaign import Tally
from tests.e2e.daemon import SHARED
from tests.e2e.faults.rig import Rig
from tests.e2e.faults.test_descriptors import knocking
from tests.e2e.pods import Pod, pod_asking
from tests.e2e.stage import quiet
from tests.e2e.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.faults]
MIB = 1 << 20
KIB = 1 << 10
ABRUPT_ENDS = (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGALRM)
"""How Python and its libraries end where no memory is left to raise an error in, and the daemon that did not end in time."""
TOO_LITTLE_BYTES = 12 * MIB
"""A third of what the daemon needs to start."""
CGROUPS = Path("/sys/fs/cgroup")


def _size_bytes(pid: int) -> int:
    """The address space of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


@contextmanager
def no_more_memory(pid: int, spare_bytes: int) -> Iterator[None]:
    """Let a process grow by so much, and no further, for the length of the block or of its life."""
    before = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (_size_bytes(pid) + spare_bytes, before[1]))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_AS, before)


@pytest.fixture(params=[0, 256 * KIB, MIB, 4 * MIB])
def spare_bytes(request: pytest.FixtureRequest, long_form: bool) -> int:
    if request.param and not long_form:
        pytest.skip("none to spare will do in the short form")
    return int(request.param)


def test_out_of_memory_while_called_ends_in_a_word_and_a_restart_or_in_nothing(
    spare_bytes: int, rig: Rig, long_form: bool, tally: Tally
) -> None:
    process, admitted = rig.daemon.process, list[Pod]()
    assert process is not None
    with ExitStack() as clients, no_more_memory(process.pid, spare_bytes):
        tally.add("faults of the environment")
        for round_number in range(10 if long_form else 3):
            if process.running:
                admitted += _a_busy_moment(rig, clients, round_number)
            rig.check_tenants()
        rig.over_the_limit()
        # It may be on its way out, or at work as ever.
        eventually("its end, or an answer", lambda: not process.running or rig.is_right(), seconds=LAST_SECONDS + 15)
    if not process.running:
        code, log = process.wait(1), rig.daemon.log()
        assert code in (69, *ABRUPT_ENDS), f"{code}: {log[-3000:]}"
        assert code in ABRUPT_ENDS or "mortalgpu: no memory is left for this process" in log, log[-3000:]
        rig.daemon.start()
    rig.greedy_dies()
    for pod in admitted:
        rig.manager.delete(pod)
    eventually("the counts", rig.is_right, seconds=20)
    rig.check()
    rig.over_the_limit()
    rig.greedy_dies()


def _a_busy_moment(rig: Rig, clients: ExitStack, number: int) -> list[Pod]:
    """Clients at every door, pods, scrapes and a reload; returns the pods that were admitted."""
    with suppress(OSError):
        clients.enter_context(knocking(rig))
    pods = [pod_asking(f"busy {number} {each}", main={SHARED: 60}) for each in range(3)]
    admitted = [pod for pod in pods if rig.manager.admit(pod).admitted]
    for event in rig.daemon.events('"serving metrics"'):
        with suppress(OSError, ValueError):
            urllib.request.urlopen(f"http://{event['address']}/metrics", timeout=2).read()
    with suppress(ProcessLookupError):
        os.kill(rig.daemon.pid, signal.SIGHUP)
    quiet(0.2)
    return admitted


@contextmanager
def memory_cgroup() -> Iterator[tuple[Path, Path]]:
    """Make a cgroup that bounds memory; yields the file of the bound, and that by which a process enters."""
    unified = "memory" in _words(CGROUPS / "cgroup.controllers")
    parent = CGROUPS if unified else CGROUPS / "memory"
    if not unified and not (parent / "memory.limit_in_bytes").exists():
        pytest.skip("no cgroup of this machine bounds memory")
    folder = parent / f"mortalgpu-small-{os.getpid()}"
    folder.mkdir()
    try:
        yield folder / ("memory.max" if unified else "memory.limit_in_bytes"), folder / "cgroup.procs"
    finally:
        for pid in _words(folder / "cgroup.procs"):
            (parent / "cgroup.procs").write_text(pid)
        folder.rmdir()


def _words(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a cgroup")
def test_a_daemon_that_the_kernel_ends_for_its_memory_again_and_again_loses_nothing(
    rig: Rig, long_form: bool, tally: Tally
) -> None:
    """As kubelet restarts a container whose limit is too low, until somebody raises it."""
    rig.daemon.kill()
    with memory_cgroup() as (bound, entrance):
        bound.write_text(str(TOO_LITTLE_BYTES))
        rig.daemon.before = ("/bin/sh", "-c", f'echo $$ > {entrance}; exec "$@"', "sh")
        for _ in range(10 if long_form else 2):
            rig.daemon.start()
            process = rig.daemon.process
            assert process is not None
            assert process.wait(30) == -signal.SIGKILL, rig.daemon.log()[-3000:]
            tally.add("faults of the environment")
            rig.check_tenants()
            rig.over_the_limit()
        bound.write_text("-1" if "limit" in bound.name else "max")
        rig.daemon.start()
        began = time.monotonic()
        rig.greedy_dies()
        assert time.monotonic() - began < 20
        rig.sound()
        rig.daemon.kill()
