"""What each collector makes of odd facts: unknown figures, names that meet, shares without processes."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import pytest

from mortalgpu.exporter import allocation, calls, container, device, driver, enforcement, metagpu, names, process, scan
from mortalgpu.exporter.family import Distribution, Family
from mortalgpu.exporter.names import Metric
from mortalgpu.model.counts import DriverCounts
from mortalgpu.model.device import Health
from mortalgpu.model.kill import NO_ENFORCEMENT
from mortalgpu.model.usage import NO_USAGE, ContainerUsage
from mortalgpu.units import from_mib
from tests.unit.exporter.facts import (
    PARTITION_ID,
    SHARED,
    SMALL,
    V100_ID,
    claim,
    holder,
    inventory,
    plugins,
    running,
    usage,
)

MIB_1000 = float(from_mib(1000))


def rows(families: Iterable[Family], metric: Metric) -> dict[tuple[str, ...], object]:
    """The rows of one metric."""
    (found,) = (each for each in families if each.metric is metric)
    return dict(found.rows)


def _containers(*holders: ContainerUsage, metric: Metric) -> list[object]:
    return list(rows(container.collect(inventory(), usage(*holders), {}), metric).values())


def test_before_the_first_scan_a_device_shows_what_is_known_without_one() -> None:
    families = list(device.collect(inventory(), NO_USAGE))
    assert len(rows(families, names.DEVICE_MEMORY_SIZE)) == 2
    assert rows(families, names.DEVICE_MEMORY_USED) == {}
    assert rows(families, names.DEVICE_READABLE) == {}


def test_a_device_that_could_not_be_read_has_no_figures_and_says_so() -> None:
    families = list(device.collect(inventory(), usage()))
    assert [labels[0] for labels in rows(families, names.DEVICE_MEMORY_USED)] == [V100_ID]
    assert list(rows(families, names.DEVICE_READABLE).values()) == [1.0, 0.0]


def test_calls_of_the_device_api_are_counted_by_code_and_the_usual_codes_from_zero() -> None:
    found = rows(calls.collect(Counter({"UNAUTHENTICATED": 2, "INTERNAL": 1})), names.API_CALLS)
    assert found == {
        ("INTERNAL",): 1,
        ("OK",): 0,
        ("PERMISSION_DENIED",): 0,
        ("RESOURCE_EXHAUSTED",): 0,
        ("UNAUTHENTICATED",): 2,
    }


def test_a_long_reason_is_cut() -> None:
    sick = replace(inventory(), health={V100_ID: Health(False, "x" * 1000)})
    ((*_, reason),) = rows(device.collect(sick, usage()), names.DEVICE_UNHEALTHY_REASON)
    assert reason == "x" * device.REASON_LENGTH


def test_a_healthy_device_has_no_reason_and_a_sick_one_says_since_when() -> None:
    families = list(device.collect(inventory(), usage()))
    assert [(labels[0], labels[-1]) for labels in rows(families, names.DEVICE_UNHEALTHY_REASON)] == [
        (PARTITION_ID, "its GPU: XID 79")
    ]
    assert [labels[0] for labels in rows(families, names.DEVICE_HEALTH_CHANGED)] == [PARTITION_ID]


def test_a_containers_use_is_the_sum_of_its_processes_and_unknown_if_one_is() -> None:
    known = holder(1, claim(V100_ID, running(1, 600), running(2, 400)))
    unknown = holder(2, claim(V100_ID, running(3, 600), running(4, None)))
    assert _containers(known, unknown, metric=names.CONTAINER_MEMORY_USED) == [MIB_1000]


def test_a_container_without_a_process_still_has_its_row() -> None:
    assert _containers(holder(1, claim(V100_ID)), metric=names.CONTAINER_MEMORY_USED) == [0]
    assert _containers(holder(1, claim(V100_ID)), metric=names.CONTAINER_PROCESSES) == [0]


def test_a_limit_that_is_not_certain_is_not_shown() -> None:
    uncertain = replace(claim(V100_ID), limit_bytes=None)
    assert _containers(holder(1, uncertain), metric=names.CONTAINER_MEMORY_LIMIT) == []


def test_containers_of_the_same_names_are_one_row_with_the_sum() -> None:
    old = holder(1, claim(V100_ID, running(1, 600), shares=30), pod="web-0")
    new = holder(2, claim(V100_ID, running(2, 400), shares=10), pod="web-0")
    assert _containers(old, new, metric=names.CONTAINER_MEMORY_USED) == [MIB_1000]
    assert _containers(old, new, metric=names.CONTAINER_SHARES) == [40]


def test_kills_are_shown_for_containers_that_are_there_from_zero_on() -> None:
    from tests.unit.exporter.facts import enforcement as kills

    found = rows(container.collect(inventory(), usage(), kills().kills), names.CONTAINER_KILLS)
    assert {labels[1]: count for labels, count in found.items()} == {"jupyter-1": 0, "jupyter-2": 2, "jupyter-3": 0}


@pytest.mark.parametrize("command", ["x" * 4000, "a\udcff\ud800b", 'quo"te\\\n', "\x1b[2J\x9b\u202e\r\0"])
def test_what_a_tenant_writes_stays_short_and_valid(command: str) -> None:
    mine = holder(1, claim(V100_ID, running(1, 1, command=command, user=command)))
    ((*_, user, shown),) = rows(process.collect(inventory(), usage(mine)), names.PROCESS_INFO)
    assert len(shown.encode()) <= process.COMMAND_LENGTH
    assert len(user.encode()) <= process.USER_LENGTH
    assert (shown + user).replace("\n", "").isprintable()


def test_shares_allocated_of_a_resource_are_unknown_while_those_of_a_device_are() -> None:
    found = rows(allocation.collect_resources(inventory(), usage()), names.RESOURCE_ALLOCATED)
    assert found == {(SHARED,): 80}
    assert rows(allocation.collect_resources(inventory(), NO_USAGE), names.RESOURCE_ALLOCATED) == {}


def test_a_sick_devices_shares_are_advertised_and_not_healthy() -> None:
    families = list(allocation.collect_resources(inventory(), usage()))
    assert rows(families, names.RESOURCE_ADVERTISED) == {(SHARED,): 360, (SMALL,): 100}
    assert rows(families, names.RESOURCE_HEALTHY) == {(SHARED,): 360, (SMALL,): 0}
    assert rows(families, names.RESOURCE_RESERVED) == {(SHARED,): 40, (SMALL,): 0}


def test_a_resource_that_is_not_registered_yet_has_its_rows() -> None:
    families = list(allocation.collect(inventory(), {}))
    assert rows(families, names.PLUGIN_REGISTERED) == {(SHARED,): 0.0, (SMALL,): 0.0}
    assert len(rows(families, names.ALLOCATION_REFUSALS)) == 2 * len(allocation.REASONS)


def test_a_resource_that_is_gone_has_no_rows() -> None:
    alone = replace(inventory(), devices=inventory().devices[:1])
    assert rows(allocation.collect(alone, plugins()), names.PLUGIN_REGISTRATIONS) == {(SHARED,): 2}


def test_every_refusal_that_the_code_can_raise_has_its_row() -> None:
    from mortalgpu.errors import AllocationError

    kinds, waiting = set[str](), [AllocationError]
    while waiting:
        kind = waiting.pop()
        kinds.add(kind.reason)
        waiting += kind.__subclasses__()
    assert kinds <= set(allocation.REASONS)


def test_every_outcome_of_a_kill_has_its_row_before_it_happens() -> None:
    from mortalgpu.host.base import KillOutcome

    found = rows(enforcement.collect(NO_ENFORCEMENT, enabled=False), names.ENFORCEMENT_ACTIONS)
    assert {(outcome.value,) for outcome in KillOutcome} < set(found)
    assert set(found.values()) == {0}


def test_a_scan_that_never_was_has_no_time() -> None:
    families = list(scan.collect(NO_USAGE))
    assert rows(families, names.SCAN_LAST) == {}
    duration = rows(families, names.SCAN_DURATION)[()]
    assert isinstance(duration, Distribution)
    assert sum(duration.counts) == 0


def test_an_abandoned_call_counts_as_an_error_too() -> None:
    counts = DriverCounts()
    counts.errors.update(timeout=2, lost=1)
    families = list(driver.collect(counts, Counter({("", "lost", 0): 1})))
    assert rows(families, names.DRIVER_ABANDONED) == {(): 2}
    assert rows(families, names.DRIVER_EVENTS) == {("", "lost", ""): 1}
    assert rows(families, names.DRIVER_ERRORS) == {("failed",): 0, ("lost",): 1, ("timeout",): 2}


def test_metagpus_figures_are_in_mib_and_per_cent_of_the_shares() -> None:
    families = list(metagpu.collect(inventory(), usage(holder(1, claim(V100_ID, running(1, 800), shares=40)))))
    assert list(rows(families, names.METAGPU_MEMORY).values()) == [800]
    assert list(rows(families, names.METAGPU_MAX_MEMORY).values()) == [3200]
    assert list(rows(families, names.METAGPU_RELATIVE_MEMORY).values()) == [25.0]
    assert list(rows(families, names.METAGPU_MAX_GPU).values()) == [10.0]
    assert list(rows(families, names.METAGPU_RELATIVE_GPU).values()) == [300.0]


def test_metagpus_relative_figures_are_absent_on_a_device_that_was_not_granted() -> None:
    foreign = claim(PARTITION_ID, running(1, 100, PARTITION_ID), shares=0, resource=SMALL)
    families = list(metagpu.collect(inventory(), usage(holder(1, foreign))))
    assert rows(families, names.METAGPU_RELATIVE_MEMORY) == {}
    assert rows(families, names.METAGPU_RELATIVE_GPU) == {}
    assert rows(families, names.METAGPU_REQUESTS) == {}


def test_metagpus_limits_of_a_pod_are_at_least_its_requests_over_all_its_containers() -> None:
    twice = from_mib(80 * 80 + 81)
    pod = (holder(1, claim(V100_ID), pod="p"), holder(2, claim(V100_ID, limit_bytes=twice), pod="p"))
    families = list(metagpu.collect(inventory(), usage(*pod)))
    assert rows(families, names.METAGPU_REQUESTS) == {("p", "ns", SHARED): 80}
    # A share of this device is 81.92 MiB: 79 of them fit into that limit.
    assert rows(families, names.METAGPU_LIMITS) == {("p", "ns", SHARED): 40 + 79}
