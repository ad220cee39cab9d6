"""What a set of ids is worth, and which sets Allocate refuses."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from mortalgpu.allocator.grant import granted
from mortalgpu.errors import AllocationError, UnknownMetaDevice, WouldSplit
from tests.unit.allocator.nodes import RESOURCE, device, ids

DEVICES = (device("MIG-b", 3, memory_bytes=1000), device("GPU-a", 10, memory_bytes=10_007, reserved=2))


def test_a_grant_counts_shares_and_rounds_the_limit_once() -> None:
    grant = granted(RESOURCE, ids({"GPU-a": (0, 1, 2)}), DEVICES, no_split=True)
    assert grant.shares == {"GPU-a": 3}
    assert grant.limit_bytes == {"GPU-a": 3002}


def test_a_grant_over_two_devices_has_the_limit_of_each() -> None:
    grant = granted(RESOURCE, ids({"GPU-a": (5,), "MIG-b": (0, 2)}), DEVICES, no_split=False)
    assert list(grant.shares.items()) == [("MIG-b", 2), ("GPU-a", 1)]
    assert list(grant.limit_bytes.items()) == [("MIG-b", 666), ("GPU-a", 1000)]


def test_the_whole_device_is_worth_all_its_memory() -> None:
    assert granted(RESOURCE, ids({"MIG-b": range(3)}), DEVICES, no_split=True).limit_bytes == {"MIG-b": 1000}


def test_the_order_of_ids_does_not_matter() -> None:
    named = list(ids({"GPU-a": range(8), "MIG-b": range(3)}))
    expected = granted(RESOURCE, named, DEVICES, no_split=False)
    assert expected.meta_devices == ids({"MIG-b": range(3), "GPU-a": range(8)})
    for seed in range(5):
        shuffled = random.Random(seed).sample(named, len(named))
        assert granted(RESOURCE, shuffled, DEVICES, no_split=False) == expected


REFUSED: dict[str, tuple[Sequence[str], type[AllocationError], str]] = {
    "none": ([], AllocationError, "example.com/gpu: no meta-device was named"),
    "one twice": (["GPU-a::1", "GPU-a::2", "GPU-a::1"], AllocationError, "GPU-a::1 is named twice"),
    "another resource's device": (["GPU-x::1"], UnknownMetaDevice, "GPU-x::1 is on a device that is not shared under"),
    "one behind the last": (["GPU-a::10"], UnknownMetaDevice, "GPU-a::10 is not a share of this device, .* 0 to 7"),
    "a reserved one": (["GPU-a::8"], UnknownMetaDevice, "GPU-a::8 is not a share"),
    "a text for another line": (["GPU\n\x1b[31m::1"], UnknownMetaDevice, r"'GPU\\n\\x1b\[31m::1' is on a device"),
    "a text without end": (["x" * 10**6 + "::1"], UnknownMetaDevice, r"^.{,200}$"),
    "no id at all": (["GPU-a"], UnknownMetaDevice, "'GPU-a' is not the id of a meta-device"),
    "a second spelling": (["GPU-a::1", "GPU-a::01"], UnknownMetaDevice, "'GPU-a::01'"),
    "one good and one bad": (["GPU-a::1", "MIG-b::3"], UnknownMetaDevice, "MIG-b::3"),
}


@pytest.mark.parametrize(("named", "error", "text"), REFUSED.values(), ids=REFUSED.keys())
def test_a_wrong_set_is_refused_in_plain_words(named: Sequence[str], error: type[AllocationError], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        granted(RESOURCE, named, DEVICES, no_split=False)
    assert type(caught.value) is error


def test_an_id_of_a_device_that_is_all_reserved_is_refused_in_plain_words() -> None:
    reserved = replace(DEVICES[0], reserved=DEVICES[0].shares)
    with pytest.raises(UnknownMetaDevice, match="all of whose shares are reserved"):
        granted(RESOURCE, [f"{reserved.uuid}::0"], [reserved], no_split=True)


def test_a_split_is_refused_again_where_kubelet_ignored_the_preference() -> None:
    with pytest.raises(WouldSplit) as caught:
        granted(RESOURCE, ids({"GPU-a": (5,), "MIG-b": (0, 2)}), DEVICES, no_split=True)
    assert str(caught.value) == (
        "example.com/gpu: 3 shares were chosen on 2 devices (GPU-a, MIG-b); splitting over devices is off (allocator.noSplit)"
    )
