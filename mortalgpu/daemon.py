"""The node's composition root: builds the ports, starts the services in order, stops them in reverse. READ FIRST.

    driver ──► discovery ──► Latest[Inventory] ──┬─► one plugin per resource ──► kubelet
                                                 └─► scanner
    cluster ─► pod watch ──► Latest[PodsView] ─────► scanner
    driver + host + kubelet + pods ──► scanner ──► Latest[Usage] ──► enforcer ──► Latest[Enforcement]

Ports are built here and nowhere else; services get them, their settings and their cells as arguments. SIGTERM and SIGINT stop
the daemon in good order; a second one stops it at once.
"""

import gc
import logging
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from mortalgpu import logs, wiring
from mortalgpu.cluster.base import NO_PODS, Cluster, PodsView
from mortalgpu.config import Config
from mortalgpu.deviceapi.keys import Keys
from mortalgpu.deviceapi.mint import Mint
from mortalgpu.deviceapi.server import DeviceApi, DeviceApiFacts
from mortalgpu.deviceapi.succession import Succession
from mortalgpu.deviceplugin.plugins import Plugins
from mortalgpu.deviceplugin.server import Plugin, fresh_socket_name
from mortalgpu.deviceplugin.servicer import OPTIONS, Offer
from mortalgpu.driver.base import GpuDriver, OpenDriver
from mortalgpu.driver.lasting import keep_open
from mortalgpu.driver.nvml import NvmlSettings, nvml_driver
from mortalgpu.enforcer import service as enforcer
from mortalgpu.errors import ConfigError, HostError, KubeletError
from mortalgpu.exporter import service as exporter
from mortalgpu.host.base import ProcessTable, ServiceManager, WallClock
from mortalgpu.host.clock import MachineClock
from mortalgpu.host.systemd import service_manager
from mortalgpu.host.table import ProcfsTable
from mortalgpu.host.vantage import blind_spots
from mortalgpu.inforce import InForce
from mortalgpu.isolation.base import EditSettings, Isolation, MintToken, no_token
from mortalgpu.isolation.devicenodes import device_nodes
from mortalgpu.isolation.none import TOKEN_VARIABLE, NoIsolation
from mortalgpu.kubelet.base import Assignments, Registrar
from mortalgpu.kubelet.checkpoint import read_checkpoint
from mortalgpu.kubelet.podresources import PodResources
from mortalgpu.kubelet.registration import KubeletRegistrar
from mortalgpu.latest import Latest
from mortalgpu.model.counts import DriverCounts, EventCounts, PluginCounts, Pulse, ReloadCounts
from mortalgpu.model.kill import NO_ENFORCEMENT, Enforcement
from mortalgpu.model.share import Inventory
from mortalgpu.model.usage import Usage
from mortalgpu.reload import Read, Reloader, Take
from mortalgpu.rpc.listener import MAX_PATH_BYTES
from mortalgpu.scan import news, podwatch, scanner
from mortalgpu.scan.books import ReadCheckpoint
from mortalgpu.scan.discovery import Discovery
from mortalgpu.scan.holdings import Holdings
from mortalgpu.sharing import evidence
from mortalgpu.statefile import only_one
from mortalgpu.supervise import Budget, Service, restartable

log = logging.getLogger(__name__)

STOP_SECONDS = 5.0
FAREWELL_SECONDS = 1.0
READY_SECONDS = 5.0
"""How long the service manager, which blocks for a second at most, may take to hear that we are ready."""


@dataclass(frozen=True, slots=True)
class Ports:
    """The outside world, as the daemon needs it."""

    open_driver: OpenDriver
    processes: ProcessTable
    registrar: Registrar
    assignments: Assignments
    cluster: Cluster
    clock: WallClock
    manager: ServiceManager


