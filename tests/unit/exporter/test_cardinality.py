"""How many series a node makes: the formula that `exporter.names` and the README promise."""

from dataclasses import replace

import pytest

from mortalgpu.exporter.http import Request
from mortalgpu.exporter.service import Switches, daemon_routes, gpu_routes
from mortalgpu.latest import Latest
from mortalgpu.model.counts import EventCounts, PluginCounts
from mortalgpu.model.device import Health, Memory, Utilization
from mortalgpu.model.share import Inventory, LayoutNotice, SharedDevice
from mortalgpu.model.usage import DeviceUsage
from mortalgpu.simulation.driver import worked_example
from tests.unit.exporter.facts import Facts, claim, holder, running, usage


def full_node(devices: int, resources: int, containers: int) -> Facts:
    """The worst case: every device sick, with a layout that waits and all figures known; one process a container."""
    shared = tuple(
        SharedDevice(device, f"example.com/r{number % resources}", 100)
        for number, device in enumerate(worked_example(devices)[:devices])
    )
    facts = Facts()
    facts.inventory.publish(
        Inventory(
            shared,
            health={each.uuid: Health(False, "XID 79", 5.0) for each in shared},
            notices=tuple(LayoutNotice(each.uuid, each.resource, 100, 50, 3) for each in shared),
        )
    )
    holders = (
        holder(number, claim(shared[number % devices].uuid, running(number, 10), shares=1, resource="example.com/r"))
        for number in range(containers)
    )
    read = tuple(DeviceUsage(each, Memory(3, 1, 2), Utilization(1, 1), 1, 0, 5) for each in shared)
    facts.usage.publish(replace(usage(*holders), devices=read))
    facts.plugins.clear()
    facts.plugins.update({name: PluginCounts() for name in facts.inventory.value.resources})
    return facts


async def series(facts: Facts, page: str, switches: Switches) -> int:
    """How many series the page has."""
    sources = replace(facts.sources(), events=EventCounts(), restarts=dict.fromkeys("abcde", 1))
    routes = {"gpus": gpu_routes, "daemon": daemon_routes}[page](sources, Latest(switches))
    body = (await routes["/metrics"](Request("/metrics"))).body
    return sum(not line.startswith(b"#") for line in body.splitlines())


SIZES = [(1, 1, 1), (3, 2, 5), (8, 8, 200)]


@pytest.mark.parametrize(("devices", "resources", "containers"), SIZES)
async def test_the_page_of_the_gpus_is_what_the_formula_says(devices: int, resources: int, containers: int) -> None:
    facts = full_node(devices, resources, containers)
    plain = 18 * devices + 8 * containers + 6
    assert await series(facts, "gpus", Switches()) == plain
    assert await series(facts, "gpus", Switches(per_process=True)) == plain + 3 * containers
    metagpu = 5 * devices + 2 * containers + 6 * containers
    assert await series(facts, "gpus", Switches(metagpu_names=True)) == plain + metagpu


@pytest.mark.parametrize(("devices", "resources", "containers"), SIZES)
async def test_the_page_of_the_daemon_grows_with_resources_only(devices: int, resources: int, containers: int) -> None:
    assert await series(full_node(devices, resources, containers), "daemon", Switches()) == 48 * resources + 92
