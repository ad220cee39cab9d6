"""Enforcement for real: real processes in real cgroups, real pidfds, the NVML binding over the driver stand-in.

Only kubelet's books and the pod source are a few lines of the test. The stand-in lists what it is told: a test takes a dead
process off its list, as a driver would.
"""

import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from mortalgpu.driver.nvml import NvmlSettings, nvml_driver
from mortalgpu.enforcer.service import EnforcerSettings
from mortalgpu.host.clock import MachineClock
from mortalgpu.host.table import ProcfsTable
from mortalgpu.latest import Latest
from mortalgpu.model.kill import NO_ENFORCEMENT, Enforcement
from mortalgpu.model.pod import Assignment, Container, ContainerRef, Pod
from mortalgpu.model.share import Inventory
from mortalgpu.model.usage import NO_USAGE, Usage
from mortalgpu.scan.rhythm import Tempo
from mortalgpu.scan.scanner import Neighbours, ScanSettings
from mortalgpu.simulation.cluster import SimulatedCluster
from mortalgpu.units import MIB
from tests.standin.cgroups import Box, KubepodsTree, needs_unified
from tests.standin.nvml import Process, StateFile, build, state_of
from tests.unit.scan.making import RESOURCE, ids, shared, view
from tests.unit.scan.node import Cells, ScriptedKubelet, names, start_both
from tests.waiting import until

SLEEPER = ("sleep", "300")
PATIENCE_SECONDS = 20.0
OFTEN = ScanSettings(tempo=Tempo(period_seconds=0.3))
"""Full scans come sooner than by default, so that waiting for one does not take long."""


class Machine:
    """Two devices of 1000 MiB in ten shares each, real containers, and what the driver says of their processes."""

    def __init__(self, tree: KubepodsTree, driver: StateFile) -> None:
        self.tree = tree
        self.driver = driver
        self.kubelet = ScriptedKubelet()
        self.cluster = SimulatedCluster(MachineClock().now)
        self.pods = Latest(view())
        self.usage: Latest[Usage] = Latest(NO_USAGE)
        self.enforcement: Latest[Enforcement] = Latest(NO_ENFORCEMENT)
        self._listed: dict[str, dict[int, int]] = {"GPU-a": {}, "GPU-b": {}}

    def container(self, name: str, shares: int, *, pod_uid: str = "", pod_name: str = "", systemd: bool = False) -> Box:
        """Make a container that holds shares of GPU-a; `pod_uid` and `pod_name` put it into the pod of another."""
        box = self.tree.container(pod_uid, systemd=systemd)
        pod_name = pod_name or name
        known = self.pods.value.pods.get(box.ref.pod_uid)
        inside = (*(known.containers if known else ()), Container(name, box.ref.container_id))
        pod = Pod(box.ref.pod_uid, pod_name, "ns", inside, {}, box.ref.pod_uid)
        self.pods.publish(view(*{**self.pods.value.pods, pod.uid: pod}.values()))
        self.kubelet.books += (Assignment(pod_name, "ns", name, {RESOURCE: ids("GPU-a", *range(shares))}),)
        return box

    def run(self, where: Box | Path | None, mib: int, uuid: str = "GPU-a") -> "subprocess.Popen[bytes]":
        """Start a real process, and let the driver say that it uses memory."""
        process = self.tree.run(where, SLEEPER)
        self.hold(process.pid, mib, uuid)
        return process

    def hold(self, pid: int, mib: int, uuid: str = "GPU-a") -> None:
        """Let the driver say what a process uses; nothing takes it off the list."""
        self._listed[uuid][pid] = mib
        if not mib:
            del self._listed[uuid][pid]
        listed = [Process(uuid, pid=each, used=held * MIB) for each, held in self._listed[uuid].items()]
        self.driver.set_processes(uuid, *listed)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    devices = (shared("GPU-a").device, shared("GPU-b", index=1).device)
    driver = StateFile(tmp_path / "nvml.state", state_of(devices))
    for name, text in driver.environment.items():
        monkeypatch.setenv(name, text)
    with KubepodsTree.unified() as tree:
        yield Machine(tree, driver)


@asynccontextmanager
async def enforcing(machine: Machine, settings: EnforcerSettings | None = None) -> AsyncIterator[None]:
    """Run the real scanner and enforcer over the real adapters."""
    inventory = Latest(Inventory((shared("GPU-a"), shared("GPU-b", index=1))))
    with ProcfsTable() as table:
        async with nvml_driver(NvmlSettings(library=str(build())))() as driver, trio.open_nursery() as nursery:
            await driver.devices()
            neighbours = Neighbours(driver, table, machine.kubelet, machine.cluster, MachineClock())
            cells = Cells(inventory, machine.pods, machine.usage, machine.enforcement)
            await start_both(nursery, neighbours, cells, OFTEN, settings)
            yield
            nursery.cancel_scope.cancel()


