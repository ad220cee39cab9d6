"""Collocate and spread, by the cases that fix them."""

import random
from collections.abc import Mapping, Sequence

import pytest

from mortalgpu.allocator import collocate, spread
from mortalgpu.allocator.base import Choose, Policy, Terms
from mortalgpu.errors import AllocationError, NotEnoughShares, UnknownMetaDevice, WouldSplit
from mortalgpu.model.share import SharedDevice
from mortalgpu.sharing.metaid import advertised_ids
from tests.unit.allocator.nodes import MAY_SPLIT, counts, device, equal, ids, request

Free = Mapping[str, Sequence[int]]

BOTH = pytest.mark.parametrize("choose", [collocate.choose, spread.choose], ids=["collocate", "spread"])
ALL = range(10)

# devices, shares a device, free numbers, wanted, expected ids a device
TABLE: dict[str, tuple[int, int, Free, int, dict[str, int]]] = {
    "1 of two free": (2, 10, {"0": ALL, "1": ALL}, 1, {"0": 1}),
    "5 of two free": (2, 10, {"0": ALL, "1": ALL}, 5, {"0": 5}),
    "8 of two free": (2, 10, {"0": ALL, "1": ALL}, 8, {"0": 8}),
    "10 of two free": (2, 10, {"0": ALL, "1": ALL}, 10, {"0": 10}),
    "12 of two free": (2, 10, {"0": ALL, "1": ALL}, 12, {"0": 10, "1": 2}),
    "20 of two free": (2, 10, {"0": ALL, "1": ALL}, 20, {"0": 10, "1": 10}),
    "2 fit the used device": (2, 4, {"0": (2, 3), "1": range(4)}, 2, {"0": 2}),
    "3 fit the free device only": (2, 4, {"0": (2, 3), "1": range(4)}, 3, {"1": 3}),
    "3 over two halves": (2, 4, {"0": (2, 3), "1": (2, 3)}, 3, {"0": 2, "1": 1}),
    "4 over two halves": (2, 4, {"0": (2, 3), "1": (2, 3)}, 4, {"0": 2, "1": 2}),
    "12 over three halves": (3, 10, {"0": range(5), "1": range(5), "2": range(5)}, 12, {"0": 5, "1": 5, "2": 2}),
    "6 over one free and eight crumbs": (
        9,
        4,
        {"0": range(4), **{str(number): (0,) for number in range(1, 9)}},
        6,
        {"0": 4, "1": 1, "2": 1},
    ),
    "the empty device is not broken": (2, 10, {"0": ALL, "1": (8, 9)}, 2, {"1": 2}),
    "the rest comes from the fullest that holds it": (
        4,
        10,
        {"0": ALL, "1": range(8), "2": range(3), "3": range(2)},
        12,
        {"0": 10, "3": 2},
    ),
    "a whole free device before a begun one": (3, 10, {"0": range(9), "1": ALL, "2": range(9)}, 11, {"1": 10, "0": 1}),
}


@pytest.mark.parametrize(("count", "shares", "free", "wanted", "expected"), TABLE.values(), ids=TABLE.keys())
def test_collocate_packs(count: int, shares: int, free: Free, wanted: int, expected: dict[str, int]) -> None:
    answer = collocate.choose(request(wanted, ids(free)), equal(count, shares), MAY_SPLIT)
    assert counts(answer) == expected


def test_the_ids_of_the_ancestors_table_are_the_free_ones() -> None:
    answer = collocate.choose(request(2, ids({"0": (2, 3), "1": range(4)})), equal(2, 4), MAY_SPLIT)
    assert answer == ("0::2", "0::3")


def test_collocate_keeps_the_fewest_devices_before_whole_ones() -> None:
    # The small device is wholly free, but using it up would need a third device.
    devices = (device("small", 3), device("x", 10), device("y", 10))
    free = ids({"small": range(3), "x": range(9), "y": range(8)})
    assert counts(collocate.choose(request(16, free), devices, MAY_SPLIT)) == {"x": 9, "y": 7}


def test_collocate_uses_a_small_whole_device_where_that_costs_nothing() -> None:
    devices = (device("small", 3), device("x", 10), device("y", 10))
    free = ids({"small": range(3), "x": range(9), "y": range(8)})
    assert counts(collocate.choose(request(11, free), devices, MAY_SPLIT)) == {"small": 3, "y": 8}


