"""The campaign itself: a daemon that is broken on purpose does not pass it."""

import os
import re
import socket
from collections.abc import Callable

import pytest
import trio

from mortalgpu.enforcer import decide
from mortalgpu.enforcer import service as enforcer
from mortalgpu.host.base import HostProcess, KillOutcome
from mortalgpu.model.device import Device
from mortalgpu.model.usage import DeviceClaim, ProcessUsage
from mortalgpu.scan import listings
from mortalgpu.sharing import layout
from mortalgpu.simulation.host import SimulatedHost
from tests.faults.faulty import Plan
from tests.faults.inheritance import Inheritance
from tests.faults.play import play
from tests.faults.ports import points
from tests.faults.world import World

pytestmark = pytest.mark.faults


def fails(plan: Plan, monkeypatch: pytest.MonkeyPatch, why: str, prepare: Callable[[World], None] = lambda _: None) -> None:
    """Play a story that must fail, for this reason."""
    with pytest.raises(BaseException) as caught:
        play(plan, monkeypatch, prepare=prepare)
    error = caught.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert re.search(why, str(error)), repr(error)


def test_a_signal_without_question_and_identity_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    async def always(*_: object) -> bool:
        return True

    def strike_whoever(self: SimulatedHost, life: object, name: str, _expected: HostProcess) -> KillOutcome | None:
        found = self._lives[life.process.pid]  # type: ignore[attr-defined]
        self._note_signal(found.process, name)
        self.exit(found.process.pid)
        return None

    monkeypatch.setattr(enforcer._Enforcer, "_is_still_wanted", always)
    monkeypatch.setattr(SimulatedHost, "_strike", strike_whoever)
    changes = Inheritance(next(point for point in points() if point.name == "ProcessTable.open"), 1, None)
    fails(changes.plan, monkeypatch, "SIGKILL to pid .* a stranger", changes.prepare)


def test_believing_every_listing_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings.Listings, "disbelieved", lambda *_: frozenset())
    changes = Inheritance(next(point for point in points() if point.name == "ProcessTable.open"), 1, "bob")
    fails(changes.plan, monkeypatch, "bob is within its limit", changes.prepare)


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


def leaking(leak: Callable[[], object]) -> Callable[[World], None]:
    """Prepare a world in which the daemon leaves something behind each time it lists the devices."""

    def prepare(world: World) -> None:
        devices = world.driver.devices

        async def leaky() -> tuple[Device, ...]:
            leak()
            return await devices()

        world.driver.devices = leaky  # type: ignore[method-assign]

    return prepare


def test_an_open_file_left_behind_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    try:
        fails(Plan(), monkeypatch, "left over", leaking(lambda: left.append(os.open("/dev/null", os.O_RDONLY))))
    finally:
        for number in left:
            os.close(number)


def test_a_task_left_behind_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    fails(Plan(), monkeypatch, "tasks left", leaking(lambda: trio.lowlevel.spawn_system_task(trio.sleep_forever)))


def test_a_socket_left_behind_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(world: World) -> None:
        world.kubelet.device_plugin_dir.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(world.root / "mortalgpu-dead.sock"))

    fails(Plan(), monkeypatch, "sockets left", prepare)
