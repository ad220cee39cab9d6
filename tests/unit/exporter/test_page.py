"""A page outlives its collectors' faults, and says nothing of what is gone."""

import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest
import trio

from mortalgpu.exporter import names
from mortalgpu.exporter.family import Family, family, single
from mortalgpu.exporter.http import Request
from mortalgpu.exporter.page import Page
from mortalgpu.exporter.service import Switches, gpu_routes
from mortalgpu.latest import Latest
from mortalgpu.model.share import Inventory
from mortalgpu.model.usage import Usage
from tests.unit.exporter.facts import PARTITION_ID, V100_ID, Facts, claim, holder, running, usage


def _broken() -> Iterator[Family]:
    yield single(names.SCAN_LOOKS, 1)
    raise ZeroDivisionError("on purpose")


def _odd_text() -> list[Family]:
    return [family(names.SERVICE_RESTARTS, [(("\ud800",), 1)])]


def _good() -> list[Family]:
    return [single(names.READY, 1)]


async def _text(page: Page) -> str:
    return (await page.render())[1].decode()


@pytest.mark.parametrize("bad", [_broken, _odd_text])
async def test_a_failing_collector_costs_its_own_lines_only(bad: object, caplog: pytest.LogCaptureFixture) -> None:
    page = Page("n", {"bad": bad, "good": _good}, lambda: 1.0)  # type: ignore[dict-item]
    text = await _text(page)
    assert "mortalgpu_scan_looks" not in text
    assert 'mortalgpu_ready{node="n"} 1.0' in text
    assert 'collector_success{collector="bad",node="n"} 0.0' in text
    assert 'collector_success{collector="good",node="n"} 1.0' in text


async def test_a_collector_that_goes_on_failing_is_told_of_once_until_it_recovers(caplog: pytest.LogCaptureFixture) -> None:
    is_broken = True

    def moody() -> Iterator[Family]:
        yield from _broken() if is_broken else _good()

    page = Page("n", {"moody": moody}, lambda: 1.0)
    for _ in range(3):
        await page.render()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    is_broken = False
    assert 'collector="moody",node="n"} 1.0' in await _text(page)
    is_broken = True
    await page.render()
    assert len(caplog.records) == 2


async def test_the_page_is_stamped_with_the_age_of_its_facts_and_with_none_before_the_first_scan() -> None:
    assert 'mortalgpu_exporter_facts_age_seconds{node="n"} 1.5' in await _text(Page("n", {}, lambda: 1.5))
    assert "facts_age" not in await _text(Page("n", {}, lambda: None))


async def test_scrapes_at_the_same_time_give_the_same_page() -> None:
    route = gpu_routes(Facts().sources(), Latest(Switches()))["/metrics"]
    pages: list[bytes] = []

    async def scrape() -> None:
        pages.append((await route(Request("/metrics"))).body)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(scrape)
    assert len(pages) == 5
    assert len(set(pages)) == 1


async def _gpus(facts: Facts) -> str:
    return (await gpu_routes(facts.sources(), Latest(Switches(True, True)))["/metrics"](Request("/metrics"))).body.decode()


async def test_the_series_of_a_deleted_pod_are_gone_at_the_next_scrape() -> None:
    facts = Facts()
    route = gpu_routes(facts.sources(), Latest(Switches(True, True)))["/metrics"]
    assert b"jupyter-2" in (await route(Request("/metrics"))).body
    facts.usage.publish(usage(holder(1, claim(V100_ID, running(1, 1000)))))
    text = (await route(Request("/metrics"))).body
    assert b"jupyter-2" not in text
    assert b"jupyter-1" in text


async def test_the_series_of_a_removed_device_are_gone_at_once_even_while_the_last_scan_still_knows_it() -> None:
    facts = Facts()
    inventory = facts.inventory.value
    facts.inventory.publish(replace(inventory, devices=inventory.devices[:1], notices=()))
    text = await _gpus(facts)
    assert PARTITION_ID not in text
    assert V100_ID in text


async def test_a_device_that_changed_its_resource_leaves_no_series_under_the_old_one() -> None:
    facts = Facts()
    inventory = facts.inventory.value
    moved = tuple(replace(shared, resource="example.com/new") for shared in inventory.devices)
    facts.inventory.publish(replace(inventory, devices=moved, notices=()))
    facts.usage.publish(replace(facts.usage.value, containers=(), devices=()))
    assert "mortalgpu/a100" not in await _gpus(facts)


async def test_lines_that_are_used_again_are_those_of_a_page_made_anew() -> None:
    facts = Facts()
    route = gpu_routes(facts.sources(), Latest(Switches(True, True)))["/metrics"]
    odd = "a\rb\x0bc\x85d\u2028e"
    steps = (
        (holder(1, claim(V100_ID, running(1, 1000))), holder(2, claim(V100_ID, running(2, 10)))),
        (holder(2, claim(V100_ID, running(2, 20, command=odd))), holder(1, claim(V100_ID, running(1, 1000)))),
        (holder(2, claim(V100_ID)),),
        (holder(1, claim(V100_ID, running(1, 1000))), holder(2, claim(V100_ID, running(2, 20, command=odd)))),
    )
    for containers in steps:
        facts.usage.publish(usage(*containers))
        for accept in ("", "application/openmetrics-text"):
            anew = gpu_routes(facts.sources(), Latest(Switches(True, True)))["/metrics"]
            assert await route(Request("/metrics", accept)) == await anew(Request("/metrics", accept))


async def test_an_empty_node_has_a_page_without_subjects() -> None:
    facts = Facts()
    facts.inventory.publish(Inventory())
    facts.usage.publish(Usage(1, looked_at=facts.clock.ticks))
    text = await _gpus(facts)
    assert "mortalgpu_device" not in text
    assert "mortalgpu_exporter_facts_age_seconds" in text
