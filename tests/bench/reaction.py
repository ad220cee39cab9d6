"""How fast a container over its limit is stopped, and what MetaGPU's loop would make of the same.

From the moment the driver's figure is above the limit to the end of the process, by its pidfd: real processes in real cgroups,
all 8 GPUs in use by 200 processes, one container after the other.
"""

import os
import random

import trio

from mortalgpu.units import MIB
from tests.bench.effort import Effort
from tests.bench.full_node import SLEEPER, FullNode
from tests.bench.timing import Samples
from tests.standin.nvml import Process

PATIENCE_SECONDS = 30.0
WITHIN_MIB = 200
OUT_OF_STEP = 20_241_122
"""Seed of the pauses between trials, which must not keep step with the looks."""
CROSSINGS = 100_000


async def measure(node: FullNode, effort: Effort) -> Samples:
    """Take the times; raises AssertionError when anybody else is stopped."""
    dice = random.Random(OUT_OF_STEP)
    taken = [await _trial(node, number, 0.4 + dice.random() * 0.2) for number in range(effort.reactions)]
    standing = [pid for each in node.containers for pid in each.pids]
    assert all(os.path.exists(f"/proc/{pid}/exe") for pid in standing), "a process within its limit was stopped"
    return {"over_limit_dead": taken}


async def _trial(node: FullNode, number: int, pause_seconds: float) -> float:
    """Start a process in a container, let it live within the limit for a while, then cross it; return milliseconds."""
    assert node.crowd is not None
    container = node.containers[number % len(node.containers)]
    device = node.given[container.name]
    limit_mib = _limit_mib(node)
    process = node.crowd.tree.run(container.box, SLEEPER)
    node.show(Process(device, pid=process.pid, used=WITHIN_MIB * MIB))
    await trio.sleep(pause_seconds)
    ended = os.pidfd_open(process.pid)
    try:
        crossed_at = node.show(Process(device, pid=process.pid, used=(limit_mib + 1) * MIB))
        with trio.fail_after(PATIENCE_SECONDS):
            await trio.lowlevel.wait_readable(ended)
        taken = (trio.current_time() - crossed_at) * 1000
    finally:
        os.close(ended)
    node.show()
    assert process.wait(PATIENCE_SECONDS) == -9
    return taken


def _limit_mib(node: FullNode) -> int:
    """What a container may use of its device: all containers hold equal parts of it."""
    gpu = node.machine.driver.state.gpus[0]
    shares_of_one = node.meta_devices // len(node.machine.driver.state.gpus)
    return gpu.total // shares_of_one * (node.meta_devices // len(node.containers)) // MIB


def metagpu_model() -> Samples:
    """Return what MetaGPU's loop gives: an enforcer every 5 s that reads a cache of processes renewed every 5 s.

    A crossing is acted on at the first turn of the enforcer after the first renewal that follows it. Both loops start with
    the daemon, out of step by a random phase; the time to collect and to kill is left out, in its favour.
    """
    dice = random.Random(OUT_OF_STEP)
    reactions = []
    for _ in range(CROSSINGS):
        renewal = dice.uniform(0, 5)
        turn = dice.uniform(0, 5)
        while turn < renewal:
            turn += 5
        reactions.append(turn * 1000)
    return {"metagpu_dead": reactions}