@dataclass(frozen=True, slots=True)
class Facts:
    """The cells through which facts travel, each with one writer, and the counts that services keep."""

    inventory: Latest[Inventory] = field(default_factory=lambda: Latest(Inventory()))
    pods: Latest[PodsView] = field(default_factory=lambda: Latest(NO_PODS))
    usage: Latest[Usage] = field(default_factory=lambda: Latest(Usage()))
    enforcement: Latest[Enforcement] = field(default_factory=lambda: Latest(NO_ENFORCEMENT))
    plugins: dict[str, PluginCounts] = field(default_factory=dict)
    driver: DriverCounts = field(default_factory=DriverCounts)
    events: EventCounts = field(default_factory=Counter)
    restarts: Counter[str] = field(default_factory=Counter)
    reloads: ReloadCounts = field(default_factory=ReloadCounts)
    pulse: Pulse = field(default_factory=Pulse)
    endpoints: dict[str, str] = field(default_factory=dict)
    """Where metrics are served, by the endpoint's name."""

    def restartable(self, name: str, service: Service) -> Service:
        """Make a service restartable, with its restarts counted from zero."""
        self.restarts[name] += 0
        return restartable(name, service, Budget(), self._restarted)

    def _restarted(self, name: str) -> None:
        self.restarts[name] += 1


@asynccontextmanager
async def real_ports(config: Config, resources: Collection[str]) -> AsyncIterator[Ports]:
    """Build the adapters for this machine. Raises ConfigError, HostError."""
    driver = NvmlSettings(library=config.driver.library, call_seconds=config.driver.call_timeout_seconds)
    with ProcfsTable() as processes:
        yield Ports(
            open_driver=nvml_driver(driver),
            processes=processes,
            registrar=KubeletRegistrar(Path(config.kubelet.device_plugin_dir), OPTIONS),
            assignments=PodResources(Path(config.pod_resources_path), resources),
            cluster=wiring.cluster(config, os.environ),
            clock=MachineClock(),
            manager=service_manager(os.environ),
        )


async def run(config: Config, path: str = "", read: Read | None = None) -> None:
    """Run the daemon on this machine until a signal. Raises ConfigError, DriverError or HostError when it cannot.

    `read` reads the configuration again, at SIGHUP and when the file at `path` has changed.
    """
    _check_directory(config.kubelet.device_plugin_dir)
    for problem in blind_spots():
        log.warning("not everything can be seen from here", extra={"reason": problem})
    async with trio.open_nursery() as outer:
        stopping = trio.CancelScope()
        stopped = await outer.start(_stop_on_signal, outer.cancel_scope, stopping)
        # Heard from the beginning: a hang-up while services start would end the process, and is served when they have.
        with trio.open_signal_receiver(signal.SIGHUP) as hang_ups, stopping:
            in_force, facts = InForce(config), Facts()
            async with only_one(Path(config.state_path)), real_ports(config, in_force.resources) as ports:
                async with services(config, ports, facts, in_force) as take:
                    reread = read or (lambda: config)
                    # What is there now stays: the collector need not look at it each time, for tens of milliseconds.
                    gc.collect()
                    gc.freeze()
                    await Reloader(reread, take, in_force.config, facts.reloads, ports.clock).serve(hang_ups, path)
        stopped.cancel()
    log.info("stopped")


