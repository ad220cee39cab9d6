"""A real Prometheus scrapes the daemon on a simulated node: its queries give the node's figures, and forget what is gone."""

import json
import shutil
import subprocess
import tempfile
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from mortalgpu import configfile, daemon
from mortalgpu.demo import ports_of
from mortalgpu.simulation.driver import A100, V100, v100_uuid
from mortalgpu.simulation.kubelet import AdmissionRefused, running
from mortalgpu.simulation.node import SimulatedNode
from tests.ports import free_port
from tests.scenario.sick_node import fetch

SHARED, SMALL = "mortalgpu/shared", "mortalgpu/small"
ENDPOINTS = ("GPU metrics", "daemon metrics")
INTERVAL_SECONDS = 0.5
PATIENCE_SECONDS = 15.0


def needs(program: str) -> pytest.MarkDecorator:
    """Skip where the program (of Debian's package prometheus) is not installed."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed (Debian package prometheus)")


@dataclass(slots=True)
class Watched:
    """A node with its daemon at work."""

    node: SimulatedNode
    facts: daemon.Facts


@asynccontextmanager
async def node_at_work() -> AsyncIterator[Watched]:
    """Run the daemon's services on a simulated node, with every switch of the exporter on."""
    with tempfile.TemporaryDirectory(prefix="mgp-") as folder:
        node, facts = SimulatedNode(Path(folder)), daemon.Facts()
        config = configfile.convert(
            {
                "deviceSharing": [
                    {"resourceName": SHARED, "metagpusPerGpu": 100, "modelName": [V100]},
                    {"resourceName": SMALL, "metagpusPerGpu": 10, "modelName": [A100]},
                ],
                "nodeName": "node-1",
                "stateDir": f"{folder}/state",
                "kubelet": {"devicePluginDir": f"{folder}/device-plugins"},
                "podSource": "cri",
                "mgctl": {"hostMount": {"enabled": False}},
                "deviceApi": {"enabled": False},
                "exporter": {
                    "address": "127.0.0.1:0",
                    "daemonAddress": "127.0.0.1:0",
                    "metagpuNames": True,
                    "perProcess": True,
                },
            }
        )
        async with running(node.kubelet), daemon.services(config, ports_of(node), facts):
            yield Watched(node, facts)


@dataclass(slots=True)
class Prometheus:
    """A running Prometheus."""

    address: str

    async def ask(self, query: str) -> dict[str, float]:
        """Return the query's result: figures by the series' first distinguishing label (pod, device, reason …)."""
        found = await trio.to_thread.run_sync(self._ask, query)
        return {_name(series["metric"]): float(series["value"][1]) for series in found}

    def _ask(self, query: str) -> list[dict[str, Any]]:
        words = urllib.parse.urlencode({"query": query})
        with urllib.request.urlopen(f"http://{self.address}/api/v1/query?{words}", timeout=5) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found

    async def tells(self, query: str, expected: Mapping[str, float]) -> None:
        """Wait until the query's result is this; fails with the last one when it is not in time."""
        found: dict[str, float] = {}
        with trio.move_on_after(PATIENCE_SECONDS):
            while (found := await self.ask(query)) != expected:
                await trio.sleep(0.1)
            return
        raise AssertionError(f"{query}: {found}, not {expected}")


def _name(labels: Mapping[str, str]) -> str:
    told = ("pod", "pod_name", "device", "device_uuid", "reason", "outcome", "resource", "job")
    return next((labels[label] for label in told if label in labels), "")


@asynccontextmanager
async def prometheus(targets: Mapping[str, str]) -> AsyncIterator[Prometheus]:
    """Run a Prometheus that scrapes these targets (address by job), until the block ends."""
    with tempfile.TemporaryDirectory(prefix="mgp-") as folder:
        jobs = [
            {"job_name": job, "honor_labels": True, "static_configs": [{"targets": [address]}]}
            for job, address in targets.items()
        ]
        settings = {"global": {"scrape_interval": f"{int(INTERVAL_SECONDS * 1000)}ms"}, "scrape_configs": jobs}
        Path(folder, "prometheus.yml").write_text(json.dumps(settings))
        address = f"127.0.0.1:{free_port()}"
        command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        with Path(folder, "log").open("wb") as log:
            child = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
        try:
            await _answers(address, child, Path(folder, "log"))
            yield Prometheus(address)
        finally:
            child.terminate()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(child.wait)


