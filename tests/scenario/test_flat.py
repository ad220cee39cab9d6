"""The daemon under churn keeps what it has: open files, threads and memory are the same after hundreds of changes.

Pods come and go, processes appear on devices and end, kubelet restarts and drops plugins, the driver is reloaded, GPUs fall
off the bus. CHURN_SECONDS sets how long that goes on.
"""

import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from mortalgpu.simulation.driver import A100_UUID, v100_uuid
from mortalgpu.simulation.kubelet import AdmissionRefused, SimulatedKubelet, running
from mortalgpu.units import MIB
from tests.bench.process import resident_mib
from tests.scenario.machine import SHARED, TEN, TWENTY, Daemon, Machine, daemon, machine
from tests.standin.nvml import Process

CHURN_SECONDS = float(os.environ.get("CHURN_SECONDS", "25"))
WARM_ROUNDS = 15
"""After these every path has been gone once, and what is made only once has been made."""
GROWTH_MIB = 8.0
SCANNED_SECONDS = 0.15
"""How long processes stay: the next look and the scan after it have seen them."""
SEEN_LATELY = 4 * 12
"""How many processes may be held by their cgroup files: those of the last rounds."""
EVERYTHING_ON = (
    *("exporter.enabled=true", "exporter.address=127.0.0.1:0", "exporter.daemonAddress=127.0.0.1:0"),
    *("deviceApi.enabled=true", "deviceApi.address=127.0.0.1:0", "mgctl.hostMount.enabled=false"),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """What the daemon keeps at one moment."""

    files: int
    threads: int
    resident_mib: float


def cost(pid: int) -> Cost:
    """Read what a process keeps from /proc."""
    proc = Path(f"/proc/{pid}")
    return Cost(len(list((proc / "fd").iterdir())), len(list((proc / "task").iterdir())), resident_mib(pid))


def open_files(pid: int) -> Counter[str]:
    """Return how many files of each name a process has open; sockets are one kind.

    Left out are the cgroup files of processes seen lately, which are let go of by and by: as long as these are few.
    """
    found: Counter[str] = Counter()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found[entry.readlink().name.split(":[", 1)[0]] += 1
    assert found.pop("cgroup", 0) <= SEEN_LATELY
    return found


@contextmanager
def sleepers(count: int) -> Iterator[list[int]]:
    """Run processes for the length of a block; yields their pids."""
    children = [subprocess.Popen(["sleep", "60"]) for _ in range(count)]
    try:
        yield [child.pid for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()


class Churn:
    """One round after the other of everything that changes on a node."""

    def __init__(self, node: Machine, twin: SimulatedKubelet, ours: Daemon) -> None:
        self._node = node
        self._twin = twin
        self._ours = ours
        self.rounds = 0

    async def settled(self) -> None:
        """Wait until the whole node is on offer."""
        counts = {SHARED: (800, 800), TWENTY: (200, 200), TEN: (200, 200)}
        await self._ours.until(lambda: all(self._twin.capacity(name) == count for name, count in counts.items()), "all", 20)

    async def round(self) -> None:
        """Let pods, processes, kubelet and the driver each change once, and come to rest."""
        self.rounds += 1
        admitted = []
        for number in range(4):
            with suppress(AdmissionRefused):
                await self._twin.admit(f"pod-{self.rounds}-{number}", {"main": {SHARED: 150, TWENTY: 40}})
                admitted.append(f"pod-{self.rounds}-{number}")
        assert len(admitted) == 4, "the node was on offer, and refused"
        with sleepers(4) as pids:
            device = v100_uuid(0)
            self._node.driver.set_processes(device, *(Process(device, pid, 64 * MIB) for pid in pids))
            await trio.sleep(SCANNED_SECONDS)
        self._node.driver.set_processes(device)
        for name in admitted:
            self._twin.delete(name)
        await self._trouble()
        await self.settled()

    async def _trouble(self) -> None:
        match self.rounds % 5:
            case 0:
                await self._twin.restart()
            case 1:
                made = len(self._twin.registrations)
                self._twin.drop(SHARED)
                await self._ours.until(lambda: len(self._twin.registrations) > made, "the next registration")
            case 2:
                back = len(self._ours.lines("driver answers again"))
                self._node.driver.reload_driver()
                await self._ours.logged("driver answers again", count=back + 1)
            case 3:
                self._node.driver.push_event(A100_UUID, data=13)
            case _:
                self._node.driver.lose(A100_UUID)
                await self._ours.until(lambda: self._twin.capacity(TEN) == (200, 0), "the loss")
                self._node.driver.restore(A100_UUID)


@pytest.mark.slow
@pytest.mark.timeout(CHURN_SECONDS + 120)
async def test_open_files_threads_and_memory_are_flat_under_churn() -> None:
    with machine() as node:
        twin = SimulatedKubelet(node.kubelet_root)
        flags = [word for setting in EVERYTHING_ON for word in ("--set", setting)]
        async with running(twin), daemon(node, *flags) as ours:
            churn = Churn(node, twin, ours)
            await churn.settled()
            while churn.rounds < WARM_ROUNDS:
                await churn.round()
            before, at_first, end = cost(ours.child.pid), open_files(ours.child.pid), trio.current_time() + CHURN_SECONDS
            while trio.current_time() < end:
                await churn.round()
            kept = open_files(ours.child.pid)
            with suppress(trio.TooSlowError), trio.fail_after(10):
                while (kept := open_files(ours.child.pid)) - at_first:
                    await trio.sleep(0.1)
            assert not kept - at_first, f"more files are open than before: {sorted((kept - at_first).elements())}"
            after = cost(ours.child.pid)
            print(f"{churn.rounds} rounds with {len(twin.registrations)} registrations: {before} -> {after}")
            assert after.threads <= before.threads + 2
            assert after.resident_mib <= before.resident_mib + GROWTH_MIB
            assert not twin.overlaps
            await ours.stop()
