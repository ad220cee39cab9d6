"""Enforcement on a real node: kubelet, containerd and the daemon, without any API server.

What processes hold is said by the driver's stand-in; everything else is real: pods, cgroups, signals, restarts. The node is one
for all tests. Each has pods of its own, since kubelet waits before it restarts a container a second time.
"""

import statistics
from collections.abc import Iterator

import pytest

from mortalgpu.simulation.driver import v100_uuid
from tests.e2e import build
from tests.e2e.daemon import EXAMPLE_COUNTS, SHARED, TEN, TWENTY, Daemon, example_config, program
from tests.e2e.node import Node
from tests.e2e.pods import Container, Pod
from tests.e2e.process import Process
from tests.e2e.stage import FAMILY, KILLED, MIB, QUIET_SECONDS, Life, Stage, asking, quiet
from tests.e2e.waiting import until
from tests.needs import skipped_where_missing

pytestmark = [pytest.mark.e2e, pytest.mark.root]

V100 = v100_uuid(0)
GIB = 1 << 30
ANNOTATION = f"gpu-mem-limit.{SHARED}"
TRIALS = 20
LAZIEST_SECONDS = 2.0
"""What the slowest reaction may take on a machine that is busy with other things; the aim is 0.2 s."""
CAST = (
    asking("neighbour", SHARED, 40),
    asking("hungry", SHARED, 40),
    asking("family", SHARED, 40),
    asking("foreign", TWENTY, 10),
    Pod("pair", (Container("left", {TWENTY: 50}), Container("right", {TWENTY: 50}))),
    Pod("helped", (Container("main", {SHARED: 10}), Container("helper", command=FAMILY))),
    asking("large", SHARED, 300),
    asking("revived", SHARED, 10),
    asking("away", SHARED, 10),
    Pod("starting", (Container("main", {SHARED: 10}),), init_containers=(Container("init", {SHARED: 10}),)),
    Pod("sided", (Container("main", {TEN: 10}),), init_containers=(Container("side", {TEN: 10}, sidecar=True),)),
    Pod("stranger", (Container(),)),
    asking("generous", SHARED, 10, annotations={ANNOTATION: "20"}),
    asking("greedy", TEN, 10, annotations={f"gpu-mem-limit.{TEN}": "1000"}),
    asking("garbled", SHARED, 10, annotations={ANNOTATION: "plenty"}),
)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """The node and the daemon, with the whole cast running."""
    with skipped_where_missing():
        build.locate_node()
        program()
    with Node() as node:
        folder = node.folder / "daemon"
        config = example_config(folder, criSocket=str(node.containerd.socket))
        with Daemon(folder, node.socket_dir, config=config) as daemon:
            until("the worked example's counts", node.allocatable, EXAMPLE_COUNTS.__eq__, seconds=20)
            made = Stage(node, daemon)
            made.play(*CAST)
            yield made


@pytest.fixture(autouse=True)
def _nobody_holds_anything(stage: Stage) -> Iterator[None]:
    yield
    stage.clear()


def test_the_process_over_its_limit_is_ended_its_container_restarts_and_its_neighbour_stays(stage: Stage) -> None:
    hungry, neighbour = stage.actor("hungry"), stage.actor("neighbour")
    assert hungry.device == neighbour.device == V100
    assert hungry.limit_bytes == neighbour.limit_bytes
    with Life(hungry.pid) as victim, Life(neighbour.pid) as other:
        with stage.only(victim, spared=(other,)):
            stage.hold(V100, {hungry.pid: hungry.limit_bytes + 2 * MIB, neighbour.pid: neighbour.limit_bytes})
    again = stage.restarted(hungry)
    status = stage.status("hungry")
    assert (status.restarts, status.exit_code) == (1, KILLED)
    assert stage.status("neighbour").restarts == 0
    assert again.env["METAGPU_MAX_MEM"] == hungry.env["METAGPU_MAX_MEM"]
    (told,) = [event for event in stage.kills() if event["pod"] == "hungry-harness"]
    assert told["pid"] == hungry.pid
    assert told["used_bytes"] == hungry.limit_bytes + 2 * MIB
    assert told["limit_bytes"] // MIB * MIB == hungry.limit_bytes


