"""Verdicts: whom to stop, and whom to leave alone while another is dying."""

from dataclasses import replace

from mortalgpu.enforcer.decide import (
    Standings,
    Verdict,
    decide,
    forget_gone,
    identity,
    order_begun,
    order_ended,
    still_over,
)
from mortalgpu.model.usage import ContainerUsage, DeviceClaim, ProcessUsage, Usage
from mortalgpu.units import MIB
from tests.unit.scan.making import cid, ref, uid


def process(pid: int, mib: int | None, *, number: int = 1, uuid: str = "GPU-a", start_ticks: int = 5) -> ProcessUsage:
    """A process of container `number`."""
    return ProcessUsage(pid, start_ticks, ref(number), uuid, None if mib is None else mib * MIB)


def claim(limit: int | None, *processes: ProcessUsage, uuid: str = "GPU-a", shares: int = 1) -> DeviceClaim:
    """A claim with a limit in MiB."""
    return DeviceClaim(uuid, "r", shares, 0, None if limit is None else limit * MIB, processes)


def usage(*claims: DeviceClaim, looked_at: float = 1.0) -> Usage:
    """A scan that found container 1 alone."""
    return Usage(1, looked_at=looked_at, containers=(ContainerUsage("ns", "p", "main", uid(1), cid(1), claims),))


def victims(found: Usage, standings: Standings | None = None, now: float = 1.0) -> list[int]:
    """The pids that are condemned."""
    return [verdict.victim.pid for verdict in decide(found, standings or {}, now)]


def verdict(found: Usage) -> Verdict:
    """The one verdict of a scan."""
    (only,) = decide(found, {}, found.looked_at)
    return only


def test_a_container_within_its_limit_is_left_alone() -> None:
    assert victims(usage(claim(100, process(1, 60), process(2, 40)))) == []


def test_the_process_with_the_most_memory_is_the_victim() -> None:
    assert victims(usage(claim(100, process(1, 30), process(2, 50), process(3, 40)))) == [2]


def test_ten_processes_each_under_the_limit_are_over_together() -> None:
    assert len(victims(usage(claim(100, *(process(pid, 11) for pid in range(10)))))) == 1


def test_of_equal_processes_the_youngest_is_the_victim() -> None:
    assert victims(usage(claim(100, process(9, 60, start_ticks=1), process(3, 60, start_ticks=2)))) == [3]


def test_an_unknown_limit_condemns_nobody() -> None:
    assert victims(usage(claim(None, process(1, 10_000)))) == []


def test_unknown_memory_alone_condemns_nobody() -> None:
    assert victims(usage(claim(100, process(1, None), process(2, 90)))) == []


def test_known_memory_above_the_limit_is_enough_whatever_else_is_unknown() -> None:
    assert victims(usage(claim(100, process(1, None), process(2, 101)))) == [2]


def test_a_foreign_device_has_limit_zero() -> None:
    assert victims(usage(claim(100, process(1, 90)), claim(0, process(1, 1, uuid="GPU-b"), uuid="GPU-b", shares=0))) == [1]


def test_a_process_that_holds_nothing_on_a_foreign_device_is_left_alone() -> None:
    assert victims(usage(claim(0, process(1, 0), shares=0))) == []


def test_a_container_without_an_id_is_never_judged() -> None:
    nameless = ContainerUsage("ns", "p", "main", "", "", (claim(100, process(1, 900)),))
    assert victims(Usage(1, looked_at=1.0, containers=(nameless,))) == []


def test_only_one_process_of_a_container_is_condemned_at_a_time() -> None:
    both = usage(claim(100, process(1, 900)), claim(100, process(2, 900, uuid="GPU-b"), uuid="GPU-b"))
    assert victims(both) == [1]


def test_nothing_is_decided_while_an_order_runs() -> None:
    found = usage(claim(100, process(1, 900), process(2, 800)))
    assert victims(found, order_begun({}, verdict(found)), now=99.0) == []


def test_the_scan_that_condemned_one_condemns_nobody_else() -> None:
    found = usage(claim(100, process(1, 900), process(2, 800)))
    done = order_ended({}, verdict(found), 2.0, drain_seconds=5)
    assert victims(found, done, 2.1) == []
    assert victims(usage(claim(100, process(2, 800)), looked_at=1.9), done, 2.1) == []


def test_the_next_look_after_the_death_decides_again() -> None:
    done = order_ended({}, verdict(usage(claim(100, process(1, 900), process(2, 800)))), 2.0, drain_seconds=5)
    assert victims(usage(claim(100, process(2, 800)), looked_at=2.1), done, 2.2) == [2]


