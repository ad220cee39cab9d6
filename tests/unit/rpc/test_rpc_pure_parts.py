"""The parts that need no connection: message cutting, the budget, the table of errors, and the wire fed with nonsense."""

import struct

import pytest
from hyperframe.frame import SettingsFrame
from hypothesis import given
from hypothesis import strategies as st

from mortalgpu import errors
from mortalgpu.rpc.framing import MessageReader, frame
from mortalgpu.rpc.limits import Budget
from mortalgpu.rpc.status import STATUS, Code, Refusal, RpcError, Unavailable, status_of
from mortalgpu.rpc.wire import Wire, WireError
from tests.unit.rpc.trial import PREFACE


@given(st.lists(st.binary(max_size=50), max_size=6), st.integers(1, 40))
def test_messages_survive_any_cutting(messages: list[bytes], size: int) -> None:
    whole = b"".join(map(frame, messages))
    reader = MessageReader(50)
    taken = []
    for start in range(0, len(whole), size):
        reader.feed(whole[start : start + size])
        while (message := reader.take()) is not None:
            taken.append(message)
    assert taken == messages
    reader.feed(frame(b"and one more"))  # nothing of the others is left before it
    assert reader.take() == b"and one more"


def test_a_message_of_exactly_the_limit_passes_and_one_more_is_refused() -> None:
    reader = MessageReader(3)
    reader.feed(frame(b"abc") + frame(b"abcd")[:5])
    assert reader.take() == b"abc"
    with pytest.raises(Refusal, match="of 4 bytes is above the limit of 3"):
        reader.take()


def test_a_compressed_message_is_refused_before_it_is_there() -> None:
    reader = MessageReader(100)
    reader.feed(struct.pack(">BI", 1, 50))
    with pytest.raises(Refusal) as caught:
        reader.take()
    assert caught.value.code is Code.UNIMPLEMENTED


def test_the_budget_covers_its_start_sum_and_what_time_adds() -> None:
    budget = Budget()
    assert budget.covers(int(Budget.START), now=0)
    assert not budget.covers(int(Budget.START) + 1, now=0)
    assert budget.covers(int(Budget.START) + 400, now=1)


def test_the_budget_never_grows_above_its_start_sum() -> None:
    budget = Budget()
    assert budget.covers(0, now=0)
    for _ in range(1000):
        budget.note_call()
    assert not budget.covers(int(Budget.START) + 1, now=10_000)


def test_resets_use_the_budget_up() -> None:
    budget = Budget()
    for _ in range(int(Budget.START / Budget.RESET_COST)):
        budget.note_reset()
    assert not budget.covers(0, now=0)


def _subclasses(base: type[Exception]) -> list[type[Exception]]:
    return [base, *(deeper for direct in base.__subclasses__() for deeper in _subclasses(direct))]


@pytest.mark.parametrize("base", [errors.AllocationError, errors.AccessError, errors.DriverError])
def test_each_error_of_a_request_has_a_status(base: type[Exception]) -> None:
    leaves = [kind for kind in _subclasses(base) if kind is not errors.AccessError]
    assert [kind.__name__ for kind in leaves if status_of(kind("text")) is None] == []


@pytest.mark.parametrize(
    "error", [RuntimeError("x"), RpcError(Code.NOT_FOUND, "x"), Unavailable("a", "b"), errors.HostError("/x")]
)
def test_what_is_not_in_the_table_has_no_status(error: Exception) -> None:
    assert type(error) not in STATUS
    assert status_of(error) is None


@given(st.binary(max_size=300))
def test_the_wire_raises_only_its_own_error_for_any_bytes(data: bytes) -> None:
    _feed(Wire(client_side=False, max_message_bytes=1000), PREFACE + SettingsFrame(0).serialize() + data)


FRAMES = st.tuples(st.integers(0, 11), st.integers(0, 255), st.sampled_from([0, 1, 2, 3, 2**31 - 1]), st.binary(max_size=40))


@given(st.lists(FRAMES, max_size=12), st.booleans())
def test_the_wire_raises_only_its_own_error_for_any_frames(
    frames: list[tuple[int, int, int, bytes]], client_side: bool
) -> None:
    wire = Wire(client_side=client_side, max_message_bytes=1000)
    wire.initiate_connection()
    if client_side:
        wire.ask("/a/b", "localhost", None, [])
    data = b"".join(struct.pack(">HBBBI", 0, len(body), kind, flags, stream) + body for kind, flags, stream, body in frames)
    _feed(wire, (b"" if client_side else PREFACE) + SettingsFrame(0).serialize() + data)


def _feed(wire: Wire, data: bytes) -> None:
    try:
        wire.receive(data)
    except WireError:
        assert wire.outbound_bytes > 0