SPREAD: dict[str, tuple[Free, int, dict[str, int]]] = {
    "the emptiest": ({"0": range(4), "1": range(7), "2": range(5)}, 2, {"1": 2}),
    "ties by name": ({"1": range(7), "0": range(7)}, 2, {"0": 2}),
    "one device whenever one fits": ({"0": range(4), "1": range(7)}, 7, {"1": 7}),
    "the most free first when it must be split": ({"0": range(4), "1": range(7), "2": range(5)}, 11, {"1": 7, "2": 4}),
    "the fewest devices": ({"0": range(4), "1": range(7), "2": range(4)}, 15, {"0": 4, "1": 7, "2": 4}),
}


@pytest.mark.parametrize(("free", "wanted", "expected"), SPREAD.values(), ids=SPREAD.keys())
def test_spread_prefers_the_emptiest_device(free: Free, wanted: int, expected: dict[str, int]) -> None:
    assert counts(spread.choose(request(wanted, ids(free)), equal(3, 10), MAY_SPLIT)) == expected


def test_spread_counts_free_shares_in_bytes() -> None:
    devices = (device("many-small", 10, memory_bytes=1000), device("few-large", 4, memory_bytes=4000))
    free = ids({"many-small": ALL, "few-large": (0, 1)})
    assert counts(spread.choose(request(1, free), devices, Terms())) == {"few-large": 1}


def test_spread_by_bytes_still_needs_no_second_device() -> None:
    devices = (device("many-small", 10, memory_bytes=1000), device("few-large", 4, memory_bytes=4000))
    free = ids({"many-small": ALL, "few-large": range(4)})
    assert counts(spread.choose(request(5, free), devices, Terms())) == {"many-small": 5}


@BOTH
def test_the_lowest_numbers_are_taken_by_value(choose: Choose) -> None:
    answer = choose(request(3, ids({"0": (100, 20, 3, 11)})), (device("0", 200),), Terms())
    assert answer == ("0::3", "0::11", "0::20")


@BOTH
def test_the_order_of_the_question_does_not_matter(choose: Choose) -> None:
    devices = equal(4, 10)
    free = [text for member in devices for text in advertised_ids(member)][3:]
    expected = choose(request(15, free), devices, MAY_SPLIT)
    shuffler = random.Random(7)
    for _ in range(20):
        shuffled = shuffler.sample(free, len(free))
        assert choose(request(15, shuffled), shuffler.sample(devices, 4), MAY_SPLIT) == expected


@BOTH
def test_ids_that_must_be_included_decide_the_device(choose: Choose) -> None:
    answer = choose(request(3, ids({"0": ALL, "1": range(5)}), ["1::4"]), equal(2, 10), Terms())
    assert answer == ("1::0", "1::1", "1::4")


@BOTH
def test_devices_of_included_ids_are_used_up_before_another(choose: Choose) -> None:
    free = ids({"0": ALL, "1": (3, 4), "2": (5, 6, 7)})
    answer = choose(request(9, free, ["1::3", "2::5"]), equal(3, 10), MAY_SPLIT)
    assert counts(answer) == {"0": 4, "1": 2, "2": 3}


@BOTH
def test_a_request_of_only_included_ids_is_those(choose: Choose) -> None:
    assert choose(request(2, ids({"0": ALL}), ["0::7", "0::2"]), equal(1, 10), Terms()) == ("0::2", "0::7")


@BOTH
def test_a_request_that_needs_two_devices_is_refused_without_splitting(choose: Choose) -> None:
    free = ids({"0": range(4), "1": range(7)})
    with pytest.raises(WouldSplit) as caught:
        choose(request(8, free), equal(2, 10), Terms())
    assert str(caught.value) == (
        "example.com/gpu: 8 shares were asked for, the largest free room on one device is 7 of 10 (1); "
        "splitting over devices is off (allocator.noSplit)"
    )


@BOTH
def test_included_ids_without_room_beside_them_are_refused_without_splitting(choose: Choose) -> None:
    with pytest.raises(WouldSplit, match=r"on the device it already uses is 2 of 10 \(1\)"):
        choose(request(3, ids({"0": ALL, "1": (1, 2)}), ["1::1"]), equal(2, 10), Terms())


@BOTH
def test_included_ids_on_two_devices_are_refused_without_splitting(choose: Choose) -> None:
    with pytest.raises(WouldSplit):
        choose(request(2, ids({"0": ALL, "1": ALL}), ["0::1", "1::1"]), equal(2, 10), Terms())


