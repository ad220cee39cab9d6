"""The node's composition root: builds the ports, starts the services in order, stops them in reverse. READ FIRST.

How facts flow: driver → discovery → Latest[Inventory] → one plugin per resource → kubelet. Ports are built here and nowhere
else; services get them, their settings and their cells as arguments. Signals: SIGTERM and SIGINT stop in good order, a
second one at once.
"""

import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from mortalgpu import wiring
from mortalgpu.allocator.base import Allocator
from mortalgpu.config import Config
from mortalgpu.deviceplugin.plugins import Plugins
from mortalgpu.deviceplugin.server import Plugin
from mortalgpu.deviceplugin.servicer import OPTIONS, Offer
from mortalgpu.driver.base import OpenDriver
from mortalgpu.driver.nvml import NvmlSettings, nvml_driver
from mortalgpu.errors import HostError
from mortalgpu.host.base import ServiceManager, WallClock
from mortalgpu.host.clock import MachineClock
from mortalgpu.host.systemd import service_manager
from mortalgpu.isolation.base import EditSettings, Isolation
from mortalgpu.isolation.devicenodes import device_nodes
from mortalgpu.isolation.none import NoIsolation
from mortalgpu.kubelet.base import Assignments, Registrar
from mortalgpu.kubelet.checkpoint import read_checkpoint
from mortalgpu.kubelet.podresources import PodResources
from mortalgpu.kubelet.registration import KubeletRegistrar
from mortalgpu.latest import Latest
from mortalgpu.model.counts import PluginCounts
from mortalgpu.model.share import Inventory
from mortalgpu.scan.discovery import Discovery
from mortalgpu.scan.holdings import Holdings
from mortalgpu.sharing import evidence
from mortalgpu.statefile import only_one

log = logging.getLogger(__name__)

STOP_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Ports:
    """The outside world, as the daemon needs it."""

    open_driver: OpenDriver
    registrar: Registrar
    assignments: Assignments
    clock: WallClock
    manager: ServiceManager


@dataclass(slots=True)
class Facts:
    """The cells through which facts travel, and the counts that services keep. One writer each."""

    inventory: Latest[Inventory] = field(default_factory=lambda: Latest(Inventory()))
    plugins: dict[str, PluginCounts] = field(default_factory=dict)


def real_ports(config: Config, resources: tuple[str, ...]) -> Ports:
    """Build the adapters for this machine."""
    driver = NvmlSettings(library=config.driver.library, call_seconds=config.driver.call_timeout_seconds)
    return Ports(
        open_driver=nvml_driver(driver),
        registrar=KubeletRegistrar(Path(config.kubelet.device_plugin_dir), OPTIONS),
        assignments=PodResources(Path(config.pod_resources_path), resources),
        clock=MachineClock(),
        manager=service_manager(os.environ),
    )


async def run(config: Config, ports: Ports | None = None, facts: Facts | None = None) -> None:
    """Run the daemon until a signal. Raises ConfigError, DriverError, HostError when it cannot start or go on."""
    settings = wiring.discovery_settings(config)
    _check_directory(Path(config.kubelet.device_plugin_dir))
    resources = wiring.resources_of_ours(settings)
    ports = ports or real_ports(config, resources)
    facts = facts or Facts()
    async with trio.open_nursery() as outer:
        stopping = trio.CancelScope()
        await outer.start(_stop_on_signal, outer, stopping, ports.manager)
        with stopping:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(only_one(Path(config.state_path)))
                await stack.enter_async_context(_services(config, ports, facts, resources))
                await ports.manager.ready(f"sharing {', '.join(facts.inventory.value.resources) or 'nothing'}")
                await trio.sleep_forever()
        log.info("stopped")
        outer.cancel_scope.cancel()


@asynccontextmanager
async def _services(config: Config, ports: Ports, facts: Facts, resources: tuple[str, ...]) -> AsyncIterator[None]:
    async with ports.open_driver() as driver, trio.open_nursery() as nursery:
        plugin_dir = Path(config.kubelet.device_plugin_dir)
        holdings = Holdings(
            ports.assignments, lambda: read_checkpoint(plugin_dir, resources, evidence.VARIABLE), ports.clock.monotonic
        )
        discovery = Discovery(driver, holdings.held, facts.inventory, wiring.discovery_settings(config), ports.clock)
        await nursery.start(discovery.serve)
        _tell_inventory(facts.inventory.value, config)
        make = _plugin_maker(config, ports, facts, holdings, wiring.allocator(config), _isolation(config))
        await nursery.start(Plugins(facts.inventory, make).serve)
        yield
        nursery.cancel_scope.cancel()


def _isolation(config: Config) -> Isolation:
    mounts = wiring.configured_mounts(config)
    return NoIsolation(
        EditSettings(mounts=lambda: mounts, device_nodes=device_nodes if config.device_specs else lambda _device: ())
    )


def _plugin_maker(
    config: Config, ports: Ports, facts: Facts, holdings: Holdings, allocator: Allocator, isolation: Isolation
) -> Callable[[str], Plugin]:
    def make(resource: str) -> Plugin:
        counts = facts.plugins.setdefault(resource, PluginCounts())
        no_split = config.allocator.no_split
        offer = Offer(resource, facts.inventory, allocator, isolation, no_split, counts, holdings.granted)
        return Plugin(offer, ports.registrar, Path(config.kubelet.device_plugin_dir))

    return make


def _tell_inventory(inventory: Inventory, config: Config) -> None:
    for shared in inventory.devices:
        log.info(
            "sharing device",
            extra={
                "device": shared.uuid,
                "model": shared.device.model,
                "resource": shared.resource,
                "shares": shared.shares,
                "reserved": shared.reserved,
            },
        )
    for device in inventory.left_alone:
        log.info("device is left alone", extra={"device": device.uuid, "model": device.model})
    for resource in {entry.resource_name for entry in config.device_sharing} - set(inventory.resources):
        log.warning("no device for resource", extra={"resource": resource})


def _check_directory(directory: Path) -> None:
    """Refuse a directory in which we may not make a socket; one that is not there yet is kubelet's to make."""
    if directory.is_dir() and not os.access(directory, os.W_OK | os.X_OK):
        raise HostError(
            f"{directory}: no permission to make sockets there; run as root, or give --kubelet-dir another directory"
        )


async def _stop_on_signal(
    nursery: trio.Nursery,
    stopping: trio.CancelScope,
    manager: ServiceManager,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        number = await anext(signals)
        name = signal.Signals(number).name
        log.info("stopping", extra={"signal": name})
        stopping.cancel()
        await manager.stopping(f"on {name}")
        with trio.move_on_after(STOP_SECONDS):
            await anext(signals)
        log.warning("stop was not finished in time; ending at once")
        nursery.cancel_scope.cancel()
