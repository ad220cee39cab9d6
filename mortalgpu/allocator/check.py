"""Whether an answer keeps what base.py promises: the judge of the external program, and of the policies' tests."""

from collections import Counter
from collections.abc import Sequence

from mortalgpu.allocator.base import Request, Terms
from mortalgpu.allocator.room import survey
from mortalgpu.model.share import SharedDevice
from mortalgpu.sharing.metaid import format_id, numbers_by_device, quoted


def answer_problem(answer: Sequence[str], request: Request, devices: Sequence[SharedDevice], terms: Terms) -> str | None:
    """Say what is wrong with an answer; None when it may be used.

    Raises as `room.survey` when the request has no right answer at all.
    """
    found = survey(request, devices, terms)
    problem = _set_problem(answer, request)
    if problem:
        return problem
    used = numbers_by_device(answer)
    usable = {room.device.uuid: room.forced | room.free for room in (*found.begun, *found.others)}
    for uuid, numbers in used.items():
        strays = set(numbers) - usable.get(uuid, frozenset())
        if strays:
            return f"it names {quoted(format_id(uuid, min(strays)))}, which this request may not use"
    if len(used) > found.fewest_devices:
        return f"it uses {len(used)} devices where {found.fewest_devices} would do"
    return None


def _set_problem(answer: Sequence[str], request: Request) -> str | None:
    """Check the answer as a set of ids, whatever devices they are on."""
    chosen = set(answer)
    if len(chosen) < len(answer):
        twice, _ = Counter(answer).most_common(1)[0]
        return f"it names {quoted(twice)} twice"
    if len(answer) != request.size:
        return f"it names {len(answer)} ids instead of {request.size}"
    stray = chosen.difference(request.available)
    if stray:
        return f"it names {quoted(min(stray))}, which is not available"
    left_out = set(request.must_include) - chosen
    if left_out:
        return f"it leaves out {quoted(min(left_out))}, which must be included"
    return None
