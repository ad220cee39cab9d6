"""The wall clock jumps by a day, there and back, while the daemon runs: what is granted, held, known and healthy stays so."""

import json
import os
import time
from datetime import datetime

import jwt
import pytest

from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb
from mortalgpu.simulation.driver import v100_uuid
from tests.campaign import Tally
from tests.e2e.daemon import EXAMPLE_COUNTS, SHARED, Daemon
from tests.e2e.device_manager import Capacity
from tests.e2e.faults.clock import DAY_SECONDS, Clock
from tests.e2e.faults.rig import Rig
from tests.e2e.pods import Pod, pod_asking
from tests.e2e.waiting import eventually, until

pytestmark = [pytest.mark.e2e, pytest.mark.faults]
QUIET_SECONDS = 2.0
JUMPS = (DAY_SECONDS, -DAY_SECONDS)


@pytest.fixture
def clock(idle: Rig, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the rig's daemon, which is started with it, and with devices that soon are well again."""
    clock = Clock(idle.daemon.folder)
    for name, value in clock.environment.items():
        monkeypatch.setenv(name, value)
    idle.daemon.config["health"] = {"quietSeconds": QUIET_SECONDS}
    idle.daemon.start()
    for name in clock.environment:
        monkeypatch.delenv(name)
    idle.settle()
    return clock


def ahead_seconds(daemon: Daemon) -> float:
    """How far the daemon's clock is ahead, by the last line that it logged."""
    line = json.loads(daemon.log().splitlines()[-1])
    return datetime.fromisoformat(line["time"]).timestamp() - time.time()


needs_root = (pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make cgroups of containers"))
"""A token opens the door of a container that runs."""


def move_in(rig: Rig, pod: Pod) -> str:
    """Admit a pod and let it run; return its container's token."""
    admission = rig.manager.admit(pod)
    assert admission.admitted, admission.message
    rig.runs(pod)
    return admission.edits().env["MG_CTL_TOKEN"]


def opens(rig: Rig, token: str) -> None:
    """Wait until a token opens its container's door, as it does once the daemon has seen the container run."""
    until("an open door", lambda: code(rig, token), "OK".__eq__, seconds=10)


def code(rig: Rig, token: str) -> str:
    return rig.ask("GetGpuContainers", pb.GetGpuContainersRequest().SerializeToString(), token=token).code


def test_a_jump_there_and_back_disturbs_nothing(idle: Rig, clock: Clock, tally: Tally) -> None:
    made = dict(idle.manager.registrations.made)
    for shift in (DAY_SECONDS, 0, -DAY_SECONDS, 0):
        clock.set(shift)
        tally.add("faults of the environment")
        idle.sound()
        assert abs(ahead_seconds(idle.daemon) - shift) < 60, "the clock that was to be set was not"
    assert idle.manager.registrations.made == made


@needs_root[0]
@needs_root[1]
def test_a_containers_token_opens_its_own_door_whenever_it_was_minted(idle: Rig, clock: Clock, tally: Tally) -> None:
    for jump in JUMPS:
        tokens = {"before": idle.tenants["quiet"].token}
        clock.set(jump)
        tally.add("faults of the environment")
        pods = {"amid": pod_asking("amid", main={SHARED: 1}), "after": pod_asking("after", main={SHARED: 1})}
        tokens["amid"] = move_in(idle, pods["amid"])
        opens(idle, tokens["amid"])
        assert {name: code(idle, token) for name, token in tokens.items()} == dict.fromkeys(tokens, "OK")
        clock.set(0)
        tokens["after"] = move_in(idle, pods["after"])
        opens(idle, tokens["after"])
        assert {name: code(idle, token) for name, token in tokens.items()} == dict.fromkeys(tokens, "OK")
        for pod in pods.values():
            idle.leaves(pod)
        idle.sound()


@needs_root[0]
@needs_root[1]
def test_the_token_of_a_container_that_is_gone_stays_dead(idle: Rig, clock: Clock, tally: Tally) -> None:
    """The ids of a deleted pod go to the next one, while the clock is wrong; then it is right again."""
    for jump in JUMPS:
        first, second = (pod_asking(name, main={SHARED: 400}) for name in ("first", "second"))
        old = move_in(idle, first)
        ids = idle.manager.holdings()[-1].ids
        opens(idle, old)
        idle.leaves(first)
        clock.set(jump)
        tally.add("faults of the environment")
        new = move_in(idle, second)
        assert idle.manager.holdings()[-1].ids == ids
        opens(idle, new)
        for shift in (jump, 0, jump, 0):
            clock.set(shift)
            assert {"old": code(idle, old), "new": code(idle, new)} == {"old": "UNAUTHENTICATED", "new": "OK"}
        idle.leaves(second)
        idle.sound()


def test_an_operators_token_ends_when_the_clock_says_so(idle: Rig, clock: Clock, tally: Tally) -> None:
    key = (idle.daemon.folder / "state" / "device-api.key").read_text().strip()
    now = time.time()
    token = jwt.encode({"email": "op", "visibilityLevel": "l0", "iat": now, "exp": now + 3600}, key, algorithm="HS256")
    assert code(idle, token) == "OK"
    clock.set(DAY_SECONDS)
    tally.add("faults of the environment")
    assert code(idle, token) == "UNAUTHENTICATED"
    clock.set(0)
    assert code(idle, token) == "OK"


def test_a_sick_device_is_well_again_after_its_quiet_time_and_not_by_the_clock(idle: Rig, clock: Clock, tally: Tally) -> None:
    for jump in JUMPS:
        began = time.monotonic()
        idle.daemon.driver.push_event(v100_uuid(0), "xid", 94)
        eventually("the sickness", lambda: idle.manager.capacity(SHARED) == Capacity(800, 400), seconds=5)
        clock.set(jump)
        tally.add("faults of the environment")
        idle.manager.wait_allocatable(EXAMPLE_COUNTS, QUIET_SECONDS + 30)
        assert time.monotonic() - began >= QUIET_SECONDS
        clock.set(0)
        idle.sound()
