"""What GUIDE.md shows can be used as it stands: values, pods, profiles, snippets, links and words of ours."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mortalgpu import configfile, wiring
from mortalgpu.config import check
from mortalgpu.deviceplugin import servicer
from mortalgpu.enforcer import wording
from mortalgpu.exporter import names
from mortalgpu.scan import news
from tests.chart.build import locate_helm
from tests.chart.generator import generator
from tests.chart.guide import GUIDE, blocks
from tests.chart.helm import render
from tests.needs import skipped_where_missing

ROOT = GUIDE.parent
DOCUMENTS = ("GUIDE.md", "SECURITY.md", "chart/README.md", "README.md", "ARCHITECTURE.md")
NAMED_VALUE = re.compile(r"`((?:config|keysSecret|exporter|networkPolicy|image|enforcer|deviceApi)\.(?!yaml)[\w.]+)")
VALUES = [block for block in blocks() if block.first_line == "# my-values.yaml"]
PODS = [yaml.safe_load(block.text) for block in blocks() if block.first_line == "# Pod"]


def section(block: Any) -> str:
    return str(block.section)


@pytest.mark.parametrize("block", VALUES, ids=section)
def test_values_are_taken_by_the_daemon(block: Any, tmp_path: Path) -> None:
    path = tmp_path / "my-values.yaml"
    path.write_text(block.text if "config:" in block.text else block.text + "config: {}\n")
    config = configfile.load(str(path), {})
    check(config)
    assert wiring.share_rules(config)


@pytest.mark.e2e
@pytest.mark.parametrize("block", VALUES, ids=section)
def test_values_are_taken_by_the_chart(block: Any) -> None:
    with skipped_where_missing():
        locate_helm()
    assert render(yaml.safe_load(block.text), release="mortalgpu").of("DaemonSet")


def test_every_yaml_block_says_what_it_is() -> None:
    kinds = {block.first_line for block in blocks() if block.language == "yaml"}
    assert kinds == {"# my-values.yaml", "# Pod", "# JupyterHub"}


def test_pods_ask_for_resources_that_the_values_offer() -> None:
    offered = {entry["resourceName"] for block in VALUES for entry in sharing(yaml.safe_load(block.text))}
    for pod in PODS:
        (container,) = pod["spec"]["containers"]
        assert set(container["resources"]["limits"]) - {"cpu", "memory"} <= offered
        for annotation in pod["metadata"].get("annotations", {}):
            assert annotation.removeprefix("gpu-mem-limit.") in offered


def sharing(values: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = values.get("config", {}).get("deviceSharing", [])
    return found


def test_a_profile_guarantees_what_it_limits() -> None:
    (hub,) = (yaml.safe_load(block.text) for block in blocks() if block.first_line == "# JupyterHub")
    overrides = [profile.get("kubespawner_override") for profile in hub["singleuser"]["profileList"]]
    assert [each for each in overrides if each and each["extra_resource_limits"] != each["extra_resource_guarantees"]] == []
    assert sum(each is not None for each in overrides) == 2


def test_snippets_for_users_are_python_and_read_the_variable_that_containers_get() -> None:
    for block in blocks():
        if block.language == "python":
            ast.parse(block.text)
            assert "METAGPU_MAX_MEM" in block.text


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    path = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if target.startswith(("http", "mailto")):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, target


def test_metrics_that_documents_name_exist() -> None:
    known = {metric.name for metric in (*names.GPU_PAGE, *names.DAEMON_PAGE, *names.METAGPU_METRICS)}
    for name in DOCUMENTS:
        text = (ROOT / name).read_text()
        named = set(re.findall(r"`(mortalgpu_[a-z_]+)`", text))
        assert named <= known, f"{name}: {named - known}"


def test_values_that_the_guide_names_exist() -> None:
    known = {row.path.removeprefix("config.") for row in generator.rows()} | {row.path for row in generator.rows()}
    for key in NAMED_VALUE.findall(GUIDE.read_text()):
        section = key.rstrip(".")
        assert any(path == section or path.startswith(f"{section}.") for path in known), key


def test_event_reasons_that_the_guide_names_are_ours() -> None:
    reasons = {wording.REASON_OVER, wording.REASON_FOREIGN, wording.REASON_STUCK, news.UNHEALTHY, news.LAYOUT_WAITS}
    assert set(re.findall(r"`(Gpu[A-Za-z]+)`", GUIDE.read_text())) == reasons


def test_sentences_that_the_guide_quotes_are_the_daemons() -> None:
    source = "".join(path.read_text() for path in (ROOT / "mortalgpu" / "allocator").glob("*.py"))
    source += Path(servicer.__file__).read_text()
    for quoted in ("the largest free room on", "splitting over devices is off (allocator.noSplit)", "is unhealthy"):
        assert quoted in source
    assert "is on a device that is not shared under this name on this node" in source


def test_the_proofs_that_the_security_page_names_are_there() -> None:
    named = re.findall(r"`(tests/[^`]+)`", (ROOT / "SECURITY.md").read_text())
    assert len(named) > 8
    assert [name for name in named if not list(ROOT.glob(name))] == []
