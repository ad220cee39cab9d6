"""A device plugin beside a twin kubelet on real Unix sockets, without driver or daemon."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import trio

from mortalgpu.allocator import collocate
from mortalgpu.allocator.base import Allocator, Policy, Terms
from mortalgpu.deviceplugin.server import Plugin, Rhythm
from mortalgpu.deviceplugin.servicer import OPTIONS, Offer, Servicer
from mortalgpu.errors import KubeletError
from mortalgpu.isolation.base import EditSettings
from mortalgpu.isolation.none import NoIsolation
from mortalgpu.kubelet.base import Registrar
from mortalgpu.kubelet.registration import KubeletRegistrar
from mortalgpu.latest import Latest
from mortalgpu.model.counts import PluginCounts
from mortalgpu.model.device import Device, Health
from mortalgpu.model.grant import Grant
from mortalgpu.model.share import Inventory, SharedDevice
from mortalgpu.rpc.limits import KUBELET_LIMITS
from mortalgpu.rpc.listener import UnixListener
from mortalgpu.rpc.server import Server
from mortalgpu.simulation.driver import v100_uuid, worked_example
from mortalgpu.simulation.kubelet import SimulatedKubelet, running
from tests.waiting import until

R = "mortalgpu/a"
S = "mortalgpu/b"
FIRST, SECOND = v100_uuid(0), v100_uuid(1)
QUICK = Rhythm(look_seconds=0.02, first_list_seconds=1, drain_seconds=0.5, settle_seconds=0.05, longest_pause_seconds=0.4)


def gpu(number: int, numa_node: int | None = None) -> Device:
    """Return a V100 of 32 GiB."""
    return replace(worked_example(1)[0], uuid=v100_uuid(number), index=number, minor=number, numa_node=numa_node)


def shared(number: int, resource: str = R, shares: int = 4, numa_node: int | None = None) -> SharedDevice:
    """Return a V100 as it is shared."""
    return SharedDevice(gpu(number, numa_node), resource, shares)


def ids(number: int, *shares: int) -> list[str]:
    """Return meta-device ids."""
    return [f"{v100_uuid(number)}::{share}" for share in shares]


class Node:
    """An inventory, what is counted about it, and a twin kubelet that is not yet running."""

    def __init__(self, folder: Path, *devices: SharedDevice) -> None:
        self.kubelet = SimulatedKubelet(folder)
        self.folder = folder
        self.inventory = Latest(Inventory(devices or (shared(0), shared(1))))
        self.counts = {R: PluginCounts(), S: PluginCounts()}
        self.grants: list[Grant] = []
        self.allocator: Allocator = Policy(collocate.choose, Terms())
        self.edit_settings = EditSettings()
        self.no_split = True
        self.registrar: Registrar = KubeletRegistrar(self.sockets, OPTIONS)

    @property
    def sockets(self) -> Path:
        return self.kubelet.device_plugin_dir

    def ours(self) -> set[str]:
        """Return the names of the plugin sockets that lie in kubelet's directory."""
        return {path.name for path in self.sockets.glob("mortalgpu-*")}

    def offer(self, resource: str = R) -> Offer:
        """Return what a plugin offers of this node."""
        isolation = NoIsolation(self.edit_settings)
        counts = self.counts[resource]
        return Offer(resource, self.inventory, self.allocator, isolation, lambda: self.no_split, counts, self.grants.append)

    def plugin(self, resource: str = R, rhythm: Rhythm = QUICK) -> Plugin:
        """Return a plugin that is not yet running."""
        return Plugin(self.offer(resource), self.registrar, self.sockets, rhythm)

    def sicken(self, *uuids: str) -> None:
        """Publish an inventory in which exactly these devices are unhealthy."""
        health = {uuid: Health(False, "XID 79", 1.0) for uuid in uuids}
        self.inventory.publish(replace(self.inventory.value, health=health))

    def share(self, *devices: SharedDevice) -> None:
        """Publish an inventory of these devices."""
        self.inventory.publish(replace(self.inventory.value, devices=devices))

    @asynccontextmanager
    async def registered(self) -> AsyncIterator[None]:
        """Run the twin and one registered plugin for the length of a block."""
        async with running(self.kubelet), trio.open_nursery() as nursery:
            await nursery.start(self.plugin().serve)
            await until(lambda: self.kubelet.capacity(R)[0] > 0)
            yield
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def served(self) -> AsyncIterator[Path]:
        """Serve the plugin's service alone, without any kubelet; yields its socket."""
        async with trio.open_nursery() as nursery:
            listener = await UnixListener.bind(self.folder / "plugin.sock")
            await nursery.start(Server([Servicer(self.offer()).service()], KUBELET_LIMITS).serve, [listener])
            yield listener.path
            nursery.cancel_scope.cancel()


class DeafKubelet:
    """Accepts every registration but the second, and never dials."""

    def __init__(self) -> None:
        self.endpoints: list[str] = []

    async def wait_for_kubelet(self) -> tuple[int, ...]:
        await trio.lowlevel.checkpoint()
        return (1,)

    def socket_identity(self) -> tuple[int, ...] | None:
        return (1,)

    async def register(self, resource: str, endpoint: str) -> None:
        await trio.lowlevel.checkpoint()
        self.endpoints.append(endpoint)
        if len(self.endpoints) == 2:
            raise KubeletError("no answer")


def of(devices: Sequence[SharedDevice]) -> list[str]:
    """Return all ids of these devices."""
    return [f"{device.uuid}::{number}" for device in devices for number in range(device.advertised)]
