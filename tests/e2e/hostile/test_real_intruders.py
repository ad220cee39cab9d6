"""A tenant with root in its container, on a real node: what it does to be another, to be nobody, or to be too fast.

Everything but the driver is real: pods, cgroups, namespaces, signals. The driver's stand-in says what processes hold.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mortalgpu.simulation.driver import v100_uuid
from tests.campaign import Tally
from tests.e2e import build
from tests.e2e.cgroups import hierarchies
from tests.e2e.daemon import EXAMPLE_COUNTS, SHARED, Daemon, example_config, program
from tests.e2e.hostile.intruder import MOUNTED, Intrusion, compile_intruder, intruding
from tests.e2e.node import Node
from tests.e2e.pods import Container, Pod
from tests.e2e.stage import FAMILY, MIB, Actor, Life, Stage, asking, containers
from tests.e2e.waiting import eventually, until
from tests.needs import skipped_where_missing

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.hostile]

V100 = v100_uuid(0)
NAMES = (
    "kubelet", "[kworker/0:0]", "/pause", "mortalgpu run", "a\nlevel=error event=forged", "\x1b[2J\x1b]0;owned\x07",
    "x" * 100_000, '","pod":"victim-harness', "\u202egnp.exe", "",
)  # fmt: skip
LAZIEST_SECONDS = 3.0
"""What the slowest end may take on a machine that is busy with other things; the aim is 0.2 s."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the tenant's container has mounted."""
    made = tmp_path_factory.mktemp("hostile")
    with skipped_where_missing():
        compile_intruder(made)
    return made


@pytest.fixture(scope="module")
def stage(folder: Path) -> Iterator[Stage]:
    """A node with a tenant that means harm, and a victim on the same device."""
    with skipped_where_missing():
        build.locate_node()
        program()
    with Node() as node:
        own = node.folder / "daemon"
        with Daemon(own, node.socket_dir, config=example_config(own, criSocket=str(node.containerd.socket))) as daemon:
            until("the worked example's counts", node.allocatable, EXAMPLE_COUNTS.__eq__, seconds=20)
            made = Stage(node, daemon)
            tenant = Container("main", {SHARED: 20}, command=FAMILY, mounts={MOUNTED: folder})
            made.play(Pod("tenant", (tenant,)), asking("victim", SHARED, 20))
            made.known(made.actor("tenant"), made.actor("victim"))
            yield made


@pytest.fixture(autouse=True)
def _nobody_holds_anything(stage: Stage) -> Iterator[None]:
    yield
    stage.clear()


def pod_uid(actor: Actor) -> str:
    """The UID in the cgroup's path."""
    text = Path(f"/proc/{actor.pid}/cgroup").read_text()
    return text.partition("/pod")[2].partition("/")[0]


def held_and_its_victim_lives(stage: Stage, intrusion: Intrusion) -> None:
    """The intruder goes over the tenant's limit: it is ended and told of as the tenant's, and nobody else is."""
    tenant, victim = stage.actor("tenant"), stage.actor("victim")
    # Looked for until it is found: in the middle of an exec a process has no name.
    (pid,) = eventually("the intruder", intrusion.pids, seconds=10)
    with Life(pid) as intruder, Life(tenant.pid) as first, Life(victim.pid) as other:
        with stage.only(intruder, spared=(first, other)):
            stage.hold(V100, {pid: tenant.limit_bytes + 2 * MIB, victim.pid: victim.limit_bytes})
    (told,) = [event for event in stage.kills() if event["pid"] == pid]
    assert (told["pod"], told["container_id"]) == ("tenant-harness", tenant.id)
    assert stage.status("victim").restarts == 0


@pytest.mark.parametrize("mode", ["leave", "headless", "below"])
def test_who_goes_to_anothers_cgroup_path_as_far_as_it_can_is_held_as_who_it_is(
    stage: Stage, folder: Path, tally: Tally, mode: str
) -> None:
    tenant, victim = stage.actor("tenant"), stage.actor("victim")
    with intruding(stage, tenant, folder, mode, pod_uid(victim), victim.id) as intrusion:
        said = intrusion.said()
        if said != "done":
            pytest.skip(f"the kernel refuses the attack itself: {said}")
        held_and_its_victim_lives(stage, intrusion)
    clear_away(f"kubepods/burstable/pod{pod_uid(victim)}/{victim.id}")
    tally.add("attacks")


def clear_away(path: str) -> None:
    """Remove the cgroups that an intruder has made at the root of the unified hierarchy beside v1, where nobody else does."""
    for base in hierarchies() if len(hierarchies()) > 1 else ():
        for folder in (base / path, *(base / path).parents)[:4]:
            if base.name == "unified" and folder.is_dir():
                with suppress(OSError):
                    folder.rmdir()