async def _answers(address: str, child: "subprocess.Popen[bytes]", log: Path) -> None:
    with trio.fail_after(30):
        while True:
            assert child.poll() is None, log.read_text()
            try:
                if " 200 " in (await fetch(address, "/-/ready")).splitlines()[0]:
                    return
            except (OSError, IndexError):
                pass
            await trio.sleep(0.1)


@pytest.mark.e2e
@needs("promtool")
async def test_promtool_finds_nothing_to_say_about_either_page() -> None:
    async with node_at_work() as watched:
        notebook = await watched.node.start("jupyter-1", SHARED, 10, 'python -c "a\\b"')
        watched.node.use(notebook, notebook.limit_bytes // 2)
        while not watched.facts.usage.value.processes_of(notebook.process.pid):
            await watched.facts.usage.wait_beyond(watched.facts.usage.version)
        for endpoint in ENDPOINTS:
            page = (await fetch(watched.facts.endpoints[endpoint], "/metrics")).partition("\r\n\r\n")[2]
            done = await trio.run_process(
                ["promtool", "check", "metrics"], stdin=page.encode(), capture_stdout=True, capture_stderr=True, check=False
            )
            assert (done.returncode, done.stdout + done.stderr) == (0, b"")


@pytest.mark.e2e
@needs("prometheus")
async def test_queries_give_the_nodes_figures_and_forget_what_is_gone() -> None:
    async with node_at_work() as watched, prometheus({name: watched.facts.endpoints[name] for name in ENDPOINTS}) as asked:
        node = watched.node
        await asked.tells("up", dict.fromkeys(ENDPOINTS, 1))
        books = [await node.start(f"jupyter-{number}", SHARED, 10 * number, "python") for number in (1, 2, 3)]
        for book in books:
            node.use(book, book.limit_bytes // 4)
        await asked.tells("mortalgpu_container_memory_used_bytes / mortalgpu_container_memory_limit_bytes",
                          {book.name: book.used_bytes / (v100_bytes(book.shares)) for book in books})  # fmt: skip
        await asked.tells("sum(mortalgpu_container_memory_used_bytes)", {"": sum(book.used_bytes for book in books)})
        await asked.tells("sum by (resource) (mortalgpu_device_shares_allocated)", {SHARED: 60, SMALL: 0})
        await asked.tells(f'mortalgpu_resource_allocated_meta_devices{{resource="{SHARED}"}}', {SHARED: 60})
        await asked.tells("count(metagpu_process_memory_usage)", {"": 3})
        await asked.tells("mortalgpu_ready", {"daemon metrics": 1})
        with pytest.raises(AdmissionRefused):
            await node.start("too-large", SHARED, 101, "python")
        await asked.tells("mortalgpu_allocation_refusals_total > 0", {"would_split": 1})
        node.use(books[0], books[0].limit_bytes * 2)
        await asked.tells("mortalgpu_container_over_limit_kills_total > 0", {"jupyter-1": 1})
        await asked.tells("mortalgpu_enforcement_reaction_seconds_count", {"daemon metrics": 1})
        node.driver.lose(v100_uuid(1))
        await asked.tells("mortalgpu_device_healthy == 0", {v100_uuid(1): 0})
        node.driver.restore(v100_uuid(1))
        await asked.tells("mortalgpu_device_healthy == 0", {})
        node.stop(books[1])
        await asked.tells("mortalgpu_container_shares", {"jupyter-1": 10, "jupyter-3": 30})
        await asked.tells('{pod="jupyter-2"}', {})
        node.driver.remove(v100_uuid(0))
        await asked.tells("mortalgpu_device_healthy == 0", {v100_uuid(0): 0})


def v100_bytes(shares: int) -> int:
    """What so many shares of a V100 are worth."""
    return 32768 * 2**20 * shares // 100
