"""The daemon is cancelled, and a task of it crashes, at one await after another; its supervisor starts it again.

An await is any at which any task of the daemon's waits: in its services, in the servers for kubelet and for mgctl, in Trio.
The short form takes them at a stride, the long form one by one.
"""

import pytest

from tests.campaign import Tally
from tests.faults.faulty import Plan
from tests.faults.instruments import Blow, crash
from tests.faults.play import play, told
from tests.faults.rehearsal import rehearsed_steps

pytestmark = pytest.mark.faults

SHORT_RUNS = 20


@pytest.mark.timeout(36000)
def test_a_daemon_cancelled_at_any_await_leaves_nothing_behind_and_comes_back(
    monkeypatch: pytest.MonkeyPatch, tally: Tally, long_form: bool
) -> None:
    strike_everywhere(None, monkeypatch, tally, long_form)


@pytest.mark.timeout(36000)
def test_a_task_that_crashes_at_any_await_costs_a_restart_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tally: Tally, long_form: bool
) -> None:
    strike_everywhere(crash, monkeypatch, tally, long_form)


def strike_everywhere(blow: Blow | None, monkeypatch: pytest.MonkeyPatch, tally: Tally, long_form: bool) -> None:
    """Play the story with a blow at each of the awaits chosen; fails with all that went wrong."""
    found = []
    for number in _awaits(long_form):
        try:
            run = play(Plan(), monkeypatch, blow_at=number, blow=blow)
            assert set(run.codes) <= {0, 70, 137}, f"exit codes {run.codes}"
        except (Exception, BaseExceptionGroup) as error:
            found.append(f"at await {number}: {told(error)}")
        tally.add("awaits cancelled" if blow is None else "awaits crashed")
        tally.add("scenarios run")
    assert not found, "\n".join(["", *found])


def _awaits(long_form: bool) -> list[int]:
    numbers = rehearsed_steps()
    return numbers if long_form else numbers[:: max(1, len(numbers) // SHORT_RUNS)]