@pytest.mark.parametrize("words", [("orphan",), ("hydra", "3000")], ids=lambda words: words[0])
def test_who_leaves_its_parents_or_its_first_thread_behind_is_held_as_who_it_is(
    stage: Stage, folder: Path, tally: Tally, long_form: bool, words: tuple[str, ...]
) -> None:
    if not long_form and words[0] != "orphan":
        pytest.skip("a part of the long form (--campaign long)")
    with intruding(stage, stage.actor("tenant"), folder, *words) as intrusion:
        said = intrusion.said()
        if said != "done":
            pytest.skip(f"the kernel refuses the attack itself: {said}")
        held_and_its_victim_lives(stage, intrusion)
    tally.add("attacks")


def test_who_stops_its_child_in_the_middle_of_its_end_ends_with_it(stage: Stage, folder: Path, tally: Tally) -> None:
    tenant, victim = stage.actor("tenant"), stage.actor("victim")
    with intruding(stage, tenant, folder, "traced") as intrusion:
        said = intrusion.said()
        if said != "done":
            pytest.skip(f"the kernel refuses the attack itself: {said}")
        tracer, child = eventually("both", lambda: pids if len(pids := intrusion.pids()) == 2 else [], seconds=10)
        with Life(child) as one, Life(tracer) as other, Life(tenant.pid) as first, Life(victim.pid) as neighbour:
            stage.hold(V100, {child: tenant.limit_bytes + 2 * MIB, victim.pid: victim.limit_bytes})
            for ended_with_it in (one, other):
                ended_with_it.wait_end()
            stage.release(child)
            assert (first.alive, neighbour.alive) == (True, True)
    tally.add("attacks")


@pytest.mark.parametrize("mode", ["vfork", "twin"])
def test_of_two_processes_with_one_memory_the_one_that_the_driver_names_is_ended(
    stage: Stage, folder: Path, tally: Tally, long_form: bool, mode: str
) -> None:
    if not long_form:
        pytest.skip("a part of the long form (--campaign long)")
    tenant, victim = stage.actor("tenant"), stage.actor("victim")
    with intruding(stage, tenant, folder, mode) as intrusion:
        lender, borrower = eventually("both", lambda: pids if len(pids := intrusion.pids()) == 2 else [], seconds=10)
        with Life(borrower) as one, Life(lender) as other, Life(victim.pid) as neighbour:
            with stage.only(one, spared=(other, neighbour)):
                stage.hold(V100, {borrower: tenant.limit_bytes + 2 * MIB, lender: MIB, victim.pid: victim.limit_bytes})
            stage.release(lender)
    tally.add("attacks")


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_whatever_a_process_calls_itself_it_is_held_and_shown_on_one_line(
    stage: Stage, folder: Path, tally: Tally, long_form: bool, name: str
) -> None:
    if not long_form and NAMES.index(name) > 3:
        pytest.skip("a part of the long form (--campaign long)")
    with intruding(stage, stage.actor("tenant"), folder, "guise", name, name=name) as intrusion:
        lines = len(stage.daemon.log().splitlines())
        held_and_its_victim_lives(stage, intrusion)
    shown = stage.daemon.log().splitlines()[lines:]
    assert all(line.startswith("{") and line.endswith("}") and line.isprintable() for line in shown), shown
    assert max(map(len, shown)) < 4000
    for each in containers(stage.daemon):
        for told in (*(process.cmdline for process in each.device_processes), *(kill.cmdline for kill in each.kills)):
            assert told.isprintable()
            assert len(told) <= 300
    tally.add("attacks")


def test_who_digs_deeper_than_a_path_is_long_is_held_where_the_kernel_shows_its_beginning(
    stage: Stage, folder: Path, tally: Tally
) -> None:
    """Some kernels cut such a path, and some refuse to write it: what that gains is in SECURITY.md."""
    with no_cgroups_left(stage, stage.actor("tenant")), intruding(stage, stage.actor("tenant"), folder, "burrow") as intrusion:
        said = intrusion.said()
        if said != "done":
            pytest.skip(f"the kernel refuses the attack itself: {said}")
        try:
            Path(f"/proc/{intrusion.pids()[0]}/cgroup").read_bytes()
        except OSError as error:
            pytest.skip(f"the kernel does not tell where it is: {error.strerror}")
        held_and_its_victim_lives(stage, intrusion)
    tally.add("attacks")


@contextmanager
def no_cgroups_left(stage: Stage, actor: Actor) -> Iterator[None]:
    """Remove what was nested in a container's cgroups, step by step: no path leads there."""
    listings = stage.listings(actor)
    try:
        yield
    finally:
        for listing in listings:
            for _, inside, _, descriptor in os.fwalk(listing.parent, topdown=False):
                for name in inside:
                    os.rmdir(name, dir_fd=descriptor)


# Faster than the scan.


