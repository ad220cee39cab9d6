"""Scrapes of a full node: 200 containers on 8 devices whose memory moves all the time, read as Prometheus reads.

The daemon's services run in this process on a simulated node; the client is a process of its own. Besides the time of a
scrape, what counts is the rhythm of quick looks: it must be the same with scrapes as without.
"""

import gc
import itertools
import json
import math
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import trio

from mortalgpu import configfile, daemon
from mortalgpu.config import Config
from mortalgpu.deviceplugin.servicer import OPTIONS
from mortalgpu.host.systemd import Unwatched
from mortalgpu.kubelet.registration import KubeletRegistrar
from mortalgpu.simulation.driver import A100_UUID, worked_example
from mortalgpu.simulation.kubelet import running
from mortalgpu.simulation.node import Notebook, SimulatedNode
from tests.bench.row import Row, percentile

RESOURCE = "example.com/gpu"
DEVICES, CONTAINERS, SHARES_EACH = 8, 200, 16
SCRAPES, PAUSE_SECONDS = 300, 0.05
MOVES, MOVE_SECONDS = 20, 0.1
"""So many containers use another amount of memory, so often: all of them have moved in a second."""
AIM_MS = 20.0
LOOK_SECONDS = 0.1


@dataclass
class Turns(Unwatched):
    """A service manager that notes when the scan loop turned."""

    at: list[float] = field(default_factory=list)

    async def alive(self) -> None:
        """Note it."""
        self.at.append(trio.current_time())
        await trio.lowlevel.checkpoint()

    def gaps_ms(self, begun: float, ended: float) -> list[float]:
        """Milliseconds between turns, within a span of time."""
        turns = [moment for moment in self.at if begun <= moment <= ended]
        return [(later - sooner) * 1000 for sooner, later in itertools.pairwise(turns)]


async def measure() -> list[Row]:
    """Return all rows of this part; takes about a minute."""
    with tempfile.TemporaryDirectory(prefix="mgb-") as folder:
        node, facts, turns = SimulatedNode(Path(folder)), daemon.Facts(), Turns()
        node.driver.remove(A100_UUID)
        for device in worked_example(DEVICES)[2:DEVICES]:
            node.driver.add(device)
        ports = daemon.Ports(
            open_driver=node.driver.open,
            processes=node.host,
            registrar=KubeletRegistrar(node.kubelet.device_plugin_dir, OPTIONS),
            assignments=node.kubelet,
            cluster=node.cluster,
            clock=node.clock,
            manager=turns,
        )
        async with running(node.kubelet), daemon.services(_config(folder), ports, facts), trio.open_nursery() as nursery:
            books = [await node.start(f"jupyter-{number}", RESOURCE, SHARES_EACH, "python") for number in range(CONTAINERS)]
            nursery.start_soon(_move, node, books)
            await _settled(facts)
            gc.collect()
            gc.freeze()  # As the daemon does once it has started.
            rows = await _rows(facts, turns)
            nursery.cancel_scope.cancel()
    return rows


def _config(folder: str) -> Config:
    return configfile.convert(
        {
            "deviceSharing": [{"resourceName": RESOURCE, "metagpusPerGpu": 400}],
            "nodeName": "bench",
            "stateDir": f"{folder}/state",
            "kubelet": {"devicePluginDir": f"{folder}/device-plugins"},
            "podSource": "cri",
            "mgctl": {"hostMount": {"enabled": False}},
            "deviceApi": {"enabled": False},
            "deviceManager": {"quickLookPeriod": LOOK_SECONDS},
            "exporter": {"address": "127.0.0.1:0", "daemonAddress": "127.0.0.1:0"},
        }
    )


async def _settled(facts: daemon.Facts) -> None:
    """Wait until the scans know every container."""
    while len(facts.usage.value.containers) < CONTAINERS:
        await facts.usage.wait_beyond(facts.usage.version)


async def _move(node: SimulatedNode, books: list[Notebook]) -> None:
    """Let the containers' memory move, some at a time, never above their limits."""
    number = 0
    while True:
        for _ in range(MOVES):
            book = books[number % len(books)]
            node.use(book, int(book.limit_bytes * (0.5 + 0.4 * math.sin(number))))
            number += 1
        await trio.sleep(MOVE_SECONDS)


async def _rows(facts: daemon.Facts, turns: Turns) -> list[Row]:
    begun = trio.current_time()
    await trio.sleep(SCRAPES * PAUSE_SECONDS)
    quiet = turns.gaps_ms(begun, trio.current_time())
    rows = []
    for page, endpoint in (("gpus", "GPU metrics"), ("daemon", "daemon metrics")):
        begun = trio.current_time()
        found = await _scrape(facts.endpoints[endpoint])
        busy = turns.gaps_ms(begun, trio.current_time())
        rows += [
            Row(f"scrape_{page}_median_ms", percentile(found["ms"], 0.5), "ms"),
            Row(f"scrape_{page}_p99_ms", percentile(found["ms"], 0.99), "ms", AIM_MS),
            Row(f"scrape_{page}_series", found["series"][0], ""),
            Row(f"look_gap_while_scraping_{page}_p99_ms", percentile(busy, 0.99), "ms", percentile(quiet, 0.99) + AIM_MS),
        ]
    return [*rows, Row("look_gap_without_scrapes_p99_ms", percentile(quiet, 0.99), "ms")]


async def _scrape(address: str) -> dict[str, list[float]]:
    """Run the client; return milliseconds of each scrape, and how many series there were."""
    command = [sys.executable, "-m", "tests.bench.scraper", address, str(SCRAPES), str(PAUSE_SECONDS)]
    ended = await trio.run_process(command, capture_stdout=True, stderr=subprocess.DEVNULL)
    found: dict[str, list[float]] = json.loads(ended.stdout)
    return found


def rows() -> list[Row]:
    """Measure, from a program without an event loop."""
    return trio.run(measure)
