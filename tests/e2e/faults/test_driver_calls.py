"""Every function of the driver's library fails in turn, while the daemon runs and when it starts: refused, unknown, lost, hung.

What the daemon can do without must cost nothing: the counts stay right and the limit is held. What it cannot do without makes
devices sick, or refuses the start with exit code 69 and NVML's own word; and all is well again when the driver is.
"""

import re
from pathlib import Path

import pytest

from tests.campaign import Tally
from tests.e2e.daemon import EXAMPLE_COUNTS
from tests.e2e.faults.census import cpu_seconds
from tests.e2e.faults.rig import Rig
from tests.e2e.stage import quiet
from tests.e2e.waiting import eventually
from tests.standin.nvml.variant import exported, without

pytestmark = [pytest.mark.e2e, pytest.mark.faults]

NOT_SUPPORTED, NO_PERMISSION, INSUFFICIENT_SIZE, FUNCTION_NOT_FOUND, GPU_IS_LOST, UNKNOWN = 3, 4, 7, 13, 15, 999
ERRORS = (NOT_SUPPORTED, FUNCTION_NOT_FOUND, NO_PERMISSION, INSUFFICIENT_SIZE, GPU_IS_LOST, UNKNOWN)
NOT_OFFERED = (NOT_SUPPORTED, FUNCTION_NOT_FOUND)

ESSENTIAL = {
    "nvmlInitWithFlags",
    "nvmlDeviceGetCount_v2",
    "nvmlDeviceGetHandleByIndex_v2",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetName",
}
"""Without one of these there is no device to share."""
OF_PARTITIONS = {
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetMaxMigDeviceCount",
    "nvmlDeviceGetMigDeviceHandleByIndex",
    "nvmlDeviceGetGpuInstanceId",
    "nvmlDeviceGetComputeInstanceId",
}
"""Without one of these there are no partitions at the start; known ones stay."""
READINGS = {
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetHandleByUUID",
    *(f"nvmlDeviceGet{kind}RunningProcesses_v{form}" for kind in ("Compute", "Graphics", "MPSCompute") for form in (2, 3)),
}
"""What decides about health and limits: another form, or another kind, must do where one is not offered."""
NEVER_ASKED = {
    "nvmlDeviceGetAttributes_v2",
    "nvmlDeviceGetDeviceHandleFromMigDeviceHandle",
    "nvmlDeviceIsMigDeviceHandle",
    "nvmlErrorString",
    "nvmlEventSetWait",
    "nvmlInit",
    "nvmlInit_v2",
    "nvmlSystemGetCudaDriverVersion",
}
"""The library has them, and the adapter does not call them, or not by this name."""
FIGURES = set(exported()) - ESSENTIAL - OF_PARTITIONS - READINGS - NEVER_ASKED
"""All others: whatever one of these answers, the counts are right and the limit is held."""
SETTLING_SECONDS = 0.6
DROPPING_SECONDS = 2.5
"""Two enumerations: after so many a partition that is not there any more is dropped."""


@pytest.fixture
def brisk(idle: Rig) -> Rig:
    """The rig with a daemon, not started, that asks the driver for everything within a second."""
    idle.daemon.config["deviceManager"] = {"healthProbePeriod": 0.2, "deviceCacheTTL": 0.5, "processesDiscoveryPeriod": 1}
    return idle


def must_not_matter(call: str, error: int) -> bool:
    """Whether the counts must stay right and the limit held while a running daemon's driver answers so."""
    if call in FIGURES or call in NEVER_ASKED:
        return True
    return call in READINGS and error in NOT_OFFERED


def test_every_function_that_the_adapter_calls_is_in_the_campaign() -> None:
    """A new call of the binding, or of the library, must be put into one of the sets above."""
    sources = Path(__file__).parents[3].joinpath("mortalgpu", "driver").glob("*.py")
    called = set(re.findall(r"pynvml\.(nvml[A-Z]\w+)|\"(nvml[A-Z]\w+)\"", "".join(path.read_text() for path in sources)))
    names = {one or other for one, other in called} - {"nvmlLib", "nvmlMemory_v2"}
    names = {name for name in names if not name.startswith("nvmlEventType")}
    assert names
    unknown = {name for name in names if not any(re.fullmatch(rf"{name}(_v\d|WithFlags)?", known) for known in exported())}
    assert unknown == set()
    assert set(exported()) >= ESSENTIAL | OF_PARTITIONS | READINGS | NEVER_ASKED


