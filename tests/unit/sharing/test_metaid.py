"""The text form of meta-device ids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mortalgpu.errors import UnknownMetaDevice
from mortalgpu.sharing.metaid import advertised_ids, format_id, format_ids, numbers_by_device, parse_id
from tests.unit.sharing.devices import V100, shared

NOT_IDS = {
    "nothing": "",
    "no number": "GPU-a",
    "an empty number": "GPU-a::",
    "no device": "::3",
    "one colon": "GPU-a:3",
    "a sign": "GPU-a::+3",
    "a minus": "GPU-a::-3",
    "a space before": "GPU-a:: 3",
    "a space behind": "GPU-a::3 ",
    "a leading zero": "GPU-a::03",
    "two zeros": "GPU-a::00",
    "an underscore": "GPU-a::1_0",
    "a fraction": "GPU-a::1.0",
    "hexadecimal": "GPU-a::a",
    "foreign digits": "GPU-a::٣",
    "a superscript": "GPU-a::³",
    "ten digits": "GPU-a::1000000000",
    "a line end": "GPU-a::1\n",
}


def test_an_id_is_the_uuid_and_the_number() -> None:
    assert format_id(V100, 17) == f"{V100}::17"
    assert format_ids("GPU-a", (0, 10)) == ("GPU-a::0", "GPU-a::10")


def test_advertised_ids_stop_before_the_reserved_shares() -> None:
    assert advertised_ids(shared("GPU-a", 4, reserved=1)) == ("GPU-a::0", "GPU-a::1", "GPU-a::2")


@given(st.text(min_size=1), st.integers(0, 999_999_999))
def test_every_id_that_is_written_reads_back(uuid: str, number: int) -> None:
    text = format_id(uuid, number)
    assert parse_id(text) == (uuid, number)
    assert numbers_by_device([text]) == {uuid: [number]}


@pytest.mark.parametrize("text", NOT_IDS.values(), ids=NOT_IDS.keys())
def test_any_other_spelling_is_refused(text: str) -> None:
    with pytest.raises(UnknownMetaDevice, match="is not the id of a meta-device"):
        parse_id(text)
    with pytest.raises(UnknownMetaDevice, match="is not the id of a meta-device"):
        numbers_by_device(["GPU-a::1", text])


def test_the_message_quotes_a_hostile_id_on_one_short_line() -> None:
    with pytest.raises(UnknownMetaDevice) as caught:
        parse_id("x\n" * 5000)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_ids_are_grouped_by_device_in_the_order_given() -> None:
    groups = numbers_by_device(["GPU-b::2", "GPU-a::0", "GPU-b::1", "GPU-b::2"])
    assert groups == {"GPU-b": [2, 1, 2], "GPU-a": [0]}