def test_a_restarted_container_is_held_to_its_limit_again(stage: Stage) -> None:
    hungry = stage.actor("hungry")
    with Life(hungry.pid) as victim:
        stage.hold(V100, {hungry.pid: hungry.limit_bytes})
        quiet(QUIET_SECONDS)
        assert victim.alive
        with stage.only(victim):
            stage.hold(V100, {hungry.pid: hungry.limit_bytes + 2 * MIB})


def test_processes_within_the_limit_each_and_over_it_together_lose_the_largest(stage: Stage) -> None:
    family = stage.actor("family")
    first, second, third = stage.sleepers(family)
    share = family.limit_bytes // 10
    with Life(first) as small, Life(second) as large, Life(third) as middle, Life(family.pid) as parent:
        with stage.only(large, spared=(small, middle, parent)):
            stage.hold(V100, {first: 3 * share, second: 5 * share, third: 4 * share})
    assert stage.status("family").restarts == 0


def test_a_forked_childs_memory_counts_for_the_container_and_its_parent_lives(stage: Stage) -> None:
    family = stage.actor("family")
    child = stage.sleepers(family)[0]
    with Life(child) as victim, Life(family.pid) as parent:
        with stage.only(victim, spared=(parent,)):
            stage.hold(V100, {family.pid: 100 * MIB, child: family.limit_bytes})
    assert stage.status("family").restarts == 0


def test_every_process_goes_when_each_alone_is_over(stage: Stage) -> None:
    family = stage.actor("family")
    first, second, _ = stage.sleepers(family)
    with Life(first) as one, Life(second) as other:
        with stage.only(one, other):
            stage.hold(V100, {first: family.limit_bytes + 2 * MIB, second: family.limit_bytes + 3 * MIB})
            other.wait_end()
            stage.release(second)


def test_a_process_on_a_device_that_it_was_not_given_is_ended(stage: Stage) -> None:
    foreign, neighbour = stage.actor("foreign"), stage.actor("neighbour")
    intruder = stage.sleepers(foreign)[0]
    with Life(intruder) as victim, Life(foreign.pid) as parent, Life(neighbour.pid) as owner:
        with stage.only(victim, spared=(parent, owner)):
            stage.hold(foreign.device, {foreign.pid: foreign.limit_bytes})
            stage.hold(V100, {intruder: MIB, neighbour.pid: neighbour.limit_bytes})
    (told,) = [event for event in stage.kills() if event["pod"] == "foreign-harness"]
    assert (told["device"], told["limit_bytes"]) == (V100, 0)


def test_a_container_that_was_given_nothing_may_use_nothing_of_what_its_pod_holds(stage: Stage) -> None:
    helper, main = stage.actor("helped", "helper"), stage.actor("helped")
    child = stage.sleepers(helper)[0]
    with Life(child) as victim, Life(main.pid) as owner, Life(helper.pid) as parent:
        with stage.only(victim, spared=(owner, parent)):
            stage.hold(main.device, {child: MIB, main.pid: main.limit_bytes})


def test_the_limit_is_that_of_the_device_allocated_not_of_the_resource(stage: Stage) -> None:
    large, family = stage.actor("large"), stage.actor("family")
    assert large.device != family.device == V100
    per_share, smaller = large.limit_bytes / 300, family.limit_bytes / 40
    assert per_share > smaller * 1.2
    child = stage.sleepers(large)[0]
    with Life(child) as victim, Life(large.pid) as parent:
        with stage.only(spared=(victim, parent)):
            stage.hold(large.device, {child: large.limit_bytes})
        with stage.only(victim, spared=(parent,)):
            stage.hold(large.device, {child: large.limit_bytes + 2 * MIB})


def test_two_containers_of_one_pod_are_judged_each_for_itself(stage: Stage) -> None:
    left, right = stage.actor("pair", "left"), stage.actor("pair", "right")
    with Life(left.pid) as within, Life(right.pid) as victim:
        with stage.only(victim, spared=(within,)):
            stage.hold(left.device, {left.pid: left.limit_bytes, right.pid: right.limit_bytes + 2 * MIB})
    stage.restarted(right)
    assert (stage.status("pair", "left").restarts, stage.status("pair", "right").restarts) == (0, 1)


