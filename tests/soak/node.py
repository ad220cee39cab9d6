"""The soak's node: the daemon as a process of its own, and everything round it: kubelet, API server, driver, cgroups.

Real are the daemon's process, every socket, the processes of tenants and, for root, their cgroups. Stand-ins are the driver's
library, kubelet and the API server.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import trio
from google.protobuf.message import Message

from mortalgpu.rpc.channel import Channel
from mortalgpu.rpc.pb.deviceplugin.v1beta1 import deviceplugin_pb2 as pb
from mortalgpu.simulation.driver import worked_example
from mortalgpu.simulation.kubelet import SimulatedKubelet, _Endpoint, running
from tests.e2e.daemon import EXAMPLE_SHARING, Daemon
from tests.ports import free_ports
from tests.soak.ledger import Ledger
from tests.standin.apiserver.peer import ApiPeer, open_peer
from tests.standin.cgroups import KubepodsTree
from tests.standin.nvml import Process, StateFile

NODE = "soak-node"
ADMIN_TOKEN = "the soak's own token of the operator"
V100S = 2
CAPACITY = {"mortalgpu/a100-shared": 400 * V100S + 400, "mortalgpu/a100-20g": 200, "mortalgpu/a100-10g": 200}
START_SECONDS = 60.0


class _TimedChannel:
    """A plugin's connection that notes how long preferences and allocations take."""

    def __init__(self, channel: Channel, ledger: Ledger) -> None:
        self._channel = channel
        self._ledger = ledger

    async def unary(self, method: str, request: Message, response_class: type[Any], **how: Any) -> Any:
        begun = time.perf_counter()
        answer = await self._channel.unary(method, request, response_class, **how)
        self._ledger.took(method.rpartition("/")[2], time.perf_counter() - begun)
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)


class TimedKubelet(SimulatedKubelet):
    """The twin of kubelet, with a watch in its hand."""

    def __init__(self, root: Path, ledger: Ledger) -> None:
        super().__init__(root)
        self._ledger = ledger

    async def _dial(self, request: pb.RegisterRequest) -> _Endpoint:
        endpoint = await super()._dial(request)
        endpoint.channel = _TimedChannel(endpoint.channel, self._ledger)  # type: ignore[assignment]
        return endpoint

    def socket_of(self, resource: str) -> Path:
        """Where the plugin of a resource listens now."""
        return self.device_plugin_dir / next(name for each, name in reversed(self.registrations) if each == resource)


class Screen:
    """What the driver says of processes: `use` and `gone` change it at once."""

    def __init__(self, driver: StateFile) -> None:
        self.driver = driver
        self._held: dict[tuple[str, int], int] = {}

    def use(self, device: str, pid: int, used_bytes: int) -> None:
        """Let a process hold so much of a device."""
        self._held[device, pid] = used_bytes
        self._show()

    def gone(self, pid: int) -> None:
        """Let the driver forget a process."""
        self._held = {key: held for key, held in self._held.items() if key[1] != pid}
        self._show()

    def _show(self) -> None:
        used: dict[str, int] = {}
        for (device, _), held in self._held.items():
            used[device] = used.get(device, 0) + held
        state = self.driver.state
        gpus = tuple(replace(gpu, used=used.get(gpu.uuid, 0)) for gpu in state.gpus)
        partitions = tuple(replace(part, used=used.get(part.uuid, 0)) for part in state.partitions)
        processes = tuple(Process(device, pid=pid, used=held) for (device, pid), held in self._held.items())
        self.driver.write(replace(state, gpus=gpus, partitions=partitions, processes=processes))


