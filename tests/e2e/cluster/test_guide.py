"""GUIDE.md's commands, followed literally on a cluster: install, look, change, and at last uninstall.

Only the file of values is the test's (its node has no real GPU), and the state directory's path.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.chart.guide import blocks, commands
from tests.chart.helm import CHART
from tests.e2e.cluster.cluster import Cluster
from tests.e2e.cluster.release import Release, workload
from tests.e2e.daemon import EXAMPLE_COUNTS
from tests.e2e.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.slow]


def follow(cluster: Cluster, release: Release, section: str) -> str:
    """Run a section's commands in a folder with the chart and a file of values; return what they print."""
    folder = cluster.folder / "desk"
    if not folder.exists():
        folder.mkdir()
        (folder / "chart").symlink_to(CHART)
    (folder / "my-values.yaml").write_text(yaml.safe_dump(release.values()))
    environment = cluster.environment()
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    script = commands(section).replace("/var/lib/mortalgpu", str(release.state))
    done = subprocess.run(
        ["bash", "-e"], input=script, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installation(cluster: Cluster, release: Release) -> str:
    """Install as the guide says, start a pod that holds shares, and return what the guide's commands printed."""
    said = follow(cluster, release, "With Helm")
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(workload("notebook", 40)))
    cluster.kubectl("rollout", "status", "deployment/notebook", "--timeout=60s")
    return said


def test_install_with_helm(installation: str) -> None:
    assert 'daemon set "mortalgpu" successfully rolled out' in installation
    for resource in EXAMPLE_COUNTS:
        assert resource in installation


def test_what_users_type_in_their_container(cluster: Cluster, installation: str) -> None:
    for line in commands("For notebook users").splitlines():
        once = ["--count", "1"] if line == "mgctl top" else []
        assert cluster.kubectl("exec", "deployment/notebook", "--", "/usr/bin/mgctl", *line.split()[1:], *once), line


def test_look_at_a_node(cluster: Cluster, release: Release, installation: str) -> None:
    said = follow(cluster, release, "Monitor")
    assert "notebook" in said, "root of the node sees every pod"


def test_change_and_upgrade(cluster: Cluster, release: Release, installation: str) -> None:
    said = follow(cluster, release, "Change and upgrade")
    assert "my-values.yaml: good" in said
    assert 'daemon set "mortalgpu" successfully rolled out' in said


def test_pods_of_the_guide_are_taken_by_the_api_server(cluster: Cluster) -> None:
    runtime = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "nvidia"}, "handler": "runc"}
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(runtime))
    for block in blocks():
        if block.first_line == "# Pod":
            cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=block.text)


def test_uninstall(cluster: Cluster, release: Release, installation: str) -> None:
    assert "uninstalled" in follow(cluster, release, "Uninstall")
    eventually("the daemon to be gone", lambda: not cluster.get("pods", "-n", "mortalgpu"), seconds=20, every_seconds=0.5)
    assert (release.state / "mgctl").is_dir()
    (notebook,) = cluster.get("pods", "-l", "app=notebook")
    assert notebook["status"]["phase"] == "Running"
