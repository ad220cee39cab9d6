"""Every value of the chart does what the table says, and a wrong one is refused with words that help."""

import base64
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec
import pytest

from mortalgpu import configfile
from mortalgpu.config import Config, check
from tests.chart.build import locate_helm
from tests.chart.helm import CHART, MONITORING, Refused, Rendered, render, run_helm
from tests.chart.table import CONFIG_VALUES, ROWS, SECRETS, Row, tree
from tests.needs import skipped_where_missing

pytestmark = pytest.mark.e2e

EVERYTHING = {
    "scc": True,
    "prometheusRule": {"enabled": True},
    "dashboard": {"enabled": True},
    "networkPolicy": {"enabled": True},
}


@pytest.fixture(autouse=True, scope="module")
def _helm() -> None:
    with skipped_where_missing():
        locate_helm()


@cache
def plain(beside: tuple[tuple[str, Any], ...] = (), apis: tuple[str, ...] = ()) -> Rendered:
    return render(tree(dict(beside)), apis=apis)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.key)
def test_a_value_changes_what_the_table_says(row: Row) -> None:
    before = plain(tuple(row.beside.items()), row.apis)
    after = render(tree({**row.beside, row.key: row.value}), apis=row.apis)
    assert row.look(before) == row.default
    assert row.look(after) == row.then


@pytest.mark.parametrize("key", CONFIG_VALUES)
def test_a_key_of_the_configuration_reaches_the_daemon(key: str) -> None:
    found: Any = render(tree({f"config.{key}": CONFIG_VALUES[key]})).config
    for step in key.split("."):
        found = found[step]
    assert found == CONFIG_VALUES[key]


def leaves(struct: type[msgspec.Struct], path: str = "") -> Iterator[str]:
    for info in msgspec.structs.fields(struct):
        if isinstance(info.type, type) and issubclass(info.type, msgspec.Struct):
            yield from leaves(info.type, f"{path}{info.encode_name}.")
        else:
            yield f"{path}{info.encode_name}"


def test_no_key_of_the_configuration_is_left_out_of_these_tables() -> None:
    assert set(leaves(Config)) == {*CONFIG_VALUES, *(f"grpcSecurity.{name}" for name in SECRETS)}


def test_the_default_configuration_is_the_daemons_default_but_for_the_key() -> None:
    config = configfile.convert(plain().config)
    keys = msgspec.structs.replace(Config().grpc_security, jwt_secret_file="/etc/mortalgpu/keys/jwtSecret")
    assert config == msgspec.structs.replace(Config(), grpc_security=keys)
    check(config)


def test_no_secret_stands_outside_the_secret() -> None:
    given = {f"config.grpcSecurity.{name}": f"{name}-of-sufficient-length" for name in SECRETS}
    rendered = render(tree(given))
    held = {name: base64.b64decode(text).decode() for name, text in rendered.of("Secret")["data"].items()}
    assert held == {name: given[f"config.grpcSecurity.{name}"] for name in SECRETS}
    elsewhere = [entry for entry in rendered.objects if entry["kind"] != "Secret"]
    assert not re.search("of-sufficient-length", str(elsewhere))


def test_a_key_is_made_when_none_is_given_and_never_the_same_twice() -> None:
    first, second = (base64.b64decode(render().of("Secret")["data"]["jwtSecret"]) for _ in range(2))
    assert len(first) == len(second) == 64
    assert first != second


def test_the_account_may_do_nothing_but_read_pods_and_write_events() -> None:
    role = plain().of("ClusterRole")["rules"]
    assert role == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
    ]


def test_two_installations_share_no_name_and_no_selector() -> None:
    one, other = render(EVERYTHING, release="one"), render(EVERYTHING, release="two")

    def names(rendered: Rendered) -> set[tuple[str, str]]:
        return {(entry["kind"], entry["metadata"]["name"]) for entry in rendered.objects}

    assert not names(one) & names(other)
    selectors = [rendered.of("DaemonSet")["spec"]["selector"]["matchLabels"] for rendered in (one, other)]
    assert selectors[0] != selectors[1]


def test_exported_labels_are_kept_by_prometheus() -> None:
    endpoints = render(apis=(MONITORING,)).of("ServiceMonitor")["spec"]["endpoints"]
    assert {endpoint["port"]: endpoint.get("honorLabels", False) for endpoint in endpoints} == {
        "mgdp-metrics": False,
        "exporter": True,
    }


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"imagee": {}}, "imagee"),
        ({"image": {"repositry": "x"}}, "repositry"),
        ({"config": {"memoryEnforcr": True}}, "memoryEnforcr"),
        ({"config": {"deviceSharing": [{"resourceName": "a/b", "metagpusPerGPU": 3}]}}, "metagpusPerGPU"),
        ({"config": {"deviceSharing": [{"metagpusPerGpu": 3}]}}, "resourceName"),
        ({"config": {"allocator": {"plugin": "first-fit"}}}, "allocator/plugin|allocator.plugin"),
        ({"config": {"deviceManager": {"deviceCacheTTL": "1h"}}}, "deviceCacheTTL"),
        ({"config": {"deviceManager": {"quickLookPeriod": 0}}}, "quickLookPeriod"),
        ({"config": {"mgctl": {"hostMount": {"hostPath": "var/lib"}}}}, "hostPath"),
        ({"config": {"health": {"xids": {"31": "never"}}}}, "31"),
        ({"exporter": {"serviceMonitor": {"enabled": "yes"}}}, "enabled"),
        ({"service": {"ports": {"grpc": 70000}}}, "grpc"),
        ({"resources": {"limit": {}}}, "limit"),
        ({"securityContext": {"priviledged": True}}, "priviledged"),
        ({"updateStrategy": {"rollingUpdate": {"maxSurge": 1}}}, "maxSurge"),
        ({"livenessProbe": {"period": 3}}, "period"),
        ({"tolerations": {"key": "gpu"}}, "tolerations"),
    ],
)
def test_the_schema_refuses_and_names_the_key(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(Refused, match=complaint):
        render(values)


@pytest.mark.parametrize(
    ("dotted", "complaint"),
    [
        ({"config.deviceApi.address": "0.0.0.0:9000"}, "service.ports.grpc: is 50052, and the address says port 9000"),
        ({"config.grpcSecurity.jwtSecret": "x", "keysSecret.create": False}, "config.grpcSecurity.jwtSecret: is set, and"),
        (
            {"config.grpcSecurity.deviceToken": "x", "config.grpcSecurity.deviceTokenFile": "/y"},
            "config.grpcSecurity.deviceTokenFile: contradicts",
        ),
        ({"config.mgctl.hostMount.hostPath": "/usr/bin/"}, 'hostPath: "/usr/bin/" is a directory of the system'),
    ],
)
def test_contradictions_are_refused_with_the_key_and_the_way_out(dotted: dict[str, Any], complaint: str) -> None:
    with pytest.raises(Refused, match=re.escape(complaint)):
        render(tree(dotted))


def test_lint_has_nothing_to_say_against_it() -> None:
    assert "0 chart(s) failed" in run_helm("lint", str(CHART), "--strict")