@dataclass
class Node:
    """The node, and how calm it is."""

    folder: Path
    ledger: Ledger
    kubelet: TimedKubelet
    api: ApiPeer
    daemon: Daemon
    screen: Screen
    tree: KubepodsTree | None
    metrics: dict[str, str]
    """Addresses of the two pages."""
    network: str
    """Address of the device API."""
    config: dict[str, Any]
    troubles: int = 0
    """How many began so far."""
    trouble: str = ""
    """What is wrong now."""

    @property
    def driver(self) -> StateFile:
        return self.daemon.driver

    @property
    def admin_socket(self) -> str:
        return f"unix://{self.folder}/state/admin.sock"

    @property
    def container_socket(self) -> str:
        return f"unix://{self.folder}/state/socket/device.sock"

    @contextmanager
    def in_trouble(self, what: str) -> Iterator[None]:
        """Mark a time in which not everything can be expected."""
        self.troubles += 1
        self.trouble = what
        try:
            yield
        finally:
            self.trouble = ""

    def configure(self, **sections: Any) -> None:
        """Write the configuration with some sections replaced, as an operator's editor does: a new file in its place."""
        self.config = {**self.config, **sections}
        self.write_config(json.dumps(self.config))

    def write_config(self, text: str) -> None:
        """Write any text as the configuration."""
        draft = self.folder / "config.json.new"
        draft.write_text(text)
        draft.rename(self.folder / "config.json")

    def whole(self) -> bool:
        """Whether every share is on offer and healthy. The 10g resource may be cut in two ways."""
        for resource, wanted in CAPACITY.items():
            count, healthy = self.kubelet.capacity(resource)
            cut = {wanted, wanted * 3 // 4, wanted // 2} if resource.endswith("10g") else {wanted}
            if count not in cut or healthy != count:
                return False
        return True

    async def until(self, probe: Callable[[], bool], seconds: float) -> bool:
        """Wait for a condition; tells whether it came in time."""
        with trio.move_on_after(seconds):
            while not probe():
                await trio.sleep(0.05)
            return True
        return probe()


@asynccontextmanager
async def soak_node(ledger: Ledger) -> AsyncIterator[Node]:
    """Run the whole node; started when every share is on offer. Raises AssertionError when that does not come."""
    folder = Path(tempfile.mkdtemp(prefix="mgsoak-"))
    folder.chmod(0o755)
    try:
        async with AsyncExitStack() as stack:
            tree = stack.enter_context(KubepodsTree.unified()) if os.geteuid() == 0 else None
            api = await stack.enter_async_context(open_peer())
            kubelet = TimedKubelet(folder / "kubelet", ledger)
            await stack.enter_async_context(running(kubelet))
            network, gpus, itself = (f"127.0.0.1:{port}" for port in free_ports(3))
            config = _config(folder, api.url, network, gpus, itself)
            daemon = Daemon(folder, kubelet.device_plugin_dir, devices=worked_example(V100S), config=config)
            stack.enter_context(daemon)
            pages = {"gpus": gpus, "daemon": itself}
            node = Node(folder, ledger, kubelet, api, daemon, Screen(daemon.driver), tree, pages, network, config)
            assert await node.until(node.whole, START_SECONDS), f"the daemon did not come up:\n{daemon.log()}"
            yield node
            assert await trio.to_thread.run_sync(daemon.stop) == 0, daemon.log()[-5000:]
    finally:
        if (folder / "mortalgpu.log").exists():
            shutil.copy(folder / "mortalgpu.log", ledger.path.with_suffix(".log"))
        shutil.rmtree(folder, ignore_errors=True)


def _config(folder: Path, api_url: str, network: str, gpus: str, itself: str) -> dict[str, Any]:
    return {
        "log": {"verbose": False, "json": True},
        "deviceSharing": EXAMPLE_SHARING,
        "memoryEnforcer": True,
        "mgctl": {"sourcePath": str(_mgctl(folder)), "hostMount": {"hostPath": str(folder / "lib")}},
        "stateDir": str(folder / "state"),
        "nodeName": NODE,
        "podSource": "kubernetes",
        "kubernetes": {"apiServer": api_url},
        "deviceApi": {"address": network},
        "grpcSecurity": {"deviceToken": ADMIN_TOKEN},
        "exporter": {"address": gpus, "daemonAddress": itself},
        "health": {"quietSeconds": 2},
    }


def _mgctl(folder: Path) -> Path:
    """Return what the daemon shall publish as mgctl: the built one where there is one."""
    built = Path(__file__).parents[2] / "build" / "mgctl"
    if (built / "mgctl").exists():
        shutil.copytree(built, folder / "mgctl", symlinks=True)
        return folder / "mgctl" / "mgctl"
    script = folder / "mgctl"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    return script
