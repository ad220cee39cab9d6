"""The dashboard and the alerts on a real Prometheus, which scrapes a simulated node with its daemon."""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.chart.helm import CHART
from tests.chart.test_files import panel_queries
from tests.e2e.build import Missing, find_program
from tests.e2e.process import Process
from tests.e2e.waiting import eventually
from tests.ports import free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

DEMO = Path(sys.executable).with_name("mortalgpu")
EMPTY_ON_A_HEALTHY_NODE = {"Sick devices", "Refused requests"}
"""Panels that show trouble, of which the demo has none or not at once."""


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running server."""

    url: str

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Return the result of an instant query. Raises AssertionError with Prometheus' words."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": query}, timeout=10, trust_env=False).json()
        assert answer["status"] == "success", answer
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found


def endpoints(demo: Process) -> dict[str, str]:
    """Where the demo serves its pages, by their names."""
    return dict(re.findall(r"serving +(daemon|GPU) metrics: http://(\S+)/metrics", demo.log()))


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    program = find_program("prometheus")
    if program is None:
        pytest.skip(str(Missing("no prometheus; run `python -m tests.chart.build`")))
    folder = tmp_path_factory.mktemp("prometheus")
    demo = Process("demo", [DEMO, "demo", "--plain"], folder / "demo.log")
    started = [demo]
    try:
        eventually("the demo's pages", lambda: len(endpoints(demo)) == 2, seconds=20)
        jobs = [scrape_job(name, target) for name, target in endpoints(demo).items()]
        rules = [str(CHART / "files" / "rules.yaml")]
        config = {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "scrape_configs": jobs, "rule_files": rules}
        (folder / "prometheus.json").write_text(json.dumps(config))
        (port,) = free_ports(1)
        words = [f"--config.file={folder / 'prometheus.json'}", f"--storage.tsdb.path={folder / 'data'}"]
        started.append(Process("prometheus", [program, *words, f"--web.listen-address=127.0.0.1:{port}"], folder / "log"))
        server = Prometheus(f"http://127.0.0.1:{port}")
        eventually("Prometheus to be ready", lambda: is_ready(server), seconds=30)
        eventually("Prometheus to have seen enough", lambda: has_scraped(server), seconds=60, every_seconds=0.5)
        yield server
    finally:
        for process in reversed(started):
            process.kill()


def scrape_job(name: str, target: str) -> dict[str, Any]:
    return {"job_name": name, "static_configs": [{"targets": [target]}], "honor_labels": True}


def is_ready(server: Prometheus) -> bool:
    try:
        return httpx.get(f"{server.url}/-/ready", timeout=10, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def has_scraped(server: Prometheus) -> bool:
    """Each page before and after a process was stopped."""
    counters = ("mortalgpu_container_over_limit_kills_total", 'mortalgpu_enforcement_actions_total{outcome="killed"}')
    return all(server.ask(f"sum(increase({counter}[1m])) > 0") for counter in counters)


@pytest.mark.parametrize(("title", "query"), [pair for pair in panel_queries() if not pair[1].startswith("label_values")])
def test_a_panel_has_something_to_show(prometheus: Prometheus, title: str, query: str) -> None:
    plain = query.replace("$__rate_interval", "1m").replace("$node", ".*").replace("$namespace", ".*")
    found = prometheus.ask(plain)
    if title not in EMPTY_ON_A_HEALTHY_NODE:
        assert found, plain
    # A quantile of nothing within the window is no number, and a gap in the panel.
    assert not [row for row in found if float(row["value"][1]) < 0]


def test_ratios_are_between_nothing_and_all(prometheus: Prometheus) -> None:
    for title, query in panel_queries():
        if title in ("Shares taken", "GPU memory in use", "GPU utilisation"):
            plain = query.replace("$node", ".*")
            assert all(0 <= float(row["value"][1]) <= 1 for row in prometheus.ask(plain)), title


def test_the_variables_have_values_to_choose_from(prometheus: Prometheus) -> None:
    for name, query in panel_queries():
        if query.startswith("label_values"):
            metric, label = re.findall(r"\w+", query)[1:]
            assert prometheus.ask(f"count by ({label}) ({metric})")[0]["metric"].get(label), name


def test_no_alert_is_broken_and_none_fires_on_a_healthy_node(prometheus: Prometheus) -> None:
    answer = httpx.get(f"{prometheus.url}/api/v1/rules", timeout=10, trust_env=False).json()
    rules = [rule for group in answer["data"]["groups"] for rule in group["rules"]]
    assert [rule["name"] for rule in rules if rule["health"] != "ok"] == []
    assert {rule["name"] for rule in rules if rule["state"] == "firing"} <= {"MortalGpuContainerKilledAgainAndAgain"}
