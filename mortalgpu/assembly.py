"""How each service is put together: its ports, its settings in force, the cells it reads and writes.

In which order they start, and what that is good for, is the daemon's business.
"""

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from mortalgpu import wiring
from mortalgpu.deviceapi.keys import Keys
from mortalgpu.deviceapi.mint import Mint
from mortalgpu.deviceapi.server import DeviceApi, DeviceApiFacts
from mortalgpu.deviceapi.succession import Succession
from mortalgpu.deviceplugin.plugins import Plugins
from mortalgpu.deviceplugin.server import Plugin
from mortalgpu.deviceplugin.servicer import Offer
from mortalgpu.driver.base import GpuDriver
from mortalgpu.enforcer import service as enforcer
from mortalgpu.errors import KubeletError
from mortalgpu.exporter import service as exporter
from mortalgpu.facts import Facts
from mortalgpu.inforce import InForce
from mortalgpu.isolation.base import EditSettings, MintToken
from mortalgpu.isolation.devicenodes import device_nodes
from mortalgpu.isolation.none import TOKEN_VARIABLE, NoIsolation
from mortalgpu.kubelet.checkpoint import read_checkpoint
from mortalgpu.model.counts import PluginCounts
from mortalgpu.ports import Ports
from mortalgpu.rpc.limits import CallRecord
from mortalgpu.scan import news, podwatch, scanner
from mortalgpu.scan.books import ReadCheckpoint
from mortalgpu.scan.discovery import Discovery
from mortalgpu.scan.holdings import Holdings
from mortalgpu.sharing import evidence
from mortalgpu.supervise import Service


class Assembly:
    """The services of one daemon, each to be made once. What the configuration says is read when a service is made."""

    def __init__(self, in_force: InForce, ports: Ports, facts: Facts, driver: GpuDriver) -> None:
        self._in_force = in_force
        self._config = in_force.config.value
        self._ports = ports
        self._facts = facts
        self._driver = driver
        self._holdings = Holdings(ports.assignments, self._checkpoint(evidence.VARIABLE), ports.clock.monotonic)

    def discovery(self) -> Discovery:
        """Make discovery. Raises ConfigError for rules that contradict each other."""
        settings, facts = wiring.discovery_settings(self._config), self._facts
        return Discovery(self._driver, self._holdings.held, facts.inventory, settings, self._ports.clock, facts.events)

    def pod_watch(self) -> Service:
        """Make the pod watch."""
        return self._facts.restartable("pod watch", partial(podwatch.serve, self._ports.cluster, self._facts.pods))

    def news(self) -> Service:
        """Make the news of devices."""
        return self._facts.restartable("news", partial(news.serve, self._facts.inventory, self._ports.cluster))

    def scanner(self) -> Service:
        """Make the scanner, with whose turns the service manager's watchdog is fed."""
        ports, facts = self._ports, self._facts
        read = self._checkpoint(evidence.VARIABLE)
        neighbours = scanner.Neighbours(self._driver, ports.processes, ports.assignments, ports.cluster, ports.clock, read)

        async def alive() -> None:
            facts.pulse.beat_at = ports.clock.monotonic()
            await ports.manager.alive()

        return partial(scanner.serve, neighbours, facts.inventory, facts.pods, facts.usage, self._in_force.scan, alive=alive)

    def enforcer(self) -> Service:
        """Make the enforcer."""
        ports, facts = self._ports, self._facts
        hands = enforcer.Hands(self._driver, ports.processes, ports.cluster, ports.clock)
        return partial(enforcer.serve, hands, facts.usage, facts.pods, facts.enforcement, self._in_force.enforcer)

    def device_api(self) -> tuple[Service, MintToken]:
        """Make the device API, and the mint of the tokens that it will know containers by.

        Reads keys, or makes one; raises ConfigError, HostError.
        """
        facts = self._facts
        keys, succession = Keys(wiring.key_settings(self._config)), Succession(self._ports.clock.monotonic)
        mint = Mint(keys, succession, monotonic=self._ports.clock.monotonic)
        # What kubelet remembers: older tokens for the same ids are dead.
        with suppress(KubeletError):
            mint.recall(entry.evidence for entry in self._checkpoint(TOKEN_VARIABLE)())
        cells = DeviceApiFacts(facts.inventory, facts.usage, facts.enforcement, self._ports.processes, self._driver.info)

        def count(call: CallRecord) -> None:
            facts.calls[call.code.name] += 1

        api = DeviceApi(wiring.device_api_settings(self._config), cells, keys, succession, observer=count)
        return facts.restartable("device API", api.serve), mint.mint_container_token

    def plugins(self, mint_token: MintToken) -> Plugins:
        """Make the device plugins: one for each resource, as resources come and go."""
        in_force, facts, registrar = self._in_force, self._facts, self._ports.registrar
        directory = Path(self._config.kubelet.device_plugin_dir)
        isolation = NoIsolation(
            EditSettings(
                mgctl_address=wiring.mgctl_address(self._config),
                mint_token=mint_token,
                mounts=lambda: in_force.mounts.value,
                device_nodes=lambda device: device_nodes(device) if in_force.config.value.device_specs else (),
            )
        )

        def no_split() -> bool:
            return in_force.config.value.allocator.no_split

        def make(resource: str) -> Plugin:
            counts = facts.plugins.setdefault(resource, PluginCounts())
            granted = self._holdings.granted
            offer = Offer(resource, facts.inventory, in_force.allocator, isolation, no_split, counts, granted)
            return Plugin(offer, registrar, directory)

        return Plugins(facts.inventory, make)

    def exporters(self) -> Iterator[Service]:
        """Yield the metrics endpoints, if they are wanted: the daemon's own, then the GPUs'."""
        wanted, facts, switches = self._config.exporter, self._facts, self._in_force.switches
        if not wanted.enabled:
            return
        sources = exporter.Sources(
            node=wiring.node_name(self._config),
            inventory=facts.inventory,
            usage=facts.usage,
            enforcement=facts.enforcement,
            pods=facts.pods,
            plugins=facts.plugins,
            restarts=facts.restarts,
            driver=facts.driver,
            events=facts.events,
            reloads=facts.reloads,
            calls=facts.calls,
            pulse=facts.pulse,
            cluster_counts=self._ports.cluster.counts,
            clock=self._ports.clock,
        )
        endpoints = [("daemon metrics", wanted.daemon_address, exporter.daemon_routes(sources, switches))]
        if wanted.gpus:
            endpoints.append(("GPU metrics", wanted.address, exporter.gpu_routes(sources, switches)))
        for name, address, routes in endpoints:
            note = partial(facts.endpoints.__setitem__, name)
            service = partial(exporter.serve, *wiring.host_and_port(address), routes, on_listening=note)
            yield facts.restartable(name, service)

    def _checkpoint(self, variable: str) -> ReadCheckpoint:
        """Return a reader of what kubelet remembers of our resources, with this variable of the containers' environment."""
        directory = Path(self._config.kubelet.device_plugin_dir)
        return partial(read_checkpoint, directory, self._in_force.resources, variable)