class Appetite:
    """Lets the driver say that what the tenant starts in the block holds memory from its first moment, as long as it lives."""

    def __init__(self, stage: Stage, each_bytes: int) -> None:
        tenant, victim = stage.actor("tenant"), stage.actor("victim")
        self.seen: set[int] = set()
        self._stage = stage
        self._each = each_bytes
        self._victim = {victim.pid: victim.limit_bytes}
        self._listing = stage.listings(tenant)[0]
        self._innocent = self.living()
        self._over = threading.Event()
        self._eating = threading.Thread(target=self._eat)

    def living(self) -> set[int]:
        """Every process in the tenant's cgroup."""
        return {int(word) for word in self._listing.read_text().split()}

    def _eat(self) -> None:
        while not self._over.wait(0.003):
            pids = self.living() - self._innocent
            self.seen.update(pids)
            self._stage.held[V100] = {**self._victim, **dict.fromkeys(pids, self._each)}
            self._stage.hold(V100, {})

    def __enter__(self) -> "Appetite":
        self._eating.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._eating.join()
        self._stage.clear()


@contextmanager
def nobody_else_suffers(stage: Stage) -> Iterator[None]:
    """In the block only processes of the tenant are ended, the daemon spends less than a core, and it writes no flood."""
    tenant, victim = stage.actor("tenant"), stage.actor("victim")
    lines, kills = len(stage.daemon.log().splitlines()), len(stage.kills())
    began, spent = time.monotonic(), cpu_seconds(stage.daemon.pid)
    with Life(victim.pid) as other, Life(tenant.pid) as first:
        yield
        assert other.alive
        assert first.alive
    seconds = time.monotonic() - began
    assert {event["container_id"] for event in stage.kills()[kills:]} <= {tenant.id}
    assert cpu_seconds(stage.daemon.pid) - spent < seconds
    assert (len(stage.daemon.log().splitlines()) - lines) / seconds < 40


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def ended(stage: Stage, among: set[int]) -> list[dict[str, object]]:
    return [event for event in stage.kills() if event["pid"] in among and event["outcome"] == "killed"]


def test_a_chain_of_processes_ends_with_the_first_that_lives_long_enough_to_be_seen(
    stage: Stage, folder: Path, tally: Tally
) -> None:
    tenant = stage.actor("tenant")
    with nobody_else_suffers(stage), Appetite(stage, 2 * tenant.limit_bytes) as appetite:
        with intruding(stage, tenant, folder, "chain", "1500") as chain:
            eventually("the end of the chain", lambda: not chain.pids(), seconds=20)
        assert ended(stage, appetite.seen)
    tally.add("attacks")


def test_a_chain_faster_than_the_scan_harms_nobody_and_costs_the_daemon_little(
    stage: Stage, folder: Path, tally: Tally
) -> None:
    """What it gains is in SECURITY.md: each link may be over the limit for as long as it takes to be seen."""
    tenant = stage.actor("tenant")
    with nobody_else_suffers(stage), intruding(stage, tenant, folder, "chain", "15"):
        with Appetite(stage, 2 * tenant.limit_bytes) as appetite:
            threading.Event().wait(4)
    # It may be caught all the same, where a link was slow.
    assert len(appetite.seen) > 50 or ended(stage, appetite.seen)
    tally.add("processes faster than the scan", len(appetite.seen))
    tally.add("attacks")


def test_a_brood_loses_its_young_until_what_is_left_is_within_the_limit(stage: Stage, folder: Path, tally: Tally) -> None:
    tenant = stage.actor("tenant")
    each = tenant.limit_bytes // 4
    with nobody_else_suffers(stage), Appetite(stage, each) as appetite:
        with intruding(stage, tenant, folder, "brood", "400"):
            eventually("a few ends", lambda: len(ended(stage, appetite.seen)) >= 5, seconds=30)
        tally.add("processes ended", len(ended(stage, appetite.seen)))
    tally.add("attacks")


def test_memory_split_over_many_processes_counts_as_one(stage: Stage, folder: Path, tally: Tally) -> None:
    tenant = stage.actor("tenant")
    each = tenant.limit_bytes // 50
    with nobody_else_suffers(stage), Appetite(stage, each) as appetite:
        with intruding(stage, tenant, folder, "bomb", "60") as bomb:
            until("what is left", lambda: len(bomb.pids()) * each <= tenant.limit_bytes, True.__eq__, seconds=40)
            left = len(bomb.pids())
            eventually("the news of it", lambda: len(ended(stage, appetite.seen)) >= 61 - left, seconds=10)
            assert len(bomb.pids()) == left >= 45
    tally.add("processes ended", 61 - left)
    tally.add("attacks")


def test_a_process_that_never_stops_to_exec_is_the_same_process(stage: Stage, folder: Path, tally: Tally) -> None:
    with nobody_else_suffers(stage), intruding(stage, stage.actor("tenant"), folder, "storm") as storm:
        eventually("the storm", storm.pids, seconds=10)
        held_and_its_victim_lives(stage, storm)
    tally.add("attacks")