@pytest.mark.timeout(1800)
def test_a_call_that_fails_while_the_daemon_runs_costs_no_more_than_it_must(brisk: Rig, long_form: bool, tally: Tally) -> None:
    brisk.daemon.start()
    brisk.settle()
    for call in sorted(set(exported()) - NEVER_ASKED):
        for error in ERRORS if long_form else (NOT_SUPPORTED,):
            before, spent = len(brisk.daemon.driver.met()), cpu_seconds(brisk.daemon.pid)
            brisk.daemon.driver.add_fault(call, error=error)
            try:
                quiet(DROPPING_SECONDS if call in OF_PARTITIONS else SETTLING_SECONDS)
                brisk.over_the_limit()
                if must_not_matter(call, error):
                    brisk.greedy_dies()
                    eventually("the counts", brisk.is_right, seconds=5)
                brisk.check()
                # What is known is sick at worst, and never gone.
                assert {name: each.capacity for name, each in brisk.manager.capacities().items()} == EXAMPLE_COUNTS
                assert cpu_seconds(brisk.daemon.pid) - spent < 1.5, "the daemon spins"
                if len(brisk.daemon.driver.met()) > before:
                    tally.add("driver calls failed")
                brisk.daemon.driver.clear_faults()
                brisk.sound()
            except AssertionError as failure:
                raise AssertionError(f"{call} answered {error}: {failure}\n{brisk.daemon.log()[-3000:]}") from failure


@pytest.mark.timeout(1800)
def test_a_call_that_hangs_while_the_daemon_runs_ends_with_the_hang(brisk: Rig, long_form: bool, tally: Tally) -> None:
    brisk.daemon.start()
    brisk.settle()
    calls = sorted(set(exported()) - NEVER_ASKED)
    for call in calls if long_form else ("nvmlDeviceGetMemoryInfo_v2",):
        before = len(brisk.daemon.driver.met())
        brisk.daemon.driver.add_fault(call, hang=0)
        try:
            quiet(4)
            brisk.check()
            if len(brisk.daemon.driver.met()) > before:
                tally.add("driver calls hung")
            brisk.daemon.driver.clear_faults()
            brisk.sound()
        except AssertionError as failure:
            raise AssertionError(f"{call} hung: {failure}") from failure


def starts_or_is_refused(rig: Rig, call: str, error: int) -> None:
    """Start the daemon, and hold it to one of the three ways: it works, it waits with what it has, or it says why it cannot."""
    at = len(rig.daemon.log())
    rig.daemon.start()
    process = rig.daemon.process
    assert process is not None
    eventually("a start, or its refusal", lambda: not process.running or '"ready"' in rig.daemon.log()[at:], seconds=20)
    told = rig.daemon.log()[at:]
    assert "traceback" not in told.lower()
    if process.running:
        return
    assert process.wait(1) == 69, told
    assert call not in FIGURES, f"a start must not fail for want of {call}: {told}"
    assert "NVML error" in told or "driver" in told.splitlines()[-1], told


@pytest.mark.timeout(1800)
def test_a_call_that_fails_at_the_start_is_done_without_or_named(brisk: Rig, long_form: bool, tally: Tally) -> None:
    calls = sorted(set(exported()) - NEVER_ASKED)
    for call in calls if long_form else calls[::12]:
        for error in ERRORS if long_form else (NOT_SUPPORTED,):
            brisk.daemon.driver.add_fault(call, error=error)
            try:
                starts_or_is_refused(brisk, call, error)
                tally.add("starts on a failing driver")
                brisk.daemon.driver.clear_faults()
                assert brisk.daemon.process is not None
                if brisk.daemon.process.running:
                    brisk.manager.wait_allocatable(EXAMPLE_COUNTS, 20)
                brisk.daemon.kill()
            except AssertionError as failure:
                raise AssertionError(f"{call} answered {error}: {failure}\n{brisk.daemon.log()[-3000:]}") from failure


@pytest.mark.timeout(600)
def test_a_function_that_an_old_library_lacks_is_done_without_or_named(brisk: Rig, long_form: bool, tally: Tally) -> None:
    folder = brisk.daemon.folder / "lib"
    folder.mkdir()
    calls = sorted(set(exported()) - NEVER_ASKED)
    for call in (
        calls if long_form else ("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetComputeRunningProcesses_v3", "nvmlEventSetCreate")
    ):
        brisk.daemon.library = without(folder, call)
        try:
            starts_or_is_refused(brisk, call, FUNCTION_NOT_FOUND)
            tally.add("starts on an old library")
            assert brisk.daemon.process is not None
            if brisk.daemon.process.running and must_not_matter(call, FUNCTION_NOT_FOUND):
                brisk.manager.wait_allocatable(EXAMPLE_COUNTS, 20)
            brisk.daemon.kill()
        except AssertionError as failure:
            raise AssertionError(f"without {call}: {failure}") from failure
