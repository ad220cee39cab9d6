"""The campaign itself: a daemon that is broken on purpose does not pass it."""

import os
import re

import pytest
import trio

from mortalgpu import statefile
from mortalgpu.enforcer import decide
from mortalgpu.enforcer import service as enforcer
from mortalgpu.host.base import HostProcess, KillOutcome
from mortalgpu.model.usage import DeviceClaim, ProcessUsage
from mortalgpu.scan import discovery, listings
from mortalgpu.sharing import layout
from mortalgpu.simulation.host import SentSignal, SimulatedHost
from tests.faults.faulty import Plan
from tests.faults.play import play
from tests.faults.ports import points
from tests.faults.test_numbers import Inheritance

pytestmark = pytest.mark.faults


def fails(plan: Plan, monkeypatch: pytest.MonkeyPatch, why: str, changes: Inheritance | None = None) -> None:
    """Play a story that must fail, for this reason."""
    with pytest.raises(BaseException) as caught:
        play(plan, monkeypatch, prepare=changes.prepare if changes else lambda _: None)
    error = caught.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert re.search(why, str(error)), repr(error)


def test_a_signal_without_question_and_identity_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    async def always(*_: object) -> bool:
        return True

    def strike_whoever(self: SimulatedHost, life: object, name: str, _expected: HostProcess) -> KillOutcome | None:
        found = self._lives[life.process.pid]  # type: ignore[attr-defined]
        self.signals.append(SentSignal(found.process, name, trio.current_time()))
        self.exit(found.process.pid)
        return None

    monkeypatch.setattr(enforcer._Enforcer, "_is_still_wanted", always)
    monkeypatch.setattr(SimulatedHost, "_strike", strike_whoever)
    changes = Inheritance(next(point for point in points() if point.name == "ProcessTable.describe"), 1, None)
    fails(changes.plan, monkeypatch, "SIGKILL to pid .* a stranger", changes)


def test_believing_every_listing_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings.Listings, "disbelieved", lambda *_: frozenset())
    changes = Inheritance(next(point for point in points() if point.name == "ProcessTable.open"), 1, "bob")
    fails(changes.plan, monkeypatch, "bob is within its limit", changes)


def test_choosing_the_smallest_process_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def smallest(claim: DeviceClaim, *_: object) -> ProcessUsage | None:
        return min(claim.processes, key=lambda process: process.used_bytes or 0) if claim.over_limit else None

    monkeypatch.setattr(decide, "_victim", smallest)
    fails(Plan(), monkeypatch, "did nothing, and is gone")


def test_holding_no_limit_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide, "_victim", lambda *_: None)
    fails(Plan(), monkeypatch, "is above its limit")


def test_a_layout_that_changes_under_its_holders_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_must_wait", lambda *_: False)
    fails(Plan(), monkeypatch, "bob is within its limit")


def test_an_open_file_left_behind_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    left = []
    write_state = statefile.write_state

    def leaking(*arguments: object) -> None:
        left.append(os.open("/dev/null", os.O_RDONLY))
        write_state(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(discovery, "write_state", leaking)
    try:
        fails(Plan(), monkeypatch, "left over")
    finally:
        for number in left:
            os.close(number)


def test_a_task_left_behind_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    serve = discovery.Discovery.serve

    async def leaking(self: discovery.Discovery, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        trio.lowlevel.spawn_system_task(trio.sleep_forever)
        await serve(self, task_status=task_status)

    monkeypatch.setattr(discovery.Discovery, "serve", leaking)
    fails(Plan(), monkeypatch, "tasks left")
