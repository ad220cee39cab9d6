"""The pages as Prometheus sees them, whole. `just golden` rewrites them; read the difference before committing it."""

import os
import re
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from mortalgpu.exporter.http import Request
from mortalgpu.exporter.names import DAEMON_PAGE, GPU_PAGE, METAGPU_METRICS
from mortalgpu.exporter.service import Switches, daemon_routes, gpu_routes
from mortalgpu.latest import Latest
from tests.unit.exporter.facts import Facts

GOLDEN = Path(__file__).parents[2] / "golden" / "metrics"
EVERYTHING = Switches(metagpu_names=True, per_process=True)
MACHINE = re.compile(r'(?m)(^process_\w+|^mortalgpu_tasks\S+) \S+$|(?<=python=")[^"]+|(?<=version=")[^"]+')
"""What differs from machine to machine, and from release to release."""


async def _page(name: str, accept: str = "", switches: Switches = EVERYTHING) -> str:
    routes = {"gpus": gpu_routes, "daemon": daemon_routes}[name](Facts().sources(), Latest(switches))
    answer = await routes["/metrics"](Request("/metrics", accept))
    return answer.body.decode()


def _without_machine(page: str) -> str:
    return MACHINE.sub(lambda found: f"{found[1]} …" if found[1] else "…", page)


@pytest.mark.parametrize(("name", "accept", "ending"), [
    ("gpus", "", "txt"),
    ("daemon", "", "txt"),
    ("gpus", "application/openmetrics-text", "openmetrics"),
    ("daemon", "application/openmetrics-text", "openmetrics"),
])  # fmt: skip
async def test_the_page_is_the_golden_one(name: str, accept: str, ending: str) -> None:
    page = _without_machine(await _page(name, accept))
    path = GOLDEN / f"{name}.{ending}"
    if os.environ.get("MORTALGPU_REWRITE_GOLDEN"):
        path.write_text(page, encoding="utf-8")
    assert page == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["gpus", "daemon"])
async def test_a_strict_reader_of_openmetrics_finds_the_same_series_as_one_of_plain_text(name: str) -> None:
    plain = {
        (sample.name, *sorted(sample.labels.items())) for each in parse_plain(await _page(name)) for sample in each.samples
    }
    strict = {
        (sample.name, *sorted(sample.labels.items()))
        for each in parse_openmetrics(await _page(name, "application/openmetrics-text"))  # type: ignore[no-untyped-call]
        for sample in each.samples
    }
    assert plain == strict
    assert len(plain) > 80


async def test_every_metric_of_the_list_is_on_its_page_and_nothing_else_is() -> None:
    for name, listed in (("gpus", (*GPU_PAGE, *METAGPU_METRICS)), ("daemon", DAEMON_PAGE)):
        shown = re.findall(r"(?m)^# TYPE (\S+) ", await _page(name))
        assert sorted(shown) == sorted(metric.name for metric in listed)


async def test_without_switches_neither_processes_nor_metagpus_names_are_shown() -> None:
    page = await _page("gpus", switches=Switches())
    assert "metagpu_device" not in page
    assert "_process_" not in page


async def test_every_series_of_ours_names_its_node() -> None:
    for name in ("gpus", "daemon"):
        lines = [line for line in (await _page(name)).splitlines() if line.startswith("mortalgpu_")]
        assert [line for line in lines if 'node="node-1"' not in line] == []
