"""Scrapes of a full node whose memory moves all the time, read as Prometheus reads, and what they do to the quick looks."""

import json
import math
import subprocess
import sys
from collections.abc import Awaitable

import trio

from mortalgpu.units import MIB
from tests.bench.effort import Effort
from tests.bench.full_node import FullNode
from tests.bench.timing import Samples
from tests.standin.nvml import Process

PAUSE_SECONDS = 0.05
MOVE_SECONDS = 0.1
MOST_MIB = 200
LOOKS, LAST = "mortalgpu_scan_looks_total", "mortalgpu_scan_last_timestamp_seconds"


async def measure(node: FullNode, effort: Effort) -> Samples:
    """Scrape each page in turn, after a while without scrapes."""
    found: Samples = {}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_move, node)
        quiet = await _looks_while(node, trio.sleep(effort.scrapes * PAUSE_SECONDS))
        kept = []
        for page in ("gpus", "daemon"):
            taken: dict[str, list[float]] = {}
            rate = await _looks_while(node, _scrape_into(taken, node, page, effort.scrapes))
            kept.append(min(100.0, rate / quiet * 100))
            found |= {f"scrape_{page}": taken["ms"], f"series_{page}": taken["series"]}
        nursery.cancel_scope.cancel()
    node.show()
    return {**found, "looks_kept": kept}


async def scrape(node: FullNode, page: str, count: int) -> dict[str, list[float]]:
    """Let a client in a process of its own scrape a page; return milliseconds, and how many series there were."""
    command = [sys.executable, "-m", "tests.bench.scraper", node.address_of(page), str(count), str(PAUSE_SECONDS)]
    ended = await trio.run_process(command, capture_stdout=True, stderr=subprocess.DEVNULL)
    taken: dict[str, list[float]] = json.loads(ended.stdout)
    return taken


async def _scrape_into(taken: dict[str, list[float]], node: FullNode, page: str, count: int) -> None:
    taken |= await scrape(node, page, count)


async def _looks_while(node: FullNode, doing: Awaitable[None]) -> float:
    """Return the quick looks a second while something is done, from what scans before and after it have counted."""
    before = await node.figures("daemon")
    await doing
    after = await node.figures("daemon")
    return (after[LOOKS] - before[LOOKS]) / (after[LAST] - before[LAST])


async def _move(node: FullNode) -> None:
    """Let the containers' memory move, each with another rhythm, never above their limits."""
    number = 0
    while True:
        number += 1
        node.list_processes(
            [
                Process(node.given[each.name], pid=pid, used=int((1.1 + math.sin(number * place)) / 2.2 * MOST_MIB * MIB))
                for place, each in enumerate(node.containers, 1)
                for pid in each.pids
            ]
        )
        await trio.sleep(MOVE_SECONDS)