@asynccontextmanager
async def services(config: Config, ports: Ports, facts: Facts, in_force: InForce | None = None) -> AsyncIterator[Take]:
    """Run every service in the block, which begins once all of them are useful. What ends an essential one ends the block.

    Yields what lets them go on with another configuration.
    Raises DriverError when the driver cannot be opened, ConfigError when its devices cannot be shared as configured.
    """
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        driver = await nursery.start(partial(keep_open, ports.open_driver, counts=facts.driver))
        in_force = in_force or InForce(config)
        holdings = _holdings(config, ports, in_force)
        settings = wiring.discovery_settings(config)
        discovery = Discovery(driver, holdings.held, facts.inventory, settings, ports.clock, facts.events)
        await nursery.start(discovery.serve)
        _tell_inventory(facts.inventory.value, config)
        await nursery.start(facts.restartable("pod watch", partial(podwatch.serve, ports.cluster, facts.pods)))
        await nursery.start(facts.restartable("news", partial(news.serve, facts.inventory, ports.cluster)))
        await nursery.start(_scanner(in_force, ports, facts, driver))
        await nursery.start(_enforcer(in_force, ports, facts, driver))
        mint_token: MintToken = no_token
        if config.device_api.enabled:
            keys, succession = Keys(wiring.key_settings(config)), Succession()
            mint_token = _mint(config, in_force, keys, succession).mint_container_token
            await nursery.start(_device_api(config, ports, facts, driver, keys, succession))
        in_force.mounts.publish(await wiring.container_mounts(config))
        isolation = _isolation(in_force, mint_token)
        nursery.start_soon(wiring.keep_mgctl_tidy, config)
        await nursery.start(Plugins(facts.inventory, _plugin_maker(in_force, ports, facts, holdings, isolation)).serve)
        for endpoint in _exporters(in_force, ports, facts):
            await nursery.start(endpoint)
        # Said, or the supervisor hears of it by our end: a daemon that nobody knows to be ready is watched by nobody.
        with trio.fail_after(READY_SECONDS):
            await ports.manager.ready(f"sharing {', '.join(facts.inventory.value.resources) or 'nothing'}")
        try:
            yield partial(_take, discovery, in_force)
        finally:
            with trio.move_on_after(FAREWELL_SECONDS, shield=True):
                await ports.manager.stopping("ending the services")
        nursery.cancel_scope.cancel()


async def _take(discovery: Discovery, in_force: InForce, config: Config) -> None:
    """Let the services go on with another configuration. Raises ConfigError, and then nothing has changed."""
    settings = wiring.discovery_settings(config)
    # Before a share of a new resource can be given out: who holds it must be seen.
    in_force.resources.add(rule.resource for rule in settings.rules)
    await discovery.take(settings)
    if config.log != in_force.config.value.log:
        logs.set_up(verbose=config.log.verbose, as_json=config.log.json)
    in_force.follow(config, await wiring.container_mounts(config))


def _holdings(config: Config, ports: Ports, in_force: InForce) -> Holdings:
    return Holdings(ports.assignments, _checkpoint(config, in_force, evidence.VARIABLE), ports.clock.monotonic)


def _checkpoint(config: Config, in_force: InForce, variable: str) -> ReadCheckpoint:
    return partial(read_checkpoint, Path(config.kubelet.device_plugin_dir), in_force.resources, variable)


def _mint(config: Config, in_force: InForce, keys: Keys, succession: Succession) -> Mint:
    """Return the mint of containers' tokens. It knows those that kubelet remembers: older ones for the same ids are dead."""
    mint = Mint(keys, succession)
    with suppress(KubeletError):
        mint.recall(entry.evidence for entry in _checkpoint(config, in_force, TOKEN_VARIABLE)())
    return mint


def _scanner(in_force: InForce, ports: Ports, facts: Facts, driver: GpuDriver) -> Service:
    read = _checkpoint(in_force.config.value, in_force, evidence.VARIABLE)
    neighbours = scanner.Neighbours(driver, ports.processes, ports.assignments, ports.cluster, ports.clock, read)

    async def alive() -> None:
        facts.pulse.beat_at = ports.clock.monotonic()
        await ports.manager.alive()

    return partial(scanner.serve, neighbours, facts.inventory, facts.pods, facts.usage, in_force.scan, alive=alive)


def _enforcer(in_force: InForce, ports: Ports, facts: Facts, driver: GpuDriver) -> Service:
    hands = enforcer.Hands(driver, ports.processes, ports.cluster, ports.clock)
    return partial(enforcer.serve, hands, facts.usage, facts.pods, facts.enforcement, in_force.enforcer)


