"""Every method of every port fails in every way, at its first call and in the middle (in the long form: at every call)."""

from collections.abc import Sequence

import pytest

from tests.campaign import Tally
from tests.faults.faulty import UNDECLARED, AnswersLate, Hangs, Kind, Lies, Plan, Raises, failures, lies, waits
from tests.faults.play import play, told
from tests.faults.ports import Point, points
from tests.faults.rehearsal import rehearsed
from tests.faults.story import CONVERGE_SECONDS, WATCHDOG_SECONDS

pytestmark = pytest.mark.faults

WITNESSES = {"GpuDriver.processes", "ProcessTable.inspect"}
"""Who is asked before somebody is stopped."""
LASTING_SECONDS = (5.0, 20.0)

every_point = pytest.mark.parametrize("point", points(), ids=lambda point: point.name)


def test_the_story_calls_every_method_of_every_port() -> None:
    assert {point.name for point in points()} - set(rehearsed().exposed) == set()


@pytest.mark.timeout(7200)
@every_point
def test_a_port_that_raises_anything_leaves_the_node_right(
    point: Point, monkeypatch: pytest.MonkeyPatch, tally: Tally, long_form: bool
) -> None:
    kinds = failures(point)
    strike(point, kinds if long_form else kinds[:-1], monkeypatch, tally, long_form)


@pytest.mark.timeout(7200)
@every_point
def test_a_port_that_does_not_answer_leaves_the_node_right(
    point: Point, monkeypatch: pytest.MonkeyPatch, tally: Tally, long_form: bool
) -> None:
    strike(point, waits(point), monkeypatch, tally, long_form)


@pytest.mark.timeout(7200)
@every_point
def test_a_port_that_lies_leaves_the_node_right(
    point: Point, monkeypatch: pytest.MonkeyPatch, tally: Tally, long_form: bool
) -> None:
    strike(point, lies(point, rehearsed().samples.get(point.name, [])), monkeypatch, tally, long_form)


@pytest.mark.timeout(7200)
@every_point
def test_a_port_that_fails_for_a_while_leaves_the_node_right(
    point: Point, monkeypatch: pytest.MonkeyPatch, tally: Tally, long_form: bool
) -> None:
    kinds: list[Kind] = [Raises((*point.declared, *UNDECLARED)[0]), *(waits(point) if long_form else ())]
    for seconds in LASTING_SECONDS if long_form else LASTING_SECONDS[:1]:
        strike(point, kinds, monkeypatch, tally, long_form=False, lasting_seconds=seconds)


@pytest.mark.timeout(7200)
@every_point
def test_a_port_that_keeps_lying_for_a_while_does_what_its_lie_must_and_no_more(
    point: Point, monkeypatch: pytest.MonkeyPatch, tally: Tally, long_form: bool
) -> None:
    if not long_form and point.name not in WITNESSES:
        pytest.skip("in the short form only those who can convict lie for a while")
    strike(
        point, lies(point, rehearsed().samples.get(point.name, [])), monkeypatch, tally, long_form=False, lasting_seconds=2.0
    )


def strike(
    point: Point,
    kinds: Sequence[Kind],
    monkeypatch: pytest.MonkeyPatch,
    tally: Tally,
    long_form: bool,
    lasting_seconds: float = 0.0,
) -> None:
    """Play the story with each fault; fails with all that went wrong."""
    found = []
    for kind in kinds:
        for numbers in _moments(point, long_form):
            plan = Plan({(point.name, number): kind for number in numbers}, lasting_seconds)
            patience = WATCHDOG_SECONDS if isinstance(kind, Hangs | AnswersLate) else 0.0
            try:
                run = play(plan, monkeypatch, converge_seconds=CONVERGE_SECONDS + patience)
                assert plan.injected or isinstance(kind, Lies), "the fault never struck"
                assert set(run.codes) <= {0, 69, 70, 137}, f"exit codes {run.codes}"
            except (Exception, BaseExceptionGroup) as error:
                found.append(f"{point.name} {kind.name} at {numbers}: {told(error)}")
            if plan.injected:  # A lie may have found no call at which it would have been one.
                tally.add("faults injected", len(plan.injected))
                tally.add("scenarios run")
    assert not found, "\n".join(["", *found])


def _moments(point: Point, long_form: bool) -> list[tuple[int, ...]]:
    """The calls to strike at: of those that the story makes while something may be wrong."""
    numbers = rehearsed().exposed[point.name]
    if long_form:
        return [(number,) for number in numbers]
    return [tuple(sorted({numbers[0], numbers[len(numbers) // 2]}))]
