"""A cluster of one node on loopback, started and ended by a test; `kubectl` and `helm` work on it as an administrator's would.

The node is called localhost, so that the API server finds its kubelet on loopback. Pods have a network of their own with
nothing in it (a network plugin of a few lines of shell), or the host's; there is no kube-proxy and no DNS.
"""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.chart.build import locate_helm
from tests.e2e.apiserver.build import locate as locate_plane
from tests.e2e.apiserver.control_plane import ControlPlane
from tests.e2e.cluster.build import locate, program_path
from tests.e2e.node import Node
from tests.e2e.process import Process
from tests.e2e.waiting import eventually
from tests.ports import free_port
from tests.started import Started

NODE_NAME = "localhost"
NETWORK_PLUGIN = """#!/bin/sh
# A network plugin for pods that need no network: the namespace is left as it is, and an address is named.
case "$CNI_COMMAND" in
VERSION) echo '{"cniVersion": "0.4.0", "supportedVersions": ["0.3.1", "0.4.0"]}' ;;
ADD) printf '{"cniVersion": "0.4.0", "interfaces": [{"name": "%s", "sandbox": "%s"}], ' "$CNI_IFNAME" "$CNI_NETNS"
     echo '"ips": [{"version": "4", "interface": 0, "address": "10.244.0.2/24"}]}' ;;
esac
"""
NETWORK = {"cniVersion": "0.4.0", "name": "nothing", "plugins": [{"type": "nothing"}]}


class ClusterPlane(ControlPlane):
    """A control plane as a cluster has it: pods get service accounts, some may be privileged, kubelet shows logs."""

    flags = ("--allow-privileged=true", "--kubelet-preferred-address-types=Hostname")


class Cluster(Started):
    """Everything below a short folder of its own; `stop` ends and removes all of it. Needs root, and the main thread."""

    def __init__(self) -> None:
        """Look for everything it needs. Raises Missing."""
        locate()
        locate_plane()
        self.helm_path = locate_helm()
        self.folder = Path(tempfile.mkdtemp(prefix="mg-"))
        self.plane = ClusterPlane(self.folder)
        self.kubeconfig = self.folder / "kubeconfig"
        settings = {"runtimeRequestTimeout": "1m", "syncFrequency": "5s", "nodeStatusUpdateFrequency": "2s"}
        self.node = Node(settings=settings, flags=["--kubeconfig", self.kubeconfig, "--hostname-override", NODE_NAME])
        self.controllers: list[Process] = []

    def start(self) -> None:
        """Start every part and wait until the node is ready for pods. Raises AssertionError with a log's end."""
        self.plane.start()
        self._write_kubeconfig()
        self._start_controllers()
        self._write_network()
        self.node.start()
        eventually("the node to be ready", self._node_ready, seconds=60, every_seconds=0.2)
        eventually("the default service account", self._has_default_account, seconds=30, every_seconds=0.2)

    def stop(self) -> None:
        """End it all, in an order in which nothing restarts what another ends."""
        for process in self.controllers:
            process.kill()
        self.node.stop()
        self.plane.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def kubectl(self, *words: str, stdin: str = "", seconds: float = 90, fine: tuple[int, ...] = (0,)) -> str:
        """Run kubectl and return its output. Raises AssertionError with its complaint unless its exit code is `fine`."""
        return self._run([str(program_path("kubectl")), *words], stdin, seconds, fine)

    def helm(self, *words: str, stdin: str = "", seconds: float = 120) -> str:
        """Run Helm and return its output. Raises AssertionError with its complaint."""
        return self._run([str(self.helm_path), *words], stdin, seconds)

    def get(self, *words: str) -> Any:
        """Return what `kubectl get … -o json` says; for a list its items."""
        found = json.loads(self.kubectl("get", *words, "-o", "json"))
        return found["items"] if found["kind"] == "List" else found

    def environment(self) -> dict[str, str]:
        """The environment in which a person's commands work on this cluster."""
        programs = f"{program_path('kubectl').parent}:{self.helm_path.parent}"
        own = {"KUBECONFIG": str(self.kubeconfig), "PATH": f"{programs}:{os.environ.get('PATH', '')}", "HOME": str(self.folder)}
        return {**os.environ, **own}

    def _run(self, command: list[str], stdin: str, seconds: float, fine: tuple[int, ...] = (0,)) -> str:
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, check=False, timeout=seconds, env=self.environment()
        )
        assert done.returncode in fine, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _write_kubeconfig(self) -> None:
        cluster = {"server": self.plane.url, "certificate-authority": str(self.plane.certificate)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": self.plane.admin_token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
            "current-context": "test",
        }
        self.kubeconfig.write_text(json.dumps(config))
        self.kubeconfig.chmod(0o600)

    def _start_controllers(self) -> None:
        common = ["--kubeconfig", self.kubeconfig, "--leader-elect=false", "--bind-address=127.0.0.1"]
        keys = [
            f"--service-account-private-key-file={self.folder / 'sa.key'}",
            f"--root-ca-file={self.plane.certificate}",
            f"--cert-dir={self.folder / 'certs-manager'}",
        ]
        for name, more in (("kube-scheduler", []), ("kube-controller-manager", keys)):
            argv = [program_path(name), *common, f"--secure-port={free_port()}", *more]
            self.controllers.append(Process(name, argv, self.folder / f"{name}.log"))

    def _write_network(self) -> None:
        folder = self.node.folder / "containerd" / "cni"
        folder.mkdir(parents=True)
        for name in ("nothing", "loopback"):
            (folder / name).write_text(NETWORK_PLUGIN)
            (folder / name).chmod(0o755)
        (folder / "10-nothing.conflist").write_text(json.dumps(NETWORK))

    def _node_ready(self) -> bool:
        for process in self.controllers:
            assert process.running, f"{process.name} ended:\n{process.log()[-3000:]}"
        nodes = self.get("nodes")
        ready = [one["status"] for node in nodes for one in node["status"]["conditions"] if one["type"] == "Ready"]
        return ready == ["True"] and "taints" not in nodes[0]["spec"]

    def _has_default_account(self) -> bool:
        return "default" in self.kubectl("get", "serviceaccounts", "-o", "name")