def test_an_init_container_that_holds_shares_runs_on_within_them(stage: Stage) -> None:
    init = stage.appears("starting", "init")
    with Life(init.pid) as process:
        with stage.only(spared=(process,)):
            stage.hold(init.device, {init.pid: init.limit_bytes})


def test_an_init_container_that_goes_over_its_shares_is_stopped(stage: Stage) -> None:
    init = stage.appears("starting", "init")
    with Life(init.pid) as victim:
        with stage.only(victim):
            stage.hold(init.device, {init.pid: init.limit_bytes + 2 * MIB})


def test_a_sidecar_is_held_to_its_own_limit(stage: Stage) -> None:
    side, main = stage.appears("sided", "side"), stage.actor("sided")
    with Life(side.pid) as victim, Life(main.pid) as other:
        with stage.only(victim, spared=(other,)):
            stage.hold(side.device, {side.pid: side.limit_bytes + 2 * MIB, main.pid: main.limit_bytes})


def test_neither_a_host_process_nor_a_pod_without_shares_is_touched_whatever_it_holds(stage: Stage) -> None:
    stranger, family = stage.status("stranger"), stage.actor("family")
    child = stage.sleepers(family)[0]
    host = Process("host process", ["/bin/sleep", "1000000"], stage.node.folder / "host.log")
    try:
        with Life(stage.node.pid(stranger.id)) as outside, Life(host.pid) as on_host, Life(child) as victim:
            # The container over its limit shows that scans with all of these in them were judged.
            with stage.only(victim, spared=(outside, on_host)):
                stage.hold(V100, {outside.pid: 12 * GIB, on_host.pid: 12 * GIB, child: family.limit_bytes + 2 * MIB})
    finally:
        host.kill()


def test_an_overcommit_annotation_raises_the_limit_to_so_many_shares(stage: Stage) -> None:
    generous = stage.actor("generous")
    child = stage.sleepers(generous)[0]
    with Life(child) as victim, Life(generous.pid) as parent:
        with stage.only(spared=(victim, parent)):
            stage.hold(generous.device, {child: 2 * generous.limit_bytes})
        with stage.only(victim, spared=(parent,)):
            stage.hold(generous.device, {child: 2 * generous.limit_bytes + 4 * MIB})


def test_an_annotation_above_the_device_gives_the_device(stage: Stage) -> None:
    greedy = stage.actor("greedy")
    with Life(greedy.pid) as process:
        with stage.only(spared=(process,)):
            stage.hold(greedy.device, {greedy.pid: 10 * greedy.limit_bytes})


def test_an_annotation_that_cannot_be_read_leaves_the_request_in_force_and_is_told(stage: Stage) -> None:
    garbled = stage.actor("garbled")
    child = stage.sleepers(garbled)[0]
    with Life(child) as victim, Life(garbled.pid) as parent:
        with stage.only(victim, spared=(parent,)):
            stage.hold(garbled.device, {child: garbled.limit_bytes + 2 * MIB})
    notices = stage.daemon.events('"limit annotation not followed"')
    assert [notice["resource"] for notice in notices if notice["pod"] == "garbled-harness"] == [SHARED]


