"""The API server takes what the chart renders, whatever the values: every row of the values' table, by server-side dry run."""

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.chart.build import locate_helm
from tests.chart.helm import MONITORING, Rendered, Tree, render
from tests.chart.table import CONFIG_VALUES, ROWS, tree
from tests.e2e.cluster.build import locate, program_path
from tests.e2e.cluster.cluster import ClusterPlane
from tests.needs import skipped_where_missing

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

FOREIGN_KINDS = {
    "ServiceMonitor": ("servicemonitors", "monitoring.coreos.com/v1", "Namespaced"),
    "PrometheusRule": ("prometheusrules", "monitoring.coreos.com/v1", "Namespaced"),
    "SecurityContextConstraints": ("securitycontextconstraints", "security.openshift.io/v1", "Cluster"),
}


def definition(kind: str) -> Tree:
    """The kind as a server knows it that takes any object of it: its real schema is not ours to copy."""
    plural, api, scope = FOREIGN_KINDS[kind]
    group, version = api.split("/")
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": scope,
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [{"name": version, "served": True, "storage": True, "schema": schema}],
        },
    }


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterPlane]:
    with skipped_where_missing():
        locate()
        locate_helm()
        made = ClusterPlane(tmp_path_factory.mktemp("plane"))
    try:
        made.start()
        made.call("POST", "/api/v1/namespaces", {"metadata": {"name": "team"}})
        kubectl(made, "apply", "-f", "-", objects=[definition(kind) for kind in FOREIGN_KINDS])
        kubectl(made, "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        yield made
    finally:
        made.stop()


def kubectl(plane: ClusterPlane, *words: str, objects: list[Tree] | None = None) -> str:
    access = [f"--server={plane.url}", f"--token={plane.admin_token}", f"--certificate-authority={plane.certificate}"]
    text = "\n---\n".join(json.dumps(entry) for entry in objects or [])
    command = [str(program_path("kubectl")), *access, *words]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def variants() -> Iterator[Rendered]:
    """One rendering for each row of the tables, and one of everything at once."""
    for row in ROWS:
        yield render(tree({**row.beside, row.key: row.value}), apis=(MONITORING,))
    for key, value in CONFIG_VALUES.items():
        yield render(tree({f"config.{key}": value}))
    switches = ("scc", "prometheusRule.enabled", "dashboard.enabled", "networkPolicy.enabled", "hostNetwork")
    yield render(tree(dict.fromkeys(switches, True)), apis=(MONITORING,))


def test_the_api_server_takes_every_variant(plane: ClusterPlane) -> None:
    """Objects that several variants have alike are sent once; a generated key does not make them different."""
    different: dict[str, Tree] = {}
    for rendered in variants():
        for entry in rendered.objects:
            known = {**entry, "data": sorted(entry["data"] or ())} if entry["kind"] == "Secret" else entry
            different[json.dumps(known, sort_keys=True)] = entry
    assert {entry["kind"] for entry in different.values()} >= {"DaemonSet", "NetworkPolicy", *FOREIGN_KINDS}
    said = kubectl(plane, "apply", "--dry-run=server", "--validate=strict", "-f", "-", objects=list(different.values()))
    assert len(said.splitlines()) == len(different) > 100


def test_the_api_server_refuses_a_field_that_it_does_not_know(plane: ClusterPlane) -> None:
    """So that the test above means something."""
    wrong = render().of("DaemonSet")
    wrong["spec"]["template"]["spec"]["hostPid"] = True
    with pytest.raises(AssertionError, match="hostPid"):
        kubectl(plane, "apply", "--dry-run=server", "--validate=strict", "-f", "-", objects=[wrong])


def test_a_cluster_that_refuses_privileged_pods_takes_the_daemon_where_the_namespace_has_the_label(plane: ClusterPlane) -> None:
    rendered = render()
    rendered.pod.pop("serviceAccountName")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "daemon", "namespace": "team"}, "spec": rendered.pod}
    plane.call("POST", "/api/v1/namespaces/team/serviceaccounts", {"metadata": {"name": "default"}})
    for level in ("baseline", "privileged"):
        kubectl(plane, "label", "--overwrite", "namespace", "team", f"pod-security.kubernetes.io/enforce={level}")
        if level == "baseline":
            with pytest.raises(AssertionError, match="violates PodSecurity"):
                kubectl(plane, "apply", "--dry-run=server", "-f", "-", objects=[pod])
    assert "created" in kubectl(plane, "apply", "--dry-run=server", "-f", "-", objects=[pod])
