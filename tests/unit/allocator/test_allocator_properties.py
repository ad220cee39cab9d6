"""What holds for every answer, held against a search through all answers on small nodes."""

from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mortalgpu.allocator import collocate, spread
from mortalgpu.allocator.base import Choose, Request, Terms
from mortalgpu.allocator.check import answer_problem
from mortalgpu.allocator.grant import granted
from mortalgpu.errors import NotEnoughShares, WouldSplit
from mortalgpu.model.share import SharedDevice
from tests.unit.allocator.nodes import MAY_SPLIT, RESOURCE, cases, counts, fitting_cases, ids

BOTH = pytest.mark.parametrize("choose", [collocate.choose, spread.choose], ids=["collocate", "spread"])
Case = tuple[Request, tuple[SharedDevice, ...]]


def room(asked: Request, devices: Sequence[SharedDevice]) -> dict[str, int]:
    """Free ids by device, counted the slow and simple way."""
    return {
        member.uuid: sum(f"{member.uuid}::{number}" in asked.available for number in range(member.advertised))
        for member in devices
    }


def fewest_by_search(asked: Request, free: dict[str, int]) -> int | None:
    """The fewest devices that hold the request with its included ids; None when all together do not."""
    begun = set(counts(tuple(asked.must_include)))
    for count in range(1, len(free) + 1):
        for chosen in combinations(free, count):
            if begun <= set(chosen) and sum(free[uuid] for uuid in chosen) >= asked.size:
                return count
    return None


@BOTH
@given(case=cases(excess=5))
def test_an_answer_is_exact_honest_and_on_the_fewest_devices(choose: Choose, case: Case) -> None:
    asked, devices = case
    fewest = fewest_by_search(asked, room(asked, devices))
    if fewest is None:
        with pytest.raises(NotEnoughShares):
            choose(asked, devices, MAY_SPLIT)
        return
    answer = choose(asked, devices, MAY_SPLIT)
    assert len(answer) == len(set(answer)) == asked.size
    assert set(asked.must_include) <= set(answer) <= set(asked.available)
    assert len(counts(answer)) == fewest
    assert answer_problem(answer, asked, devices, MAY_SPLIT) is None
    assert granted(RESOURCE, answer, devices, no_split=False).shares == counts(answer)


@BOTH
@given(case=cases())
def test_without_splitting_an_answer_is_on_one_device(choose: Choose, case: Case) -> None:
    asked, devices = case
    if fewest_by_search(asked, room(asked, devices)) == 1:
        assert len(counts(choose(asked, devices, Terms()))) == 1
        return
    with pytest.raises(WouldSplit):
        choose(asked, devices, Terms())


@BOTH
@given(case=cases())
def test_the_same_inputs_in_any_order_give_the_same_answer(choose: Choose, case: Case) -> None:
    asked, devices = case
    other = Request(RESOURCE, asked.size, sorted(asked.available), tuple(reversed(tuple(asked.must_include))))
    assert choose(asked, devices, MAY_SPLIT) == choose(other, devices[::-1], MAY_SPLIT)


@given(fitting_cases())
def test_collocate_leaves_the_least_on_a_device_that_holds_the_request(case: Case) -> None:
    asked, devices = case
    free = room(asked, devices)
    (used,) = counts(collocate.choose(asked, devices, Terms()))
    assert (free[used], used) == min((left, uuid) for uuid, left in free.items() if left >= asked.size)


@given(fitting_cases())
def test_spread_takes_the_most_free_memory_that_holds_the_request(case: Case) -> None:
    asked, devices = case
    free = room(asked, devices)
    (used,) = counts(spread.choose(asked, devices, Terms()))
    sizes = {member.uuid: member.limit_bytes(free[member.uuid]) for member in devices if free[member.uuid] >= asked.size}
    assert sizes[used] == max(sizes.values())


@given(cases())
def test_spread_without_collocation_begins_no_device_that_others_use(case: Case) -> None:
    asked, devices = case
    terms = Terms(no_split=False, allow_collocation=False)
    free = room(asked, devices)
    begun = counts(tuple(asked.must_include))
    alone = {m.uuid: free[m.uuid] for m in devices if free[m.uuid] == m.advertised or m.uuid in begun}
    fewest = fewest_by_search(asked, alone)
    if fewest is None:
        with pytest.raises(NotEnoughShares):
            spread.choose(asked, devices, terms)
        return
    used = counts(spread.choose(asked, devices, terms))
    assert set(used) <= set(alone)
    assert len(used) == fewest


@given(cases(), st.data())
def test_the_judge_passes_an_answer_exactly_when_it_keeps_the_promises(case: Case, data: st.DataObject) -> None:
    asked, devices = case
    fewest = fewest_by_search(asked, room(asked, devices))
    pool = [*asked.available, *ids({"GPU-0": (0, 7), "x": (1,)})]
    answer = data.draw(
        st.one_of(
            st.lists(st.sampled_from(pool), max_size=8),
            st.permutations(list(asked.available)).map(lambda every: every[: asked.size]),
            st.just(list(collocate.choose(asked, devices, MAY_SPLIT))),
        )
    )
    advertised = {text for member in devices for text in ids({member.uuid: range(member.advertised)})}
    right = (
        len(answer) == len(set(answer)) == asked.size
        and set(asked.must_include) <= set(answer) <= set(asked.available) & advertised
        and len(counts(answer)) == fewest
    )
    assert (answer_problem(answer, asked, devices, MAY_SPLIT) is None) is right
