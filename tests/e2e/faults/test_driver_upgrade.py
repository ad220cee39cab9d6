"""The driver is upgraded under a running daemon: a new library on the disk, and a kernel module that refuses the old one."""

from pathlib import Path

import pytest

from mortalgpu.simulation.driver import v100_uuid
from tests.campaign import Tally
from tests.e2e.daemon import SHARED
from tests.e2e.device_manager import Capacity
from tests.e2e.faults.rig import Rig
from tests.e2e.stage import quiet
from tests.e2e.waiting import eventually
from tests.standin.nvml.variant import another_build

pytestmark = [pytest.mark.e2e, pytest.mark.faults]
REFUSED = "different versions"


@pytest.fixture
def library(idle: Rig) -> Path:
    """The folder of the library that the rig's daemon, started with it, has loaded: build 1."""
    folder = idle.daemon.folder / "lib"
    folder.mkdir()
    idle.daemon.library = another_build(folder, 1)
    idle.daemon.start()
    idle.settle()
    return folder


def gone(rig: Rig) -> None:
    """Wait until no share can be allocated."""
    eventually("the loss of every share", lambda: rig.manager.capacity(SHARED) == Capacity(800, 0), seconds=15)


def test_an_upgraded_driver_is_taken_up_by_itself(idle: Rig, library: Path, long_form: bool, tally: Tally) -> None:
    made = dict(idle.manager.registrations.made)
    for number in range(2, 12 if long_form else 4):
        another_build(library, number)
        quiet(0.5)
        idle.sound()
        idle.daemon.driver.require_build(number)
        tally.add("upgrades of the driver")
        idle.daemon.driver.reload_driver()
        idle.sound()
    assert idle.manager.registrations.made == made, "kubelet need not hear of it"


def test_a_module_that_is_newer_than_the_library_is_waited_out(idle: Rig, library: Path, tally: Tally) -> None:
    """The module first, the library a while later: as when a package is halfway installed."""
    idle.daemon.driver.require_build(2)
    tally.add("upgrades of the driver")
    gone(idle)
    idle.over_the_limit()
    quiet(2)
    idle.check_tenants()
    another_build(library, 2)
    idle.greedy_dies()
    idle.sound()


def test_the_driver_and_its_library_may_be_away_for_a_while(idle: Rig, library: Path, tally: Tally) -> None:
    (loaded,) = library.glob("lib*")
    loaded.unlink()
    idle.daemon.driver.unload_driver()
    tally.add("upgrades of the driver")
    gone(idle)
    quiet(2)
    idle.check_tenants()
    idle.daemon.driver.require_build(2)
    idle.daemon.driver.reload_driver()
    quiet(2)
    another_build(library, 2)
    idle.sound()


def test_a_gpu_that_was_lost_for_good_is_well_after_the_upgrade(idle: Rig, library: Path, tally: Tally) -> None:
    idle.daemon.driver.push_event(v100_uuid(0), "xid", 79)
    eventually("the sickness", lambda: idle.manager.capacity(SHARED) == Capacity(800, 400), seconds=10)
    idle.daemon.driver.require_build(2)
    tally.add("upgrades of the driver")
    gone(idle)
    another_build(library, 2)
    idle.sound()


def test_a_start_on_a_mismatch_is_refused_in_plain_words(idle: Rig, tally: Tally) -> None:
    idle.daemon.driver.require_build(2)
    idle.daemon.start()
    tally.add("upgrades of the driver")
    assert idle.daemon.process is not None
    assert idle.daemon.process.wait(20) == 69
    assert REFUSED in idle.daemon.log()
