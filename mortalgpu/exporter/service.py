"""The two endpoints: which collectors make which page, and the service that serves a page at an address.

Reads cells and counts, at the moment of a scrape; asks no port but the clock and the cluster's counts.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

import trio

from mortalgpu.cluster.base import ClusterCounts, PodsView
from mortalgpu.exporter import (
    allocation,
    calls,
    cluster,
    configuration,
    container,
    device,
    driver,
    enforcement,
    itself,
    metagpu,
    process,
    scan,
)
from mortalgpu.exporter.checks import Patience, why_dead, why_not_ready
from mortalgpu.exporter.family import Family
from mortalgpu.exporter.http import Answer, HttpServer, Request, Route
from mortalgpu.exporter.page import Collect, Page
from mortalgpu.host.base import WallClock
from mortalgpu.latest import Latest
from mortalgpu.model.counts import CallCounts, DriverCounts, EventCounts, PluginCounts, Pulse, ReloadCounts
from mortalgpu.model.kill import Enforcement
from mortalgpu.model.share import Inventory
from mortalgpu.model.usage import Usage
from mortalgpu.rpc.listener import address_of, listen_tcp

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sources:
    """What the pages are made from."""

    node: str
    inventory: Latest[Inventory]
    usage: Latest[Usage]
    enforcement: Latest[Enforcement]
    pods: Latest[PodsView]
    plugins: Mapping[str, PluginCounts]
    restarts: Mapping[str, int]
    driver: DriverCounts
    events: EventCounts
    reloads: ReloadCounts
    calls: CallCounts
    pulse: Pulse
    cluster_counts: Callable[[], ClusterCounts]
    clock: WallClock


@dataclass(frozen=True, slots=True)
class Switches:
    """What the pages show beyond the usual. `enforces`: whether processes are really stopped."""

    metagpu_names: bool = False
    per_process: bool = False
    enforces: bool = True
    patience: Patience = field(default_factory=Patience)


async def serve(
    host: str,
    port: int,
    routes: Mapping[str, Route],
    *,
    on_listening: Callable[[str], None] = lambda _: None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve these paths until cancelled. Started once clients can connect; `on_listening` hears where (`host:port`).

    Port 0 lets the system choose. Raises HostError when the address cannot be had.
    """
    listeners = await listen_tcp(host, port)
    where = address_of(listeners[0])
    log.info("serving metrics", extra={"address": where})
    on_listening(where)
    await HttpServer(routes).serve(listeners, task_status=task_status)


def gpu_routes(sources: Sources, switches: Latest[Switches]) -> Mapping[str, Route]:
    """Return the endpoint of the GPUs: who uses what."""

    def from_scan(
        collect: Callable[[Inventory, Usage], Iterable[Family]], is_wanted: Callable[[Switches], bool] = lambda _: True
    ) -> Collect:
        return lambda: collect(sources.inventory.value, sources.usage.value) if is_wanted(switches.value) else ()

    def containers(inventory: Inventory, usage: Usage) -> Iterable[Family]:
        return container.collect(inventory, usage, sources.enforcement.value.kills)

    collectors: dict[str, Collect] = {
        "device": from_scan(device.collect),
        "container": from_scan(containers),
        "process": from_scan(process.collect, lambda wanted: wanted.per_process),
        "metagpu": from_scan(metagpu.collect, lambda wanted: wanted.metagpu_names),
    }
    return {"/metrics": _route(Page(sources.node, collectors, partial(_age_seconds, sources)))}


def daemon_routes(sources: Sources, switches: Latest[Switches]) -> Mapping[str, Route]:
    """Return the endpoint of the daemon itself: how it fares."""
    own_process = itself.OwnProcess()

    def unready() -> tuple[str, ...]:
        now = sources.clock.monotonic()
        patience, usage = switches.value.patience, sources.usage.value
        dead = why_dead(sources.pulse, now, patience)
        return dead + why_not_ready(sources.inventory.value, sources.plugins, usage, now, patience)

    collectors: dict[str, Collect] = {
        "process": own_process.collect,
        "itself": lambda: itself.collect(sources.restarts, ready=not unready()),
        "resource": lambda: allocation.collect_resources(sources.inventory.value, sources.usage.value),
        "allocation": lambda: allocation.collect(sources.inventory.value, sources.plugins),
        "scan": lambda: scan.collect(sources.usage.value),
        "enforcement": lambda: enforcement.collect(sources.enforcement.value, enabled=switches.value.enforces),
        "driver": lambda: driver.collect(sources.driver, sources.events),
        "cluster": lambda: cluster.collect(sources.pods.value, sources.cluster_counts()),
        "calls": lambda: calls.collect(sources.calls),
        "configuration": lambda: configuration.collect(sources.reloads),
    }
    return {
        "/metrics": _route(Page(sources.node, collectors, partial(_age_seconds, sources))),
        "/healthz": _check(lambda: why_dead(sources.pulse, sources.clock.monotonic(), switches.value.patience)),
        "/readyz": _check(unready),
    }


def _age_seconds(sources: Sources) -> float | None:
    usage = sources.usage.value
    return sources.clock.monotonic() - usage.looked_at if usage.sequence else None


def _route(page: Page) -> Route:
    async def answer(request: Request) -> Answer:
        content_type, body = await page.render(request.accept)
        return Answer(body, content_type)

    return answer


def _check(problems: Callable[[], tuple[str, ...]]) -> Route:
    async def answer(_request: Request) -> Answer:
        await trio.lowlevel.checkpoint()
        found = problems()
        return Answer("".join(f"{line}\n" for line in found or ("ok",)).encode(), status=503 if found else 200)

    return answer