def _device_api(config: Config, ports: Ports, facts: Facts, driver: GpuDriver, keys: Keys, succession: Succession) -> Service:
    cells = DeviceApiFacts(facts.inventory, facts.usage, facts.enforcement, ports.processes, driver.info)
    api = DeviceApi(wiring.device_api_settings(config), cells, keys, succession)
    return facts.restartable("device API", api.serve)


def _exporters(in_force: InForce, ports: Ports, facts: Facts) -> Iterator[Service]:
    """Yield the metrics endpoints, if they are wanted: the daemon's own, then the GPUs'."""
    config = in_force.config.value
    if not config.exporter.enabled:
        return
    sources = exporter.Sources(
        node=wiring.node_name(config),
        inventory=facts.inventory,
        usage=facts.usage,
        enforcement=facts.enforcement,
        pods=facts.pods,
        plugins=facts.plugins,
        restarts=facts.restarts,
        driver=facts.driver,
        events=facts.events,
        reloads=facts.reloads,
        pulse=facts.pulse,
        cluster_counts=ports.cluster.counts,
        clock=ports.clock,
    )
    endpoints = [("daemon metrics", config.exporter.daemon_address, exporter.daemon_routes(sources, in_force.switches))]
    if config.exporter.gpus:
        endpoints.append(("GPU metrics", config.exporter.address, exporter.gpu_routes(sources, in_force.switches)))
    for name, address, routes in endpoints:
        note = partial(facts.endpoints.__setitem__, name)
        service = partial(exporter.serve, *wiring.host_and_port(address), routes, on_listening=note)
        yield facts.restartable(name, service)


def _isolation(in_force: InForce, mint_token: MintToken) -> Isolation:
    config = in_force.config.value
    return NoIsolation(
        EditSettings(
            mgctl_address=wiring.mgctl_address(config),
            mint_token=mint_token,
            mounts=lambda: in_force.mounts.value,
            device_nodes=lambda device: device_nodes(device) if in_force.config.value.device_specs else (),
        )
    )


def _plugin_maker(
    in_force: InForce, ports: Ports, facts: Facts, holdings: Holdings, isolation: Isolation
) -> Callable[[str], Plugin]:
    directory = Path(in_force.config.value.kubelet.device_plugin_dir)

    def no_split() -> bool:
        return in_force.config.value.allocator.no_split

    def make(resource: str) -> Plugin:
        counts = facts.plugins.setdefault(resource, PluginCounts())
        offer = Offer(resource, facts.inventory, in_force.allocator, isolation, no_split, counts, holdings.granted)
        return Plugin(offer, ports.registrar, directory)

    return make


def _check_directory(directory: str) -> None:
    """Refuse a directory in which we can or may not make a socket; one that is not there yet is kubelet's to make."""
    room = MAX_PATH_BYTES - len(f"/{fresh_socket_name('')}")
    if len(os.fsencode(directory)) > room:
        problem = f"{directory!r} leaves no room for a socket's name; a path of at most {room} bytes is needed"
        raise ConfigError("config.kubelet.devicePluginDir", problem)
    if os.path.isdir(directory) and not os.access(directory, os.W_OK | os.X_OK):
        raise HostError(f"{directory}: no permission to make sockets there; run as root, or give another --kubelet-dir")


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


async def _stop_on_signal(
    everything: trio.CancelScope,
    stopping: trio.CancelScope,
    *,
    task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Cancel `stopping` at the first signal and `everything` at the second; started with the scope that ends the watch."""
    with trio.CancelScope() as scope, trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started(scope)
        log.info("stopping", extra={"signal": signal.Signals(await anext(signals)).name})
        stopping.cancel()
        with trio.move_on_after(STOP_SECONDS):
            await anext(signals)
        log.warning("stop was not finished in time; ending at once")
        everything.cancel()
