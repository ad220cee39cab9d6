"""A private containerd, and the few CRI calls by which kubelet makes pods.

By grpcio and a hand-made encoding, so that nothing of ours stands between the test and the runtime.
"""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc

from tests.e2e.build import box_image_path, find_program, pause_image_path
from tests.e2e.images import BOX_IMAGE, PAUSE_IMAGE
from tests.e2e.process import Process
from tests.e2e.waiting import eventually

CONFIG = """\
version = 2
root = "{folder}/root"
state = "{folder}/state"
oom_score = 0
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "{folder}/c.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  disable_tcp_service = true
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{folder}/cni/bin"
    conf_dir = "{folder}/cni/conf"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""
CGROUPS = Path("/sys/fs/cgroup")
HOST_NAMESPACE = 2

Fields = Mapping[int, Any]
"""A protobuf message by field numbers: text, numbers, lists for repeated fields, other such mappings, and `pairs` for maps."""


def pairs(entries: Mapping[str, str]) -> list[Fields]:
    return [{1: key, 2: text} for key, text in entries.items()]


def encode(message: Fields) -> bytes:
    encoded = b""
    for number, value in message.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, int):
                encoded += _varint(number << 3) + _varint(each)
            else:
                body = each.encode() if isinstance(each, str) else encode(each)
                encoded += _varint(number << 3 | 2) + _varint(len(body)) + body
    return encoded


def _varint(number: int) -> bytes:
    low, high = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(high) if high else bytes([low])


class Containerd:
    """Runs in `folder`, whose path must be short. Cgroups of its containers lie below `cgroup`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "c.sock"
        self.cgroup = f"/{folder.name}"
        self._made: list[str] = []
        self._imported = False
        self._process: Process | None = None

    def start(self) -> None:
        """Start it, or start it again, and wait until it takes CRI calls; import the images the first time."""
        (self.folder / "config.toml").write_text(CONFIG.format(folder=self.folder, pause=PAUSE_IMAGE))
        program = find_program("containerd") or "containerd"
        self._process = Process("containerd", [program, "-c", self.folder / "config.toml"], self.folder / "containerd.log")
        eventually("containerd's CRI", self._answers, seconds=30, every_seconds=0.1)
        if not self._imported:
            self._imported = True
            for image in (pause_image_path(), box_image_path()):
                importing = ["ctr", "-a", str(self.socket), "-n", "k8s.io", "images", "import", str(image)]
                subprocess.run(importing, check=True, capture_output=True)

    def kill(self) -> None:
        """End the daemon; its containers live on."""
        if self._process is not None:
            self._process.kill()

    def clean_up(self) -> None:
        """Remove what was made, also after a test that failed half-way, then end the daemon."""
        if self._made and self._process is not None and not self._process.running:
            self.start()
        for sandbox in list(self._made):
            self.remove_sandbox(sandbox)
        self.kill()
        for base in (CGROUPS, *CGROUPS.iterdir()):
            for path, _, _ in os.walk(base / self.cgroup.strip("/"), topdown=False):
                os.rmdir(path)

    def remove_sandbox(self, sandbox: str) -> None:
        """Stop and remove a pod with its containers, as kubelet does."""
        self.call("StopPodSandbox", {1: sandbox})
        self.call("RemovePodSandbox", {1: sandbox})
        self._made.remove(sandbox)

    def run_sandbox(self, name: str, uid: str, annotations: Mapping[str, str]) -> tuple[str, Fields]:
        """Make a pod's sandbox as kubelet does, in the host's network; returns its id and its configuration."""
        labels = {"io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": "team-a", "io.kubernetes.pod.uid": uid}
        config: Fields = {
            1: {1: name, 2: uid, 3: "team-a"},
            3: str(self.folder / "logs"),
            6: pairs(labels),
            7: pairs(annotations),
            8: {1: f"{self.cgroup}/pod{uid}", 2: {1: {1: HOST_NAMESPACE}}},
        }
        sandbox = self.call("RunPodSandbox", {1: config})
        self._made.append(sandbox)
        return sandbox, config

    def run_container(self, sandbox: str, sandbox_config: Fields, name: str) -> str:
        """Start a sleeping container with kubelet's labels; returns its id."""
        uid, pod = sandbox_config[1][2], sandbox_config[1][1]
        labels = {"io.kubernetes.container.name": name, "io.kubernetes.pod.uid": uid, "io.kubernetes.pod.name": pod}
        config: Fields = {1: {1: name}, 2: {1: BOX_IMAGE}, 3: ["/bin/sleep", "1000000"], 9: pairs(labels), 11: f"{name}.log"}
        container = self.call("CreateContainer", {1: sandbox, 2: config, 3: sandbox_config})
        self.call("StartContainer", {1: container})
        return container

    def call(self, method: str, request: Fields) -> str:
        """Call the RuntimeService; returns field 1 of the answer when it is a text, else "". Raises grpc.RpcError."""
        with grpc.insecure_channel(f"unix:{self.socket}") as channel:
            answer: bytes = channel.unary_unary(f"/runtime.v1.RuntimeService/{method}")(encode(request), timeout=30)
        return answer[2 : 2 + answer[1]].decode() if answer[:1] == b"\x0a" else ""

    def _answers(self) -> bool:
        try:
            return self.call("Version", {}) != ""
        except grpc.RpcError:
            return False
