"""READ FIRST: the node's composition root. Starts the services in order, each useful before the next, and ends them together.

    driver ──► discovery ──► Latest[Inventory] ──┬─► one plugin per resource ──► kubelet
                                                 └─► scanner
    cluster ─► pod watch ──► Latest[PodsView] ─────► scanner
    driver + host + kubelet + pods ──► scanner ──► Latest[Usage] ──► enforcer ──► Latest[Enforcement]

The outside world is in `ports`, the cells are in `facts`, and `assembly` puts each service together; services get all they
need as arguments. SIGTERM and SIGINT stop the daemon in good order, a second one stops it at once, SIGHUP reads the
configuration again.
"""

import gc
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from mortalgpu import logs, wiring
from mortalgpu.assembly import Assembly
from mortalgpu.config import Config
from mortalgpu.driver.lasting import keep_open
from mortalgpu.facts import Facts
from mortalgpu.host.vantage import blind_spots
from mortalgpu.inforce import InForce
from mortalgpu.isolation.base import MintToken, no_token
from mortalgpu.model.share import Inventory
from mortalgpu.ports import Ports, check_socket_directory, real_ports
from mortalgpu.reload import Read, Reloader, Take
from mortalgpu.scan.discovery import Discovery
from mortalgpu.statefile import only_one

__all__ = ["Facts", "Ports", "run", "services"]

log = logging.getLogger(__name__)

STOP_SECONDS = 5.0
FAREWELL_SECONDS = 1.0
READY_SECONDS = 5.0
"""How long the service manager, which blocks for a second at most, may take to hear that we are ready."""


async def run(config: Config, path: str = "", read: Read | None = None, on_ending: Callable[[], object] = lambda: None) -> None:
    """Run the daemon on this machine until a signal. Raises ConfigError, DriverError or HostError when it cannot.

    `read` reads the configuration again, at SIGHUP and when the file at `path` has changed. `on_ending` is called when the
    services begin to end, whatever the reason: from then on it is a matter of seconds.
    """
    check_socket_directory(config.kubelet.device_plugin_dir)
    for problem in blind_spots():
        log.warning("not everything can be seen from here", extra={"reason": problem})
    async with trio.open_nursery() as outer:
        stopping = trio.CancelScope()
        stopped = await outer.start(_stop_on_signal, outer.cancel_scope, stopping)
        # Heard from the beginning: a hang-up while services start would end the process, and is served when they have.
        with trio.open_signal_receiver(signal.SIGHUP) as hang_ups, stopping:
            in_force, facts = InForce(config), Facts()
            async with only_one(Path(config.state_path)), real_ports(config, in_force.resources) as ports:
                async with services(config, ports, facts, in_force) as take, trio.open_nursery() as watch:
                    watch.start_soon(_at_the_end, on_ending)
                    reread = read or (lambda: config)
                    # What is there now stays: the collector need not look at it each time, for tens of milliseconds.
                    gc.collect()
                    gc.freeze()
                    await Reloader(reread, take, in_force.config, facts.reloads, ports.clock).serve(hang_ups, path)
                    watch.cancel_scope.cancel()
        stopped.cancel()
    log.info("stopped")


@asynccontextmanager
async def services(config: Config, ports: Ports, facts: Facts, in_force: InForce | None = None) -> AsyncIterator[Take]:
    """Run every service in the block, which begins once all of them are useful. What ends an essential one ends the block.

    Yields what lets them go on with another configuration.
    Raises DriverError when the driver cannot be opened, ConfigError when its devices cannot be shared as configured.
    """
    async with trio.open_nursery() as nursery:
        driver = await nursery.start(partial(keep_open, ports.open_driver, counts=facts.driver))
        in_force = in_force or InForce(config)
        make = Assembly(in_force, ports, facts, driver)
        discovery = make.discovery()
        await nursery.start(discovery.serve)
        _tell_inventory(facts.inventory.value, config)
        await nursery.start(make.pod_watch())
        await nursery.start(make.news())
        await nursery.start(make.scanner())
        await nursery.start(make.enforcer())
        mint_token: MintToken = no_token
        if config.device_api.enabled:
            device_api, mint_token = make.device_api()
            await nursery.start(device_api)
        in_force.mounts.publish(await wiring.container_mounts(config))
        nursery.start_soon(wiring.keep_mgctl_tidy, config)
        await nursery.start(make.plugins(mint_token).serve)
        for endpoint in make.exporters():
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


async def _at_the_end(call: Callable[[], object]) -> None:
    """Call when this is cancelled, whoever else does not come to an end."""
    try:
        await trio.sleep_forever()
    finally:
        call()


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
