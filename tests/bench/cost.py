"""What the daemon costs while it is there: resident memory, processor time, wake-ups."""

import random

import trio

from mortalgpu.units import MIB
from tests.bench import device_api, mgctl, scrapes
from tests.bench.effort import Effort
from tests.bench.full_node import FullNode
from tests.bench.process import cpu_seconds, resident_mib, wake_ups
from tests.bench.timing import Samples
from tests.standin.nvml import Process

REST_SECONDS = 2.0
"""After what was done before has come to its end."""
CHURN_PAUSE_SECONDS = 0.05
LEAST_MIB, MOST_MIB = 10, 300


async def when_idle(node: FullNode, effort: Effort) -> Samples:
    """Measure a node without any container."""
    await trio.sleep(REST_SECONDS)
    before, begun = wake_ups(node.pid), trio.current_time()
    cpu = await _cpu_percent(node, effort.idle_seconds)
    seconds, after = trio.current_time() - begun, wake_ups(node.pid)
    woken = sum(after[thread] - count for thread, count in before.items() if thread in after)
    return {"cpu_idle": [cpu], "wake_ups": [woken / seconds], "resident_idle": [resident_mib(node.pid)]}


async def at_work(node: FullNode, effort: Effort, name: str) -> Samples:
    """Measure a node with containers that do nothing new, and its memory once every page and interface was used."""
    await trio.sleep(REST_SECONDS)
    cpu = await _cpu_percent(node, effort.idle_seconds)
    await use_everything(node)
    return {f"cpu_{name}": [cpu], f"resident_{name}": [resident_mib(node.pid)]}


async def use_everything(node: FullNode) -> None:
    """Scrape both pages in both formats, ask the device API, follow it, and run mgctl."""
    for page in ("daemon", "gpus"):
        await node.figures(page)
        await scrapes.scrape(node, page, 3)
    await device_api.ask(node, 2)
    await mgctl.run(node, "get", "processes")


async def when_memory_moves(node: FullNode, effort: Effort) -> Samples:
    """Measure while one process allocates and frees all the time, well within its limit."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_churn, node)
        cpu = await _cpu_percent(node, effort.idle_seconds / 2)
        nursery.cancel_scope.cancel()
    node.show()
    return {"cpu_churn": [cpu]}


async def _churn(node: FullNode) -> None:
    dice = random.Random(1)
    first = node.containers[0]
    while True:
        node.show(Process(node.given[first.name], pid=first.pids[0], used=dice.randrange(LEAST_MIB, MOST_MIB) * MIB))
        await trio.sleep(CHURN_PAUSE_SECONDS)


async def _cpu_percent(node: FullNode, seconds: float) -> float:
    before, begun = cpu_seconds(node.pid), trio.current_time()
    await trio.sleep(seconds)
    return (cpu_seconds(node.pid) - before) / (trio.current_time() - begun) * 100
