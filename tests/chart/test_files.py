"""The chart's files say the same as the daemon: keys, defaults, types, version, and the names of metrics."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

import mortalgpu
from mortalgpu.config import Config
from mortalgpu.configfile import CHART_KEYS, convert
from mortalgpu.exporter import names
from tests.chart.generator import generator

ROOT = Path(__file__).parents[2]
CHART = ROOT / "chart"
REQUIRED = {"resourceName", "hostPath", "containerPath"}
"""Keys of list entries that have no default."""


def plain(tree: Any) -> Any:
    """Return it as a file would hold it: lists, no tuples."""
    return json.loads(msgspec.json.encode(tree))


def test_the_schema_is_what_the_types_and_values_make() -> None:
    assert json.loads((CHART / "values.schema.json").read_text()) == plain(generator.schema()), "run `just chart`"


def test_every_level_of_the_schema_refuses_unknown_keys_or_says_that_it_takes_any() -> None:
    def objects(node: Any) -> Iterator[Mapping[str, Any]]:
        if isinstance(node, dict):
            if "properties" in node:
                yield node
            for below in node.values():
                yield from objects(below)

    assert all(node["additionalProperties"] is False for node in objects(generator.schema()))


def test_no_narrower_type_is_left_from_a_key_that_is_gone() -> None:
    def there(path: str) -> bool:
        place: Any = generator.default_values()
        for step in path.split("."):
            if step not in place:
                return False
            place = place[step]
        return True

    assert [path for path in generator.NARROWER if not there(path)] == []


def test_the_charts_readme_has_the_table_of_its_values() -> None:
    assert (CHART / "README.md").read_text() == generator.readme(), "run `just chart`"


def test_every_value_has_a_comment_and_a_row() -> None:
    assert [row.path for row in generator.rows() if not row.meaning] == []
    assert len({row.path for row in generator.rows()}) == len(list(generator.rows())) > 100


def test_the_defaults_of_the_chart_are_the_daemons() -> None:
    config = generator.default_values()["config"]
    assert convert(config) == Config()
    assert set(leaves(config)) == set(leaves(msgspec.to_builtins(Config())))


def leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}"


def test_the_daemon_knows_which_keys_stand_beside_its_own() -> None:
    assert set(CHART_KEYS) == {*generator.default_values(), "global"}


def test_the_charts_version_is_the_programs() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == mortalgpu.__version__


def readme_table() -> dict[str, str]:
    """The root README's keys and defaults, as written there."""
    found = re.findall(r"^\| `([\w.\[\]]+)` \| (.*?) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    return dict(found)


def test_the_readme_has_every_key_of_the_configuration_with_its_default() -> None:
    expected = dict(flat(plain(Config())))
    entry = plain(Config().device_sharing[0]) | {"metagpusPerGpu": 0}
    expected |= {f"deviceSharing[].{key}": value for key, value in entry.items()}
    mount = {"hostPath": "", "containerPath": "", "readOnly": True}
    expected |= {f"pluginMounts[].{key}": value for key, value in mount.items()}
    table = readme_table()
    assert set(table) == set(expected)
    for path, text in table.items():
        if path == "deviceSharing[]":
            continue
        if path.rpartition(".")[2] in REQUIRED and "[]" in path:
            assert text == "required", path
        else:
            assert yaml.safe_load(text.strip("`")) == expected[path], path


def flat(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{path}{key}.")
        else:
            lists = ("deviceSharing", "pluginMounts")
            yield f"{path}{key}[]" if key in lists else f"{path}{key}", value


# Dashboard and rules.

METRICS = {metric.name: metric for metric in (*names.GPU_PAGE, *names.DAEMON_PAGE)}
OF_PROMETHEUS = {"up": {"container", "instance"}}
TARGET_LABELS = {"instance"}
WORD = re.compile(r"\b(?:mortalgpu_\w+|process_\w+|up)\b")
SELECTOR = re.compile(r"\b(mortalgpu_\w+|process_\w+|up)\{([^{}]*)\}")
GROUPING = re.compile(r"\b(?:by|on) \(([^()]*)\)")


def rule_queries() -> Iterator[tuple[str, str]]:
    for group in yaml.safe_load((CHART / "files" / "rules.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def dashboard() -> dict[str, Any]:
    board: dict[str, Any] = json.loads((CHART / "files" / "dashboard.json").read_text())
    return board


def panel_queries() -> Iterator[tuple[str, str]]:
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


def labels_of(metric: str) -> set[str]:
    if metric in OF_PROMETHEUS:
        return OF_PROMETHEUS[metric]
    name = metric.removesuffix("_bucket") if metric not in METRICS else metric
    assert name in METRICS, f"the exporters have no metric {metric}"
    found = METRICS[name]
    bucket = {"le"} if name != metric else set()
    assert not bucket or found.kind == names.HISTOGRAM
    return {*found.labels, *filter(None, [found.node_label]), *bucket, *TARGET_LABELS}


@pytest.mark.parametrize(("name", "query"), [*rule_queries(), *panel_queries()])
def test_a_query_asks_for_metrics_and_labels_that_exist(name: str, query: str) -> None:
    if query.startswith("label_values"):
        metric, label = re.findall(r"\w+", query)[1:]
        assert label in labels_of(metric)
        return
    bare = re.sub(r'"[^"]*"', "", GROUPING.sub("", query))
    metrics = WORD.findall(bare)
    assert metrics, name
    for metric, matchers in SELECTOR.findall(query):
        asked = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)
        assert set(asked) <= labels_of(metric), f"{name}: {asked}"
    common = set.intersection(*(labels_of(metric) for metric in metrics))
    for listed in GROUPING.findall(query):
        assert set(re.findall(r"\w+", listed)) <= common, f"{name}: {listed}"


@pytest.mark.parametrize(("name", "query"), [*rule_queries(), *panel_queries()])
def test_a_counter_is_never_shown_as_it_stands(name: str, query: str) -> None:
    """It falls to zero with the daemon; only the table of containers shows how often each was stopped so far."""
    for metric in METRICS.values():
        if metric.kind == names.COUNTER and metric.name in query and name != "Containers":
            assert re.search(rf"(increase|rate)\({metric.name}", query), query


def test_an_alerts_text_uses_labels_that_its_query_leaves() -> None:
    for group in yaml.safe_load((CHART / "files" / "rules.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            grouped = re.search(r"\bby \(([^()]*)\)", rule["expr"])
            metrics = WORD.findall(rule["expr"])
            left = set(re.findall(r"\w+", grouped[1])) if grouped else set().union(*(labels_of(name) for name in metrics))
            used = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
            assert used <= left, f"{rule['alert']}: {used - left}"


def test_each_panel_has_a_place_of_its_own_and_says_what_it_shows() -> None:
    taken: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(ids) == len(set(ids))
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        assert panel["type"] == "row" or panel["description"], panel["title"]
        taken |= cells
