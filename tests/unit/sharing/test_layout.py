"""Which layout is in force while containers hold shares of another one."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mortalgpu.model.grant import Grant
from mortalgpu.model.pod import Assignment
from mortalgpu.model.share import Inventory, SharedDevice
from mortalgpu.sharing.layout import (
    Held,
    LayoutEntry,
    Settlement,
    dump_layout,
    held_shares,
    load_layout,
    recover,
    settle,
)
from tests.unit.sharing.devices import gpu, shared

RESOURCE = "example.com/gpu"
OLD = LayoutEntry(RESOURCE, 10)


def wanted(*devices: SharedDevice) -> Inventory:
    return Inventory(devices)


def in_force(settlement: Settlement) -> dict[str, LayoutEntry]:
    return {
        member.uuid: LayoutEntry(member.resource, member.shares, member.reserved) for member in settlement.inventory.devices
    }


def test_a_first_start_takes_and_remembers_the_configured_layout() -> None:
    settlement = settle(wanted(shared("GPU-a", 10)), {}, {})
    assert in_force(settlement) == settlement.remembered == {"GPU-a": OLD}
    assert settlement.inventory.notices == ()
    assert not settlement.provisional


def test_a_changed_count_waits_while_shares_are_held() -> None:
    settlement = settle(wanted(shared("GPU-a", 20)), {"GPU-a": OLD}, {"GPU-a": Held(RESOURCE, 3, 7)})
    assert in_force(settlement) == settlement.remembered == {"GPU-a": OLD}
    (notice,) = settlement.inventory.notices
    assert (notice.uuid, notice.resource, notice.shares_in_force, notice.shares_configured, notice.held) == (
        "GPU-a",
        RESOURCE,
        10,
        20,
        3,
    )


def test_the_configured_count_takes_over_when_the_last_holder_is_gone() -> None:
    settlement = settle(wanted(shared("GPU-a", 20)), {"GPU-a": OLD}, {})
    assert in_force(settlement) == settlement.remembered == {"GPU-a": LayoutEntry(RESOURCE, 20)}
    assert settlement.inventory.notices == ()


def test_one_device_waits_and_its_neighbour_does_not() -> None:
    want = wanted(shared("GPU-a", 20), shared("GPU-b", 20))
    settlement = settle(want, {"GPU-a": OLD, "GPU-b": OLD}, {"GPU-b": Held(RESOURCE, 1, 0)})
    assert [member.shares for member in settlement.inventory.devices] == [20, 10]


def test_the_old_layout_stays_while_nobody_can_say_what_is_held() -> None:
    settlement = settle(wanted(shared("GPU-a", 20)), {"GPU-a": OLD}, None)
    assert in_force(settlement) == {"GPU-a": OLD}
    assert settlement.provisional
    assert settlement.inventory.notices[0].held == 0


def test_an_unchanged_layout_is_no_matter_who_holds_what() -> None:
    for held in (None, {}, {"GPU-a": Held(RESOURCE, 10, 9)}):
        settlement = settle(wanted(shared("GPU-a", 10)), {"GPU-a": OLD}, held)
        assert in_force(settlement) == {"GPU-a": OLD}
        assert settlement.inventory.notices == ()


def test_a_renamed_resource_waits_under_its_old_name() -> None:
    want = wanted(shared("GPU-a", 10, resource="example.com/new"))
    assert settle(want, {"GPU-a": OLD}, {"GPU-a": Held(RESOURCE, 1, 0)}).inventory.resources == (RESOURCE,)
    assert settle(want, {"GPU-a": OLD}, {}).inventory.resources == ("example.com/new",)


def test_a_device_that_lost_its_entry_is_served_until_it_is_free() -> None:
    want = Inventory((), (gpu("GPU-a"),))
    held = settle(want, {"GPU-a": OLD}, {"GPU-a": Held(RESOURCE, 1, 0)})
    assert in_force(held) == {"GPU-a": OLD}
    assert held.inventory.left_alone == ()
    assert held.inventory.notices[0].shares_configured == 0
    free = settle(want, {"GPU-a": OLD}, {})
    assert (free.inventory.devices, free.inventory.left_alone, free.remembered) == ((), want.left_alone, {})


def test_a_held_device_that_the_driver_does_not_show_is_not_forgotten() -> None:
    remembered = {"GPU-a": OLD, "GPU-b": OLD}
    assert settle(wanted(), remembered, {"GPU-a": Held(RESOURCE, 1, 0)}).remembered == {"GPU-a": OLD}
    assert settle(wanted(), remembered, None).remembered == remembered
    assert settle(wanted(), remembered, {}).remembered == {}


RESERVES = {
    "fewer reserved takes effect at once": (LayoutEntry(RESOURCE, 10, 5), 2, Held(RESOURCE, 2, 4), 2),
    "more reserved above what is held takes effect at once": (OLD, 5, Held(RESOURCE, 2, 4), 5),
    "more reserved than held numbers allow waits": (OLD, 6, Held(RESOURCE, 2, 4), 0),
    "more reserved waits while nobody can say": (OLD, 1, None, 0),
    "fewer reserved need not wait for an answer": (LayoutEntry(RESOURCE, 10, 5), 2, None, 2),
}


@pytest.mark.parametrize(("old", "reserved", "hold", "expected"), RESERVES.values(), ids=RESERVES.keys())
def test_a_reserve_waits_only_for_held_numbers(old: LayoutEntry, reserved: int, hold: Held | None, expected: int) -> None:
    held = None if hold is None else {"GPU-a": hold}
    settlement = settle(wanted(shared("GPU-a", 10, reserved=reserved)), {"GPU-a": old}, held)
    assert [member.reserved for member in settlement.inventory.devices] == [expected]


def test_kept_devices_stay_in_the_house_order() -> None:
    first, second = replace(gpu("GPU-z"), index=0), replace(shared("GPU-a", 4), device=replace(gpu("GPU-a"), index=1))
    settlement = settle(Inventory((second,), (first,)), {"GPU-z": OLD}, {"GPU-z": Held(RESOURCE, 1, 1)})
    assert [member.uuid for member in settlement.inventory.devices] == ["GPU-z", "GPU-a"]


def test_health_is_handed_on() -> None:
    want = replace(wanted(shared("GPU-a", 10)), health={"GPU-a": replace(Inventory().health_of(""), healthy=False)})
    assert settle(want, {}, {}).inventory.health == want.health


ENTRIES = st.builds(
    lambda shares, reserved: LayoutEntry(RESOURCE, shares, min(reserved, shares)), st.integers(1, 9), st.integers(0, 9)
)
HOLDS = st.builds(lambda highest, count: Held(RESOURCE, min(count, highest + 1), highest), st.integers(0, 8), st.integers(1, 9))


@given(ENTRIES, ENTRIES, HOLDS)
def test_what_a_held_id_is_worth_never_changes(old: LayoutEntry, new: LayoutEntry, hold: Held) -> None:
    if hold.highest >= old.advertised:
        hold = Held(RESOURCE, 1, 0)
        old = replace(old, reserved=0)
    want = wanted(shared("GPU-a", new.shares, reserved=new.reserved))
    (member,) = settle(want, {"GPU-a": old}, {"GPU-a": hold}).inventory.devices
    assert member.shares == old.shares
    assert member.advertised > hold.highest


LOST: dict[str, tuple[SharedDevice | None, Held, int, LayoutEntry]] = {
    "nothing contradicts the configuration": (shared("GPU-a", 20), Held(RESOURCE, 2, 5), 0, LayoutEntry(RESOURCE, 20)),
    "the containers were told another total": (shared("GPU-a", 20), Held(RESOURCE, 2, 5), 10, OLD),
    "a total that a held number refutes": (shared("GPU-a", 20), Held(RESOURCE, 2, 5), 4, LayoutEntry(RESOURCE, 20)),
    "a held number beyond the configured count": (shared("GPU-a", 4), Held(RESOURCE, 2, 9), 0, OLD),
    "no entry, but a total": (None, Held(RESOURCE, 2, 5), 10, OLD),
    "no entry and no total": (None, Held(RESOURCE, 2, 9), 0, OLD),
    "another resource name": (shared("GPU-a", 10), Held("a.b/c", 2, 5), 10, LayoutEntry("a.b/c", 10)),
    "the reserve keeps its part of the memory": (
        shared("GPU-a", 20, reserved=10),
        Held(RESOURCE, 1, 2),
        10,
        LayoutEntry(RESOURCE, 10, 5),
    ),
    "the reserve leaves held numbers advertised": (
        shared("GPU-a", 10, reserved=8),
        Held(RESOURCE, 1, 6),
        0,
        LayoutEntry(RESOURCE, 10, 3),
    ),
}


@pytest.mark.parametrize(("want", "hold", "total", "expected"), LOST.values(), ids=LOST.keys())
def test_a_lost_layout_is_rebuilt_from_evidence(
    want: SharedDevice | None, hold: Held, total: int, expected: LayoutEntry
) -> None:
    inventory = wanted(want) if want else Inventory((), (gpu("GPU-a"),))
    entries = recover(inventory, {}, {"GPU-a": hold}, {"GPU-a": total} if total else {})
    assert entries == {"GPU-a": expected}
    assert expected.advertised > hold.highest
    assert in_force(settle(inventory, entries, {"GPU-a": hold})) == {"GPU-a": expected}


def test_evidence_does_not_override_what_is_remembered() -> None:
    remembered = {"GPU-a": OLD, "GPU-free": LayoutEntry(RESOURCE, 3)}
    held = {"GPU-a": Held(RESOURCE, 1, 0)}
    assert recover(wanted(shared("GPU-a", 20)), remembered, held, {"GPU-a": 15}) == remembered


def test_a_file_that_a_held_number_refutes_is_corrected() -> None:
    held = {"GPU-a": Held(RESOURCE, 1, 30)}
    assert recover(wanted(shared("GPU-a", 40)), {"GPU-a": OLD}, held, {}) == {"GPU-a": LayoutEntry(RESOURCE, 40)}


def test_a_file_that_knows_another_resource_than_kubelet_is_corrected() -> None:
    held = {"GPU-a": Held("a.b/c", 1, 3)}
    assert recover(wanted(shared("GPU-a", 40)), {"GPU-a": OLD}, held, {"GPU-a": 10}) == {"GPU-a": LayoutEntry("a.b/c", 10)}


def test_beside_a_kept_layout_newcomers_wait_while_the_list_would_be_too_long() -> None:
    many = LayoutEntry(RESOURCE, 70_000)
    held = {"GPU-a": Held(RESOURCE, 1, 0)}
    want = wanted(shared("GPU-a", 10), shared("GPU-b", 60_000), shared("GPU-c", 60_000), shared("GPU-d", 9, resource="b/c"))
    settlement = settle(want, {"GPU-a": many}, held)
    assert settlement.held_back == {"GPU-c"}
    assert sorted(in_force(settlement)) == sorted(settlement.remembered) == ["GPU-a", "GPU-b", "GPU-d"]
    assert settle(want, {"GPU-a": many}, {}).held_back == set()


def test_held_shares_come_from_assignments_and_fresh_grants() -> None:
    assignments = (
        Assignment("p", "n", "c", {RESOURCE: ("GPU-a::1", "GPU-b::4")}),
        Assignment("q", "n", "c", {RESOURCE: ("GPU-a::7",)}),
    )
    grant = Grant(RESOURCE, ("GPU-a::7", "GPU-a::9"), {"GPU-a": 2}, {"GPU-a": 1})
    assert held_shares(assignments, [grant]) == {"GPU-a": Held(RESOURCE, 3, 9), "GPU-b": Held(RESOURCE, 1, 4)}


def test_ids_of_another_form_hold_nothing() -> None:
    assert held_shares([Assignment("p", "n", "c", {RESOURCE: ("GPU-a", "GPU-a::x")})]) == {}


def test_of_two_resources_on_one_device_the_larger_holding_counts() -> None:
    assignment = Assignment("p", "n", "c", {"a.b/one": ("GPU-a::9",), "a.b/two": ("GPU-a::1", "GPU-a::2")})
    assert held_shares([assignment])["GPU-a"].resource == "a.b/two"


def test_a_layout_reads_back_as_written() -> None:
    entries = {"GPU-a": OLD, "MIG-b": LayoutEntry("a.b/c", 7, 7)}
    loaded = load_layout(dump_layout(entries))
    assert (loaded.entries, loaded.problem) == (entries, "")


BAD_FILES = {
    "nothing": "",
    "half a file": dump_layout({"GPU-a": OLD})[:-20],
    "a list": "[]",
    "another version": '{"version": 2, "devices": {}}',
    "no devices": '{"version": 1}',
    "devices as a list": '{"version": 1, "devices": []}',
    "a deep nest": "[" * 100_000,
    "a number too long": '{"version": ' + "1" * 10_000 + "}",
}


@pytest.mark.parametrize("text", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_empty_and_says_why(text: str) -> None:
    loaded = load_layout(text)
    assert loaded.entries == {}
    assert loaded.problem


BAD_ENTRIES = (
    "null",
    '{"resource": "a.b/c", "shares": 0, "reserved": 0}',
    '{"resource": "a.b/c", "shares": 4, "reserved": 5}',
    '{"resource": "a.b/c", "shares": 4, "reserved": -1}',
    '{"resource": 1, "shares": 4, "reserved": 0}',
    '{"resource": "a.b/c", "shares": "4", "reserved": 0}',
    '{"resource": "a.b/c", "shares": 4}',
)


@pytest.mark.parametrize("entry", BAD_ENTRIES)
def test_a_bad_entry_does_not_spoil_the_others(entry: str) -> None:
    good = '{"resource": "example.com/gpu", "shares": 10, "reserved": 0}'
    loaded = load_layout(f'{{"version": 1, "devices": {{"GPU-bad": {entry}, "GPU-a": {good}}}}}')
    assert loaded.entries == {"GPU-a": OLD}
    assert "GPU-bad" in loaded.problem
