"""The manifests for people without Helm are what the chart renders, and hold no secret."""

from pathlib import Path

import pytest
import yaml

from tests.chart.build import locate_helm
from tests.chart.generator import generator
from tests.needs import skipped_where_missing

STATIC = Path(__file__).parents[2] / "chart" / "static"


@pytest.mark.e2e
@pytest.mark.parametrize("name", generator.STATIC)
def test_a_static_manifest_is_what_the_chart_renders(name: str) -> None:
    with skipped_where_missing():
        helm = locate_helm()
    assert (STATIC / name).read_text() == generator.static(helm, name), "run `just chart`"


def test_there_is_no_other_static_manifest() -> None:
    assert {path.name for path in STATIC.iterdir()} == set(generator.STATIC)


def test_static_manifests_hold_no_key_which_everybody_would_know() -> None:
    for path in STATIC.iterdir():
        assert "Secret" not in {entry["kind"] for entry in yaml.safe_load_all(path.read_text()) if entry}


def test_static_manifests_need_nothing_that_is_not_in_them() -> None:
    """The namespace comes first, and whatever the pod refers to is there."""
    objects = [entry for entry in yaml.safe_load_all((STATIC / "mortalgpu.yaml").read_text()) if entry]
    assert objects[0]["kind"] == "Namespace"
    assert objects[0]["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "privileged"}
    names = {(entry["kind"], entry["metadata"]["name"]) for entry in objects}
    pod = next(entry for entry in objects if entry["kind"] == "DaemonSet")["spec"]["template"]["spec"]
    assert ("ServiceAccount", pod["serviceAccountName"]) in names
    assert {("ConfigMap", volume["configMap"]["name"]) for volume in pod["volumes"] if "configMap" in volume} <= names
    assert not [volume for volume in pod["volumes"] if "secret" in volume]
