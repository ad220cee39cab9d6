"""Limits: what shares are worth, and what the annotation makes of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mortalgpu.scan.limits import LimitShares, limit_on, limit_shares
from mortalgpu.units import MIB
from tests.unit.scan.making import RESOURCE, shared

KEY = f"gpu-mem-limit.{RESOURCE}"


def test_the_limit_without_annotation_is_the_request() -> None:
    limit = limit_shares(RESOURCE, 4, {}, 0)
    assert (limit.shares, limit.notice) == (4, None)
    assert limit_on(shared(), 4, limit) == 400 * MIB


def test_the_annotation_raises_the_limit() -> None:
    limit = limit_shares(RESOURCE, 4, {KEY: "6"}, 0)
    assert limit.notice is None
    assert limit_on(shared(), 4, limit) == 600 * MIB


def test_an_annotation_for_another_resource_changes_nothing() -> None:
    assert limit_shares(RESOURCE, 4, {"gpu-mem-limit.mortalgpu/a100": "6"}, 0) == LimitShares(4, 4)


@pytest.mark.parametrize("text", ["", "six", "-6", "6.0", "0x6", "6 7", "6k", "1e3", "٦", "\x1b[31m6", "None"])
def test_an_unreadable_annotation_changes_nothing_and_is_told(text: str) -> None:
    limit = limit_shares(RESOURCE, 4, {KEY: text}, 0)
    assert limit.shares == 4
    assert limit.notice is not None
    assert "not a whole number" in limit.notice.message
    assert limit.notice.message.isprintable()


def test_a_long_annotation_is_cut_in_the_notice() -> None:
    limit = limit_shares(RESOURCE, 4, {KEY: "x" * 100_000}, 0)
    assert limit.notice is not None
    assert len(limit.notice.message) < 200


@pytest.mark.parametrize("text", ["0", "3"])
def test_an_annotation_below_the_request_leaves_the_request_and_is_told(text: str) -> None:
    limit = limit_shares(RESOURCE, 4, {KEY: text}, 0)
    assert limit.shares == 4
    assert limit.notice is not None
    assert "below the 4 shares requested" in limit.notice.message


def test_an_annotation_over_the_operators_cap_is_cut_to_it_and_is_told() -> None:
    limit = limit_shares(RESOURCE, 4, {KEY: "9"}, 1.5)
    assert limit.shares == 6
    assert limit.notice is not None
    assert "above the 6 shares" in limit.notice.message


def test_an_annotation_at_the_operators_cap_is_followed() -> None:
    assert limit_shares(RESOURCE, 4, {KEY: " 6 "}, 1.5) == LimitShares(4, 6)


def test_a_cap_below_one_never_takes_from_the_request() -> None:
    assert limit_shares(RESOURCE, 4, {KEY: "4"}, 0.5).shares == 4


def test_a_limit_never_exceeds_the_device() -> None:
    assert limit_on(shared(), 4, LimitShares(4, 400)) == 1000 * MIB


def test_overcommit_is_spread_over_devices_by_the_shares_held_there() -> None:
    limit = LimitShares(held=6, shares=12)
    big, small = shared("GPU-a", mib=2000), shared("GPU-b", mib=1000)
    assert limit_on(big, 4, limit) == 1600 * MIB
    assert limit_on(small, 2, limit) == 400 * MIB


@pytest.mark.parametrize("text", ["1" * 10, "9" * 100_000], ids=["ten digits", "as many as fit"])
def test_a_number_beyond_reason_means_the_whole_device(text: str) -> None:
    assert limit_on(shared(), 4, limit_shares(RESOURCE, 4, {KEY: text}, 0)) == 1000 * MIB


def test_leading_zeros_mean_nothing() -> None:
    assert limit_shares(RESOURCE, 4, {KEY: "0" * 5000 + "6"}, 0) == LimitShares(4, 6)


@given(st.integers(1, 10**12), st.integers(1, 4000), st.data())
def test_a_limit_lies_between_the_request_and_the_device(memory: int, shares: int, data: st.DataObject) -> None:
    held = data.draw(st.integers(1, shares))
    text = data.draw(st.one_of(st.text(max_size=12), st.integers(-5, 10**6).map(str)))
    cap = data.draw(st.sampled_from([0.0, 0.5, 1.0, 2.5]))
    device = shared(mib=1, shares=shares)
    limit = limit_on(device, held, limit_shares(RESOURCE, held, {KEY: text}, cap))
    assert device.limit_bytes(held) <= limit <= device.device.memory_bytes