@BOTH
def test_more_than_is_free_is_refused_not_shortened(choose: Choose) -> None:
    with pytest.raises(NotEnoughShares, match="9 shares were asked for, 4 are free on this node"):
        choose(request(9, ids({"0": (0, 1), "1": (0, 1)})), equal(2, 4), MAY_SPLIT)


@BOTH
def test_a_node_without_devices_has_no_shares(choose: Choose) -> None:
    with pytest.raises(NotEnoughShares, match="0 are free"):
        choose(request(1, ids({"gone": ALL})), (), MAY_SPLIT)


@BOTH
def test_ids_no_longer_advertised_are_no_room(choose: Choose) -> None:
    devices = (device("0", 10, reserved=6),)
    with pytest.raises(NotEnoughShares, match="4 are free"):
        choose(request(5, ids({"0": ALL})), devices, MAY_SPLIT)
    assert choose(request(4, ids({"0": ALL})), devices, MAY_SPLIT) == ids({"0": range(4)})


@BOTH
def test_an_id_named_twice_is_one_share(choose: Choose) -> None:
    with pytest.raises(NotEnoughShares, match="1 are free"):
        choose(request(2, ["0::1", "0::1"]), equal(1, 10), MAY_SPLIT)


NONSENSE: dict[str, tuple[int, Sequence[str], type[AllocationError], str]] = {
    "none": (0, [], AllocationError, "0 shares were asked for; the least is 1"),
    "less than none": (-3, [], AllocationError, "-3 shares"),
    "more included than wanted": (1, ["0::1", "0::2"], AllocationError, "1 shares were asked for, with 2 to be included"),
    "an included id that is not free": (2, ["0::9"], AllocationError, "0::9 is to be included, but is not available"),
    "an included id without a device": (2, ["x::1"], UnknownMetaDevice, "x::1 is not one of its meta-devices"),
    "an included id beyond its device": (2, ["0::10"], UnknownMetaDevice, "0::10 is not one of its meta-devices"),
    "an included id of no form": (2, ["0-1"], UnknownMetaDevice, "'0-1' is not the id of a meta-device"),
}


@BOTH
@pytest.mark.parametrize(("size", "included", "error", "text"), NONSENSE.values(), ids=NONSENSE.keys())
def test_a_request_that_makes_no_sense_is_refused(
    choose: Choose, size: int, included: Sequence[str], error: type[AllocationError], text: str
) -> None:
    with pytest.raises(error, match=text) as caught:
        choose(request(size, ids({"0": range(9)}), included), equal(1, 10), MAY_SPLIT)
    assert type(caught.value) is error


ALONE = Terms(allow_collocation=False)


def test_spread_leaves_devices_in_use_alone_when_told() -> None:
    devices = (device("0", 100), device("1", 10), device("2", 10, reserved=3))
    free = ids({"0": range(99), "1": ALL, "2": range(7)})
    assert counts(spread.choose(request(3, free), devices, ALONE)) == {"1": 3}


def test_a_refusal_says_that_collocation_is_off() -> None:
    free = ids({"0": range(9), "1": ALL})
    with pytest.raises(NotEnoughShares) as caught:
        spread.choose(request(12, free), equal(2, 10), Terms(no_split=False, allow_collocation=False))
    assert str(caught.value) == (
        "example.com/gpu: 12 shares were asked for, 19 are free on this node, "
        "but only 10 of them on devices that nobody else uses (allocator.allowCollocation is off)"
    )


def test_the_pods_own_included_ids_do_not_make_its_device_taken() -> None:
    answer = spread.choose(request(5, ids({"0": ALL, "1": ALL}), ["1::3"]), equal(2, 10), ALONE)
    assert counts(answer) == {"1": 5}


def test_collocate_is_not_concerned_by_collocation() -> None:
    answer = collocate.choose(request(2, ids({"0": range(9), "1": ALL})), equal(2, 10), ALONE)
    assert counts(answer) == {"0": 2}


async def test_a_policy_answers_as_an_allocator() -> None:
    devices: tuple[SharedDevice, ...] = equal(1, 10)
    assert await Policy(collocate.choose, Terms()).prefer(request(1, ["0::5"]), devices) == ("0::5",)
    with pytest.raises(NotEnoughShares):
        await Policy(spread.choose, Terms()).prefer(request(2, ["0::5"]), devices)
