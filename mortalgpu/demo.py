"""The face `mortalgpu demo`: the real daemon on a simulated node, with notebooks that come, work, go, and once go too far.

Only the hardware, kubelet and the pods are simulated; discovery, sharing, allocation, scanning and enforcement are the ones
that run on a real node. Prints each event as it happens, and a table of the devices: live on a terminal, else now and then.
"""

import math
import random
import shutil
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from mortalgpu import configfile, daemon
from mortalgpu.config import Config
from mortalgpu.deviceplugin.servicer import OPTIONS
from mortalgpu.host.systemd import Unwatched
from mortalgpu.kubelet.registration import KubeletRegistrar
from mortalgpu.model.kill import KillRecord
from mortalgpu.model.share import SharedDevice
from mortalgpu.sharing.metaid import parse_id
from mortalgpu.simulation.driver import A100, V100
from mortalgpu.simulation.kubelet import AdmissionRefused, running
from mortalgpu.simulation.node import Notebook, SimulatedNode
from mortalgpu.units import quantity

SHARED, MEDIUM, SMALL = "mortalgpu/a100-shared", "mortalgpu/a100-20g", "mortalgpu/a100-10g"
SHARING = [
    {"resourceName": SHARED, "metagpusPerGpu": 400, "modelName": [V100]},
    {"resourceName": SHARED, "metagpusPerGpu": 400, "modelName": [A100], "migid": [2]},
    {"resourceName": MEDIUM, "metagpusPerGpu": 200, "modelName": [A100], "migid": [3]},
    {"resourceName": SMALL, "metagpusPerGpu": 100, "modelName": [A100], "migid": [9, 10]},
]
WORK = ("python train.py", "ipykernel_launcher", "python infer.py --batch 8", "python segment.py")
PLAIN_TABLE_SECONDS = 5.0
LIVE_TABLE_SECONDS = 0.5
BAR_CELLS = 24
INDENT_CELLS = 23

Say = Callable[[str], None]


async def run(seconds: float | None, *, plain: bool) -> None:
    """Show the demo for `seconds`, or until SIGINT (Ctrl-C) or SIGTERM. Leaves nothing behind."""
    # A short path, for the sockets in it.
    with (
        TemporaryDirectory(prefix="mortalgpu-", ignore_cleanup_errors=True) as root,
        trio.move_on_after(seconds or math.inf) as scope,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_on_signal, scope)
            await _show(Path(root), live=sys.stdout.isatty() and not plain)


async def _end_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        await anext(signals)
        scope.cancel()


async def _show(root: Path, *, live: bool) -> None:
    node = SimulatedNode(root)
    screen = _Screen(node, live=live)
    async with running(node.kubelet), _daemon_on(node, root) as facts:
        screen.follow(facts)
        for resource in facts.inventory.value.resources:
            screen.say(f"advertised  {resource}: {node.kubelet.capacity(resource)[1]} meta-devices")
        for name, address in facts.endpoints.items():
            screen.say(f"serving     {name}: http://{address}/metrics")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_visitors, node, screen.say)
            nursery.start_soon(_glutton, node, screen.say)
            nursery.start_soon(_too_large, node, screen.say)
            nursery.start_soon(_tell_kills, facts, node, screen.say)
            nursery.start_soon(screen.keep)


@asynccontextmanager
async def _daemon_on(node: SimulatedNode, root: Path) -> AsyncIterator[daemon.Facts]:
    facts = daemon.Facts()
    async with daemon.services(_config(root), ports_of(node), facts):
        yield facts


def ports_of(node: SimulatedNode) -> daemon.Ports:
    """Return a simulated node as the daemon sees it; kubelet's registration is the real one."""
    return daemon.Ports(
        open_driver=node.driver.open,
        processes=node.host,
        registrar=KubeletRegistrar(node.kubelet.device_plugin_dir, OPTIONS),
        assignments=node.kubelet,
        cluster=node.cluster,
        clock=node.clock,
        manager=Unwatched(),
    )


def _config(root: Path) -> Config:
    return configfile.convert(
        {
            "deviceSharing": SHARING,
            "stateDir": str(root / "state"),
            "kubelet": {"devicePluginDir": str(root / "device-plugins")},
            "deviceApi": {"address": "127.0.0.1:0"},
            "exporter": {"address": "127.0.0.1:0", "daemonAddress": "127.0.0.1:0", "perProcess": True},
        }
    )


# Who lives on the node.


async def _visitors(node: SimulatedNode, say: Say) -> None:
    """Start a notebook every second or two; each stays for a while."""
    chance = random.Random(7)
    async with trio.open_nursery() as nursery:
        for number in range(1, 1_000_000):
            nursery.start_soon(_visit, node, say, f"notebook-{number}", random.Random(chance.random()))
            await trio.sleep(chance.uniform(0.4, 2.0))


async def _visit(node: SimulatedNode, say: Say, name: str, chance: random.Random) -> None:
    resource, shares = chance.choice(((SHARED, 40), (SHARED, 80), (SHARED, 160), (MEDIUM, 50), (SMALL, 25), (SMALL, 50)))
    notebook = await _admitted(node, say, name, resource, shares, chance.choice(WORK))
    if notebook is None:
        return
    peak = chance.uniform(0.3, 0.95)
    for _ in range(chance.randint(6, 24)):
        node.use(notebook, int(notebook.limit_bytes * peak * chance.uniform(0.7, 1.0)))
        await trio.sleep(0.5)
    node.stop(notebook)
    say(f"left        {name}")


