"""A program that takes real GPU memory in a container's cgroup is stopped when it takes more than it was granted.

The driver, the memory, the process, its cgroup and the signal are real; kubelet's books and the pods are the test's.
"""

import subprocess
import sys
import time

import pytest
import trio

from mortalgpu.driver.base import GpuDriver
from mortalgpu.driver.nvml import NvmlSettings, nvml_driver
from mortalgpu.host.clock import MachineClock
from mortalgpu.host.table import ProcfsTable
from mortalgpu.latest import Latest
from mortalgpu.model.device import Device, Fault
from mortalgpu.model.pod import Assignment, Container, Pod
from mortalgpu.model.share import Inventory, SharedDevice
from mortalgpu.scan.scanner import Neighbours
from mortalgpu.simulation.cluster import SimulatedCluster
from mortalgpu.units import MIB, mib_ceil
from tests.contract.driver_rigs import reason_without_gpu
from tests.gpu.taker import taking
from tests.standin.cgroups import Box, KubepodsTree, needs_unified
from tests.unit.scan.making import RESOURCE, ids, view
from tests.unit.scan.node import Cells, ScriptedKubelet, names, start_both

pytestmark = pytest.mark.gpu

ROOM_MIB = 256
"""What the program may take beyond its context and first allocation."""


@needs_unified
async def test_a_program_that_takes_more_gpu_memory_than_granted_is_stopped_and_its_sibling_lives() -> None:
    if reason := reason_without_gpu():
        pytest.skip(reason)
    with KubepodsTree.unified() as tree, ProcfsTable() as table:
        async with nvml_driver(NvmlSettings())() as driver:
            device = next(found for found in await driver.devices() if not found.mig_mode)
            greedy, modest = tree.container(), tree.container()
            takers = [_start(tree, box) for box in (greedy, modest)]
            try:
                trouble = await _watch(driver, table, device, (greedy, modest), takers)
            finally:
                for taker in takers:
                    taker.kill()
                    taker.communicate()
    if trouble:
        pytest.skip(trouble)


def _start(tree: KubepodsTree, box: Box) -> "subprocess.Popen[str]":
    """Start the program in a container and wait until it has taken its first memory."""
    join = f"import os; open({str(box.path / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
    command = [sys.executable, "-c", join + taking(64 * MIB, 2 * ROOM_MIB * MIB)]
    taker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert taker.stdout is not None
    assert taker.stdout.readline() == "taken\n"
    return taker


async def _watch(
    driver: GpuDriver, table: ProcfsTable, device: Device, boxes: tuple[Box, Box], takers: list["subprocess.Popen[str]"]
) -> str:
    """Live through it; returns why it cannot be tried here, if so."""
    greedy, modest = takers
    found = (await driver.processes([device.uuid]))[device.uuid]
    assert not isinstance(found, Fault), found.text
    listed = {process.pid: process.used_bytes for process in found}
    if listed.get(greedy.pid) is None:
        return "the driver does not list our processes by the numbers they have here (another pid namespace)"
    granted = mib_ceil(listed[greedy.pid] or 0) + ROOM_MIB
    shared = SharedDevice(device, RESOURCE, device.memory_bytes // MIB)
    kubelet, cluster = ScriptedKubelet(), SimulatedCluster(MachineClock().now)
    kubelet.books = tuple(
        Assignment(
            f"pod-{number}", "ns", "main", {RESOURCE: ids(device.uuid, *range(number * granted, (number + 1) * granted))}
        )
        for number in range(2)
    )
    cells = Cells(Latest(Inventory((shared,))), Latest(view(*(_pod(*each) for each in enumerate(boxes)))))
    async with trio.open_nursery() as nursery:
        await start_both(nursery, Neighbours(driver, table, kubelet, cluster, MachineClock()), cells)
        await trio.sleep(1)
        assert greedy.stdin is not None
        greedy.stdin.write("\n")
        greedy.stdin.flush()
        asked_at = time.monotonic()
        with trio.fail_after(10):
            while greedy.poll() is None:
                await trio.sleep(0.002)
        print(f"from the order to allocate to the death: {(time.monotonic() - asked_at) * 1000:.0f} ms")
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert greedy.returncode == -9
    assert modest.poll() is None
    assert names(cluster.notes) == [("pod-0", "GpuMemoryLimitExceeded")]
    assert (cells.enforcement.value.history[0].reaction_seconds or 9) < 0.5
    return ""


def _pod(number: int, box: Box) -> Pod:
    return Pod(box.ref.pod_uid, f"pod-{number}", "ns", (Container("main", box.ref.container_id),), {}, box.ref.pod_uid)