async def until_scanned(machine: Machine, scans: int = 2) -> None:
    """Wait until so many more scans were made."""
    wanted = machine.usage.value.sequence + scans
    with trio.fail_after(PATIENCE_SECONDS):
        while machine.usage.value.sequence < wanted:
            await machine.usage.wait_beyond(machine.usage.version)


async def until_bound(machine: Machine, ref: ContainerRef) -> None:
    """Wait until a scan knows what a container holds."""
    await until(lambda: machine.usage.value.container(ref.container_id) is not None, PATIENCE_SECONDS)


@needs_unified
@pytest.mark.parametrize("systemd", [False, True])
async def test_exactly_the_process_of_the_container_over_its_limit_dies(machine: Machine, systemd: bool) -> None:
    mine, theirs = machine.container("mine", 2, systemd=systemd), machine.container("theirs", 2, systemd=systemd)
    culprit, sibling = machine.run(mine, 50), machine.run(mine, 40)
    neighbour, outsider = machine.run(theirs, 190), machine.run(None, 900)
    async with enforcing(machine):
        await until_bound(machine, mine.ref)
        machine.hold(culprit.pid, 170)
        await until(lambda: culprit.poll() is not None, PATIENCE_SECONDS)
        machine.hold(culprit.pid, 0)
        await until_scanned(machine)
    assert culprit.returncode == -9
    assert [process.poll() for process in (sibling, neighbour, outsider)] == [None] * 3
    (record,) = machine.enforcement.value.history
    assert (record.outcome, record.pid, record.container_id) == ("killed", culprit.pid, mine.ref.container_id)
    assert names(machine.cluster.notes) == [("mine", "GpuMemoryLimitExceeded")]
    assert record.command == "sleep 300"


@needs_unified
async def test_a_process_on_a_device_that_was_not_granted_dies_and_its_sibling_lives(machine: Machine) -> None:
    mine = machine.container("mine", 2)
    sibling, foreign = machine.run(mine, 190), machine.run(mine, 1, "GPU-b")
    async with enforcing(machine):
        await until(lambda: foreign.poll() is not None, PATIENCE_SECONDS)
        assert sibling.poll() is None


@needs_unified
async def test_a_process_hidden_in_a_nested_cgroup_counts_for_its_container(machine: Machine) -> None:
    mine, theirs = machine.container("mine", 2), machine.container("theirs", 9)
    disguise = machine.tree.nested(mine, f"kubepods/pod{theirs.ref.pod_uid}/{theirs.ref.container_id}")
    hidden, honest = machine.run(disguise, 150), machine.run(mine, 100)
    async with enforcing(machine):
        await until(lambda: hidden.poll() is not None, PATIENCE_SECONDS)
        machine.hold(hidden.pid, 0)
        await until_scanned(machine)
        assert honest.poll() is None


@needs_unified
async def test_of_two_containers_in_one_pod_only_the_one_over_its_limit_is_touched(machine: Machine) -> None:
    one = machine.container("one", 2, pod_name="both")
    two = machine.container("two", 4, pod_uid=one.ref.pod_uid, pod_name="both")
    over, within = machine.run(one, 250), machine.run(two, 350)
    async with enforcing(machine):
        await until(lambda: over.poll() is not None, PATIENCE_SECONDS)
        machine.hold(over.pid, 0)
        await until_scanned(machine)
        assert within.poll() is None


@needs_unified
async def test_a_stopped_process_is_ended_as_well(machine: Machine) -> None:
    frozen = machine.run(machine.container("mine", 2), 250)
    frozen.send_signal(19)
    async with enforcing(machine):
        await until(lambda: frozen.poll() is not None, PATIENCE_SECONDS)
    assert frozen.returncode == -9


@needs_unified
async def test_a_container_that_no_pod_source_names_is_left_alone(machine: Machine) -> None:
    mine = machine.container("mine", 2)
    nameless = machine.tree.container()
    unknown, known = machine.run(nameless, 900), machine.run(mine, 150)
    async with enforcing(machine):
        await until_bound(machine, mine.ref)
        await until_scanned(machine)
    assert [unknown.poll(), known.poll()] == [None, None]
    assert machine.cluster.refreshes >= 1


@needs_unified
async def test_a_dry_run_ends_nobody(machine: Machine) -> None:
    process = machine.run(machine.container("mine", 2), 250)
    async with enforcing(machine, EnforcerSettings(dry_run=True)):
        await until(lambda: bool(machine.enforcement.value.history), PATIENCE_SECONDS)
        await until_scanned(machine)
    assert process.poll() is None
    assert machine.enforcement.value.outcomes == {"dry_run": 1}
