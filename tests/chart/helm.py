"""Render the chart with the real Helm, and find objects in what comes out."""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.chart.build import locate_helm

CHART = Path(__file__).parents[2] / "chart"
MONITORING = "monitoring.coreos.com/v1"

Tree = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rendered:
    """The objects of one rendering."""

    objects: tuple[Tree, ...]

    def kinds(self) -> set[str]:
        return {entry["kind"] for entry in self.objects}

    def of(self, kind: str) -> Tree:
        """Return the one object of that kind; raises ValueError when there is none, or are several."""
        (found,) = (entry for entry in self.objects if entry["kind"] == kind)
        return found

    @property
    def pod(self) -> Tree:
        """The DaemonSet's pod."""
        spec: Tree = self.of("DaemonSet")["spec"]["template"]["spec"]
        return spec

    @property
    def container(self) -> Tree:
        (only,) = self.pod["containers"]
        found: Tree = only
        return found

    @property
    def env(self) -> dict[str, str]:
        return {entry["name"]: entry.get("value", "") for entry in self.container["env"]}

    @property
    def config(self) -> Tree:
        """The configuration that the daemon reads."""
        tree: Tree = yaml.safe_load(self.of("ConfigMap")["data"]["config.yaml"])
        return tree

    @property
    def ports(self) -> dict[str, int]:
        return {entry["name"]: entry["port"] for entry in self.of("Service")["spec"]["ports"]}

    @property
    def mounts(self) -> dict[str, str]:
        """Path on the host → path in the container."""
        hosts = {volume["name"]: volume["hostPath"]["path"] for volume in self.pod["volumes"] if "hostPath" in volume}
        return {hosts[mount["name"]]: mount["mountPath"] for mount in self.container["volumeMounts"] if mount["name"] in hosts}


class Refused(Exception):
    """Helm did not take the values; the text is what it said."""


def render(values: Mapping[str, Any] | None = None, *, release: str = "gpu", apis: tuple[str, ...] = ()) -> Rendered:
    """Render the chart with these values over its defaults. Raises Refused."""
    words = [word for api in apis for word in ("--api-versions", api)]
    text = run_helm(
        "template", release, str(CHART), "--namespace", "team", "--values", "-", *words, stdin=yaml.safe_dump(values)
    )
    return Rendered(tuple(entry for entry in yaml.safe_load_all(text) if entry))


def run_helm(*words: str, stdin: str = "", env: Mapping[str, str] | None = None) -> str:
    """Run Helm and return its output. Raises Refused with its complaint."""
    command = [str(locate_helm()), *words]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=120, env=env)
    if done.returncode:
        raise Refused(done.stderr)
    return done.stdout