async def _admitted(node: SimulatedNode, say: Say, name: str, resource: str, shares: int, command: str) -> Notebook | None:
    begun = trio.current_time()
    try:
        notebook = await node.start(name, resource, shares, command)
    except AdmissionRefused as refused:
        say(f"refused     {name}: {refused}")
        return None
    took_ms = (trio.current_time() - begun) * 1000
    say(
        f"allocated   {name}: {shares} of {resource} on {_short(notebook.uuid)}, "
        f"limit {quantity(notebook.limit_bytes)} ({took_ms:.1f} ms)"
    )
    return notebook


async def _glutton(node: SimulatedNode, say: Say) -> None:
    """Now and then a notebook takes more than it was granted."""
    for number in range(1, 1_000_000):
        await trio.sleep(3 if number == 1 else 12)
        notebook = await _admitted(node, say, f"greedy-{number}", SHARED, 40, "python leak.py")
        if notebook is None:
            continue
        for step in range(1, 9):
            await trio.sleep(0.3)
            node.use(notebook, notebook.limit_bytes * step // 6)
            if not node.host.running(notebook.process.pid):
                break
        await trio.sleep(2)
        node.stop(notebook)


async def _too_large(node: SimulatedNode, say: Say) -> None:
    """One pod asks for more than any device has."""
    await trio.sleep(5)
    await _admitted(node, say, "too-large", SHARED, 500, "python train.py")


async def _tell_kills(facts: daemon.Facts, node: SimulatedNode, say: Say) -> None:
    told = 0
    async for enforcement in facts.enforcement.changes():
        for record in enforcement.history:
            if record.number > told:
                told = record.number
                say(_kill_line(record, node.notebooks.get(record.pod_name)))


def _kill_line(record: KillRecord, notebook: Notebook | None) -> str:
    since = record.at - notebook.over_since if notebook and notebook.over_since else None
    reaction = f" [{since * 1000:.0f} ms after it crossed its limit]" if since is not None else ""
    return f"{record.outcome:<11} {record.pod_name}: {record.message}{reaction}"


# What is shown.


class _Screen:
    """Event lines, and a table: redrawn in place on a terminal, printed now and then elsewhere."""

    def __init__(self, node: SimulatedNode, *, live: bool) -> None:
        self._node = node
        self._live = live
        self._facts: daemon.Facts | None = None
        self._begun = trio.current_time()
        self._lines: list[str] = []

    def follow(self, facts: daemon.Facts) -> None:
        """Show these facts from now on."""
        self._facts = facts

    def say(self, text: str) -> None:
        """Show an event."""
        line = f"{trio.current_time() - self._begun:7.2f} s  {text}"
        if self._live:
            width = shutil.get_terminal_size().columns
            self._lines += textwrap.wrap(line, width, subsequent_indent=" " * INDENT_CELLS)
            self._draw()
        else:
            print(line, flush=True)

    async def keep(self) -> None:
        """Keep the table fresh."""
        while True:
            await trio.sleep(LIVE_TABLE_SECONDS if self._live else PLAIN_TABLE_SECONDS)
            if self._live:
                self._draw()
            else:
                print("\n".join(["", *self._table(), ""]), flush=True)

    def _draw(self) -> None:
        width, height = shutil.get_terminal_size()
        table = self._table()
        room = max(1, height - len(table) - 3)
        lines = [*table, "", *self._lines[-room:]]
        self._lines = self._lines[-200:]
        sys.stdout.write("\x1b[H" + "".join(f"{line[:width]}\x1b[K\n" for line in lines) + "\x1b[J")
        sys.stdout.flush()

    def _table(self) -> list[str]:
        if self._facts is None:
            return []
        taken = self._taken()
        head = f"{'DEVICE':<22} {'RESOURCE':<22} {'SHARES':>9}  {'MEMORY IN USE':<{BAR_CELLS}}"
        return [head, *(self._row(shared, taken) for shared in self._facts.inventory.value.devices)]

    def _row(self, shared: SharedDevice, taken: dict[str, int]) -> str:
        used = sum(notebook.used_bytes for notebook in self._node.notebooks.values() if self._lives_on(notebook, shared.uuid))
        cells = round(BAR_CELLS * used / shared.device.memory_bytes)
        bar = "#" * cells + "." * (BAR_CELLS - cells)
        shares = f"{taken.get(shared.uuid, 0)}/{shared.advertised}"
        figures = f"{quantity(used)} of {quantity(shared.device.memory_bytes)}"
        return f"{_short(shared.uuid):<22} {shared.resource:<22} {shares:>9}  {bar} {figures}"

    def _lives_on(self, notebook: Notebook, uuid: str) -> bool:
        return notebook.uuid == uuid and self._node.host.running(notebook.process.pid)

    def _taken(self) -> dict[str, int]:
        taken: dict[str, int] = {}
        for text in self._node.kubelet.held():
            uuid, _ = parse_id(text)
            taken[uuid] = taken.get(uuid, 0) + 1
        return taken


def _short(uuid: str) -> str:
    return f"{uuid[:12]}…{uuid[-6:]}"
