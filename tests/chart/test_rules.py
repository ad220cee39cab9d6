"""The alert rules fire when they should, and not before: Prometheus' own promtool plays the series of alerts.yaml."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.chart.build import locate_promtool
from tests.chart.test_files import panel_queries
from tests.needs import skipped_where_missing

pytestmark = pytest.mark.e2e
RULES = Path(__file__).parents[2] / "chart" / "files" / "rules.yaml"
STORIES = Path(__file__).with_name("alerts.yaml")


@pytest.fixture(scope="module")
def promtool() -> Path:
    with skipped_where_missing():
        return locate_promtool()


def run(promtool: Path, *words: object) -> str:
    done = subprocess.run([promtool, *map(str, words)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_stories_of_the_alerts_end_as_they_say(promtool: Path) -> None:
    run(promtool, "test", "rules", STORIES)


def test_every_alert_has_a_story_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    alerts = {rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}
    told = [case for story in yaml.safe_load(STORIES.read_text())["tests"] for case in story["alert_rule_test"]]
    assert {case["alertname"] for case in told if case["exp_alerts"]} == alerts
    assert {case["alertname"] for case in told if not case["exp_alerts"]} == alerts


def test_prometheus_understands_every_query_of_the_dashboard(promtool: Path, tmp_path: Path) -> None:
    queries = [query for _, query in panel_queries() if not query.startswith("label_values")]
    plain = [re.sub(r"\$__rate_interval", "5m", query).replace("$node", ".*").replace("$namespace", ".*") for query in queries]
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(plain)]
    (tmp_path / "rules.json").write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(queries)} rules found" in run(promtool, "check", "rules", tmp_path / "rules.json")