def test_the_time_from_the_memory_to_the_end_of_the_process_is_short(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    family = stage.actor("family")
    seconds = sorted(_reaction_seconds(stage, stage.sleepers(family)[0], family.limit_bytes + 2 * MIB) for _ in range(TRIALS))
    assert stage.status("family").restarts == 0
    with capsys.disabled():
        p50, worst = statistics.median(seconds), seconds[-1]
        print(f"\nmemory over the limit → process dead, real node, {TRIALS} trials: p50 {p50:.3f} s, max {worst:.3f} s")
    assert worst < LAZIEST_SECONDS


def _reaction_seconds(stage: Stage, pid: int, used_bytes: int) -> float:
    with Life(pid) as victim:
        changed_at = stage.hold(V100, {pid: used_bytes})
        ended_at = victim.wait_end()
        stage.release(pid)
        return ended_at - changed_at


def test_a_dead_kubelet_stops_no_enforcement_and_its_return_kills_nobody(stage: Stage) -> None:
    daemon = stage.daemon.pid
    family, neighbour, away = stage.actor("family"), stage.actor("neighbour"), stage.actor("away")
    stage.known(family, neighbour, away)
    child = stage.sleepers(family)[0]
    with Life(child) as over, Life(away.pid) as main, Life(family.pid) as parent, Life(neighbour.pid) as other:
        stage.hold(V100, {neighbour.pid: neighbour.limit_bytes})
        stage.node.stop_kubelet(hard=True)
        with stage.only(over, spared=(main, parent, other)):
            stage.hold(V100, {child: family.limit_bytes + 2 * MIB})
        stage.node.start_kubelet()
        # kubelet's books are empty at its start: a container that restarts now must not be taken for an intruder.
        with stage.only(main, spared=(other,)):
            stage.hold(away.device, {away.pid: away.limit_bytes + 2 * MIB})
            main.wait_end()
            stage.release(away.pid)
            again = stage.appears("away", "main", other_than=away.id)
            stage.hold(again.device, {again.pid: again.limit_bytes})
        with Life(again.pid) as process, stage.only(process, spared=(other,)):
            stage.hold(again.device, {again.pid: again.limit_bytes + 2 * MIB})
    until("kubelet's own counts", stage.node.allocatable, EXAMPLE_COUNTS.__eq__, seconds=20)
    assert stage.daemon.pid == daemon


def test_a_dead_runtime_stops_no_enforcement_and_is_found_again(stage: Stage) -> None:
    daemon = stage.daemon.pid
    family, neighbour, revived = stage.actor("family"), stage.actor("neighbour"), stage.actor("revived")
    stage.known(family, neighbour, revived)
    child = stage.sleepers(family)[0]
    with Life(child) as over, Life(revived.pid) as main, Life(neighbour.pid) as other:
        stage.hold(V100, {neighbour.pid: neighbour.limit_bytes})
        stage.node.containerd.kill()
        with stage.only(over, main, spared=(other,)):
            stage.hold(V100, {child: family.limit_bytes + 2 * MIB})
            stage.hold(revived.device, {revived.pid: revived.limit_bytes + 2 * MIB})
        stage.node.containerd.restart()
        again = stage.appears("revived", "main", other_than=revived.id)
        with Life(again.pid) as process:
            with stage.only(spared=(process, other)):
                stage.hold(again.device, {again.pid: again.limit_bytes})
            with stage.only(process, spared=(other,)):
                stage.hold(again.device, {again.pid: again.limit_bytes + 2 * MIB})
    assert stage.status("neighbour").restarts == 0
    assert stage.daemon.pid == daemon


def test_a_daemon_that_starts_without_the_runtime_kills_nobody_until_it_knows_whom(stage: Stage) -> None:
    family = stage.actor("family")
    child = stage.sleepers(family)[0]
    stage.node.containerd.kill()
    with Life(child) as victim:
        stage.hold(V100, {child: family.limit_bytes + 2 * MIB})
        stage.daemon.restart()
        until("the worked example's counts", stage.node.allocatable, EXAMPLE_COUNTS.__eq__, seconds=20)
        with stage.only(spared=(victim,)):
            pass
        with stage.only(victim):
            stage.node.containerd.restart()


def test_a_container_over_its_limit_while_no_daemon_runs_is_stopped_by_the_next_one(stage: Stage) -> None:
    family, neighbour = stage.actor("family"), stage.actor("neighbour")
    child = stage.sleepers(family)[0]
    stage.daemon.kill()
    with Life(child) as victim, Life(neighbour.pid) as other:
        stage.hold(V100, {child: family.limit_bytes + 2 * MIB, neighbour.pid: neighbour.limit_bytes})
        with stage.only(victim, spared=(other,)):
            stage.daemon.start()
