"""Alive and ready: what kubelet's probes of the daemon are told."""

from collections.abc import Callable

import pytest

from mortalgpu.exporter.http import Answer, Request
from mortalgpu.exporter.service import Switches, daemon_routes
from mortalgpu.latest import Latest
from mortalgpu.model.counts import Pulse
from mortalgpu.model.share import Inventory
from mortalgpu.model.usage import NO_USAGE
from tests.unit.exporter.facts import SHARED, SMALL, Facts


async def _ask(facts: Facts, path: str) -> Answer:
    return await daemon_routes(facts.sources(), Latest(Switches()))[path](Request(path))


def _unregister(facts: Facts) -> None:
    facts.plugins[SMALL].registered = False


def _forget_plugin(facts: Facts) -> None:
    del facts.plugins[SHARED]


def _never_scan(facts: Facts) -> None:
    facts.usage.publish(NO_USAGE)


def _let_scans_age(facts: Facts) -> None:
    facts.clock.ticks += 31
    facts.pulse.beat_at = facts.clock.ticks


def _stop_the_loop(facts: Facts) -> None:
    facts.pulse.beat_at -= 31


async def test_a_node_at_work_is_alive_and_ready() -> None:
    assert await _ask(Facts(), "/healthz") == Answer(b"ok\n")
    assert await _ask(Facts(), "/readyz") == Answer(b"ok\n")
    assert b'mortalgpu_ready{node="node-1"} 1.0' in (await _ask(Facts(), "/metrics")).body


@pytest.mark.parametrize(("spoil", "words"), [
    (_unregister, b"mortalgpu/a100-10g is not registered with kubelet\n"),
    (_forget_plugin, b"mortalgpu/a100-shared is not registered with kubelet\n"),
    (_never_scan, b"there was no scan yet\n"),
    (_let_scans_age, b"the last scan is 32 s old\n"),
])  # fmt: skip
async def test_a_daemon_that_cannot_work_is_alive_and_not_ready(spoil: Callable[[Facts], None], words: bytes) -> None:
    facts = Facts()
    spoil(facts)
    assert await _ask(facts, "/readyz") == Answer(words, status=503)
    assert (await _ask(facts, "/healthz")).status == 200
    assert b'mortalgpu_ready{node="node-1"} 0.0' in (await _ask(facts, "/metrics")).body


async def test_a_scan_loop_that_stands_still_is_neither_alive_nor_ready() -> None:
    facts = Facts()
    _stop_the_loop(facts)
    assert await _ask(facts, "/healthz") == Answer(b"the scan loop has not turned for 31 s\n", status=503)
    assert (await _ask(facts, "/readyz")).status == 503


async def test_a_loop_that_never_turned_is_not_alive() -> None:
    assert (await _ask(Facts(pulse=Pulse()), "/healthz")).status == 503


async def test_a_node_without_devices_is_ready() -> None:
    facts = Facts()
    facts.inventory.publish(Inventory())
    assert (await _ask(facts, "/readyz")).status == 200
