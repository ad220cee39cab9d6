"""A node to make sick: the daemon's services in this process, with the real driver adapter over the stand-in library.

Kubelet is the twin, a real gRPC peer; processes and pods are simulated, since nobody uses the devices here.
"""

import shutil
import tempfile
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from mortalgpu import configfile, daemon
from mortalgpu.config import Config
from mortalgpu.deviceplugin.servicer import OPTIONS
from mortalgpu.driver.nvml import NvmlSettings, nvml_driver
from mortalgpu.host.clock import MachineClock
from mortalgpu.host.systemd import Unwatched
from mortalgpu.kubelet.registration import KubeletRegistrar
from mortalgpu.model.device import Device
from mortalgpu.reload import Take, changes
from mortalgpu.simulation.cluster import SimulatedCluster
from mortalgpu.simulation.driver import A100, V100
from mortalgpu.simulation.host import SimulatedHost
from mortalgpu.simulation.kubelet import SimulatedKubelet, running
from tests.standin.nvml import StateFile, build, state_of
from tests.waiting import until

GPUS, PARTS = "example.com/gpu", "example.com/part"
SHARES = 10
QUIET_SECONDS = 0.3
WITHIN_SECONDS = 1.0
"""How soon kubelet must know of a sick device."""
BACK_SECONDS = 6.0
"""How soon a device that is well must be back: a lost driver is opened anew once a second, and reset GPUs are enumerated."""


@dataclass(slots=True)
class SickNode:
    """What a test does to the node, and what everybody says of it."""

    driver: StateFile
    kubelet: SimulatedKubelet
    cluster: SimulatedCluster
    facts: daemon.Facts
    root: Path
    config: Config
    take: Take

    async def reconfigure(self, **config: Any) -> tuple[str, ...]:
        """Put other sections in force in the place of those of the start; return the keys that need a restart."""
        found = changes(self.config, configfile.convert(_tree(self.root, config)))
        await self.take(found.config)
        self.config = found.config
        return found.waiting

    def sick(self) -> set[str]:
        """Devices of which kubelet has no healthy share left; fails when it has a part of them."""
        found = set()
        for shared in self.facts.inventory.value.devices:
            healthy = [text for text in self.kubelet.healthy(shared.resource) if text.startswith(f"{shared.uuid}::")]
            assert len(healthy) in (0, SHARES)
            if not healthy:
                found.add(shared.uuid)
        return found

    def reasons(self) -> dict[str, str]:
        """Why devices are unhealthy, by UUID."""
        health = self.facts.inventory.value.health
        return {uuid: state.reason for uuid, state in health.items() if not state.healthy}

    async def falls_sick(self, uuids: Collection[str], seconds: float = WITHIN_SECONDS) -> float:
        """Wait until kubelet sees exactly these devices as sick; return how long it took. Fails when it took too long."""
        begun = trio.current_time()
        await until(lambda: self.sick() == set(uuids), seconds, said=lambda: f"sick: {self.sick()}, {self.reasons()}")
        return trio.current_time() - begun

    async def recovers(self, seconds: float = BACK_SECONDS) -> None:
        """Wait until every device is well for kubelet. Fails when it took too long."""
        await self.falls_sick((), seconds)

    def notes(self) -> list[str]:
        """The Events on the node so far, as `reason: message`."""
        return [f"{taken.note.reason}: {taken.note.message}" for taken in self.cluster.notes if taken.pod is None]

    async def page(self, endpoint: str = "GPU metrics") -> str:
        """A metrics page."""
        return (await fetch(self.facts.endpoints[endpoint], "/metrics")).partition("\r\n\r\n")[2]


async def fetch(address: str, path: str) -> str:
    """Fetch a page over HTTP/1.0, so that it ends with the connection; return the whole answer."""
    host, _, port = address.rpartition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        return b"".join([part async for part in stream]).decode()


@asynccontextmanager
async def sick_node(
    devices: Sequence[Device], monkeypatch: pytest.MonkeyPatch, *, enumerate_seconds: float = 10.0, **config: Any
) -> AsyncIterator[SickNode]:
    """Run the daemon's services on a node with these devices, each in SHARES shares; `config` overrides sections.

    `enumerate_seconds` is how long the driver may take to list them.
    """
    root = Path(tempfile.mkdtemp(prefix="mgs-"))
    state = StateFile(root / "nvml.state", state_of(devices))
    for name, value in state.environment.items():
        monkeypatch.setenv(name, value)
    try:
        kubelet, cluster = SimulatedKubelet(root), SimulatedCluster(MachineClock().now)
        facts, settings = daemon.Facts(), NvmlSettings(str(build()), root, enumerate_seconds=enumerate_seconds)
        ports = daemon.Ports(
            open_driver=nvml_driver(settings),
            processes=SimulatedHost(),
            registrar=KubeletRegistrar(kubelet.device_plugin_dir, OPTIONS),
            assignments=kubelet,
            cluster=cluster,
            clock=MachineClock(),
            manager=Unwatched(),
        )
        started_with = configfile.convert(_tree(root, config))
        async with running(kubelet), daemon.services(started_with, ports, facts) as take:
            node = SickNode(state, kubelet, cluster, facts, root, started_with, take)
            await node.recovers()
            yield node
            state.clear_faults()
    finally:
        state.clear_faults()
        shutil.rmtree(root, ignore_errors=True)


def _tree(root: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "deviceSharing": [
            {"resourceName": GPUS, "metagpusPerGpu": SHARES, "modelName": [V100]},
            {"resourceName": PARTS, "metagpusPerGpu": SHARES, "modelName": [A100]},
        ],
        "nodeName": "node-1",
        "stateDir": str(root / "state"),
        "mgctl": {"hostMount": {"enabled": False}},
        "kubelet": {"devicePluginDir": str(root / "device-plugins")},
        "podSource": "cri",
        "deviceApi": {"enabled": False},
        "exporter": {"address": "127.0.0.1:0", "daemonAddress": "127.0.0.1:0"},
        "health": {"quietSeconds": QUIET_SECONDS},
        **config,
    }