def test_memory_that_drains_after_a_death_condemns_nobody() -> None:
    done = order_ended({}, verdict(usage(claim(100, process(1, 900), process(2, 90)))), 2.0, drain_seconds=5)
    still_listed = usage(claim(100, process(1, 400), process(2, 90)), looked_at=2.1)
    assert victims(still_listed, done, 2.2) == []
    assert victims(still_listed, done, 7.5) == []


def test_others_that_are_over_by_themselves_wait_for_the_drain_and_no_longer() -> None:
    done = order_ended({}, verdict(usage(claim(100, process(1, 900), process(2, 800)))), 2.0, drain_seconds=5)
    still_listed = usage(claim(100, process(1, 900), process(2, 800)), looked_at=2.1)
    assert victims(still_listed, done, 6.9) == []
    assert victims(still_listed, done, 7.0) == [2]


def test_one_that_cannot_be_ended_is_given_up_on_and_its_memory_condemns_nobody() -> None:
    stuck = order_ended({}, verdict(usage(claim(100, process(1, 900), process(2, 90)))), 2.0, drain_seconds=0)
    assert victims(usage(claim(100, process(1, 900), process(2, 90)), looked_at=2.1), stuck, 99.0) == []
    assert victims(usage(claim(100, process(1, 900), process(2, 190)), looked_at=2.1), stuck, 2.2) == [2]


def test_a_new_process_with_the_number_of_the_dead_is_judged_for_itself() -> None:
    done = order_ended({}, verdict(usage(claim(100, process(1, 900)))), 2.0, drain_seconds=5)
    assert victims(usage(claim(100, process(1, 900, start_ticks=6)), looked_at=2.1), done, 2.2) == [1]


def test_a_failed_order_is_repeated_after_its_rest() -> None:
    found = usage(claim(100, process(1, 900)))
    failed = order_ended({}, verdict(found), 2.0, rest_seconds=5.0)
    later = usage(claim(100, process(1, 900)), looked_at=3.0)
    assert victims(later, failed, 6.9) == []
    assert victims(later, failed, 7.0) == [1]


def test_standings_of_containers_that_are_gone_are_forgotten_unless_an_order_runs() -> None:
    condemned = verdict(usage(claim(100, process(1, 900))))
    assert forget_gone(order_ended({}, condemned, 2.0), Usage()) == {}
    running = order_begun({}, condemned)
    assert forget_gone(running, Usage()) == running


def test_ended_processes_are_forgotten_once_the_driver_lists_them_no_more() -> None:
    condemned = verdict(usage(claim(100, process(1, 900), process(2, 50))))
    done = order_ended({}, condemned, 2.0, drain_seconds=5)
    without = claim(100, process(2, 50))
    assert forget_gone(done, usage(without, looked_at=2.1))[ref(1)].ended == {}
    listed = usage(claim(100, process(1, 900), process(2, 50)), looked_at=2.1)
    assert forget_gone(done, listed)[ref(1)].ended == done[ref(1)].ended


def test_a_scan_that_could_not_read_a_device_or_came_too_early_makes_nobody_forgotten() -> None:
    condemned = verdict(usage(claim(100, process(1, 900), process(2, 50))))
    done = order_ended({}, condemned, 2.0, drain_seconds=5)
    blind = replace(claim(100), readable=False)
    for found in (usage(blind, looked_at=2.1), usage(claim(100, process(2, 50)), looked_at=1.9)):
        assert forget_gone(done, found)[ref(1)].ended == done[ref(1)].ended


def test_the_last_question_counts_only_processes_that_are_who_they_were() -> None:
    one, two = process(1, 60), process(2, 50)
    judged = claim(100, one, two)
    assert still_over(judged, {identity(one): 60 * MIB, identity(two): 50 * MIB}, {})
    assert not still_over(judged, {identity(one): 60 * MIB}, {})
    assert not still_over(judged, {identity(one): 60 * MIB, identity(process(2, 50, start_ticks=6)): 50 * MIB}, {})


def test_the_last_question_leaves_out_memory_of_those_that_were_ended() -> None:
    one, two = process(1, 900), process(2, 50)
    ended = order_ended({}, verdict(usage(claim(100, one))), 2.0, drain_seconds=0)
    assert not still_over(claim(100, one, two), {identity(one): 900 * MIB, identity(two): 50 * MIB}, ended)


def test_the_last_question_says_no_without_a_limit() -> None:
    one = process(1, 900)
    assert not still_over(claim(None, one), {identity(one): 900 * MIB}, {})
