"""The rhythm: when a full scan is due."""

import pytest

from mortalgpu.model.device import Fault, Memory
from mortalgpu.model.usage import ContainerUsage, DeviceClaim, ProcessUsage, Usage
from mortalgpu.scan.rhythm import Cause, LastScan, Look, Tempo, due, looks_to_leave, remember
from mortalgpu.units import MIB
from tests.unit.scan.making import ref

TEMPO = Tempo()


def look(mib: int | None, uuid: str = "GPU-a") -> Look:
    """A look at one device; None: no reading."""
    return {uuid: Fault("unreadable") if mib is None else Memory(1000 * MIB, mib * MIB, 0)}


def usage(used: int, limit: int | None, container: str = "c") -> Usage:
    """A scan that found one container using `used` of `limit` MiB on GPU-a."""
    process = ProcessUsage(1, 1, ref(1), "GPU-a", used * MIB)
    claim = DeviceClaim("GPU-a", "r", 1, 0, None if limit is None else limit * MIB, (process,))
    return Usage(containers=(ContainerUsage("ns", "p", "c", "u", container, (claim,)),))


def last(used: int = 100, limit: int | None = 200, *, took: float = 0.01, device: int | None = None) -> LastScan:
    """A scan from 0 to `took`, by a look that showed `device` MiB (as many as the container's by default)."""
    return remember(usage(used, limit), look(used if device is None else device), 0.0, took, None)


def cause(
    before: LastScan | None, seen: Look, now: float = 1.0, *, awaited: bool = False, changed: bool = False
) -> Cause | None:
    """Ask the rhythm."""
    return due(before, seen, now, TEMPO, awaited=awaited, changed=changed)


def test_the_first_scan_is_due_at_once() -> None:
    assert cause(None, {}) is Cause.FIRST


def test_an_idle_device_needs_no_scan_until_the_period_is_over() -> None:
    assert cause(last(), look(100), 4.9) is None
    assert cause(last(), look(100), 5.0) is Cause.PERIOD


def test_growth_that_could_take_a_container_over_its_limit_is_urgent_at_any_time() -> None:
    assert cause(last(took=0.5), look(200), 0.51) is Cause.GROWTH


def test_growth_within_everybodys_headroom_waits_for_the_duty() -> None:
    assert cause(last(took=0.05), look(150), 0.4) is None
    assert cause(last(took=0.05), look(150), 0.6) is Cause.MOVED


def test_many_small_steps_add_up_against_the_last_scan() -> None:
    before = last(199, 200)
    assert cause(before, look(199), 0.2) is None
    assert cause(before, look(200), 0.2) is Cause.GROWTH


def test_the_fullest_container_decides_how_much_growth_is_urgent() -> None:
    tight = usage(190, 200).containers + usage(10, 900, "d").containers
    before = remember(Usage(containers=tight), look(500), 0.0, 0.5, None)
    assert cause(before, look(510), 0.6) is Cause.GROWTH


def test_a_container_without_a_known_limit_makes_nothing_urgent() -> None:
    assert cause(last(limit=None, took=0.5), look(900), 0.6) is None


def test_memory_that_went_down_is_a_move_too() -> None:
    assert cause(last(), look(50)) is Cause.MOVED


def test_less_than_the_smallest_move_is_no_move() -> None:
    assert cause(last(100, 900), {"GPU-a": Memory(1000 * MIB, 101 * MIB - 1, 0)}) is None


@pytest.mark.parametrize(("before", "now"), [(100, None), (None, 100)])
def test_a_device_that_lost_or_found_its_reading_moved(before: int | None, now: int | None) -> None:
    known = remember(Usage(), look(before), 0.0, 0.01, None)
    assert cause(known, look(now)) is Cause.MOVED


def test_a_container_over_its_limit_is_looked_at_again_at_once_for_a_while() -> None:
    assert cause(last(300, 200), look(300), 0.1) is Cause.OVER
    assert cause(last(300, 200), look(300), 4.9) is Cause.OVER


def test_one_that_stays_over_without_end_does_not_cost_a_scan_a_look_for_ever() -> None:
    first = last(300, 200)
    again = remember(usage(300, 200), look(300), 5.0, 5.01, first)
    assert again.over_since == 0.0
    assert cause(again, look(300), 5.2) is None


def test_another_container_going_over_begins_a_new_while() -> None:
    both = usage(300, 200).containers + usage(300, 200, "d").containers
    again = remember(Usage(containers=both), look(600), 50.0, 50.01, last(300, 200))
    assert cause(again, look(600), 50.2) is Cause.OVER


def test_an_awaited_fact_is_urgent_and_any_other_waits_for_the_duty() -> None:
    before = last(took=0.05)
    assert cause(before, look(100), 0.06, awaited=True) is Cause.AWAITED
    assert cause(before, look(100), 0.06, changed=True) is None
    assert cause(before, look(100), 0.6, changed=True) is Cause.FACTS


def test_scans_that_take_long_never_rest_longer_than_the_bound() -> None:
    before = remember(Usage(), look(100), 0.0, 2.0, None)
    assert cause(before, look(150), 3.01) is Cause.MOVED


def left(before: LastScan | None, seen: Look, now: float = 1.0, *, waiting: bool = False) -> int:
    """How many looks at the default rhythm the driver is left to make."""
    return looks_to_leave(before, seen, now, 0.1, TEMPO, waiting=waiting)


def test_looks_are_left_to_the_driver_while_all_is_calm() -> None:
    assert left(last(), look(100)) == 5
    assert left(last(), look(None)) == 0, "a device that answers no more has moved"


def test_nothing_is_left_to_the_driver_before_the_first_scan_or_while_anything_waits() -> None:
    assert left(None, look(100)) == 0
    assert left(last(), look(100), waiting=True) == 0


def test_nothing_is_left_to_the_driver_while_a_container_is_over_its_limit() -> None:
    assert left(last(250, 200), look(250)) == 0


def test_memory_that_moved_is_not_left_to_the_driver_before_it_was_scanned() -> None:
    assert left(last(100), look(101)) == 0
    assert left(last(100), look(99)) == 0


def test_the_driver_is_left_no_look_beyond_the_period() -> None:
    assert left(last(), look(100), 4.75) == 2
    assert left(last(), look(100), 4.95) == 0
    assert left(last(), look(100), 6.0) == 0


def test_a_rhythm_slower_than_the_watch_leaves_nothing_to_the_driver() -> None:
    assert looks_to_leave(last(), look(100), 1.0, 0.6, TEMPO, waiting=False) == 0
