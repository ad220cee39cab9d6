"""A containerd of the test's own, in a private mount namespace that kubelet shares, with our images and no network plugin.

What is odd here and why: /var/lib/kubelet and /var/log are folders of the test inside the namespace; three kernel settings that
kubelet insists on are shown to it as files, and nothing is changed for real; OOM scores stay as they are, for want of rights.
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.build import box_image_path, find_program, pause_image_path
from tests.e2e.cgroups import Subtree
from tests.e2e.images import PAUSE_IMAGE
from tests.e2e.process import Process
from tests.e2e.waiting import eventually

SETTINGS = {"vm/overcommit_memory": "1", "kernel/panic": "10", "kernel/panic_on_oops": "1"}
CONFIG = """version = 2
root = "{folder}/root"
state = "{folder}/state"
oom_score = 0
disabled_plugins = [{disabled}]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  disable_tcp_service = true
  stream_server_address = "127.0.0.1"
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{folder}/cni"
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
    SystemdCgroup = false
"""
DISABLED = ("snapshotter.v1.btrfs", "snapshotter.v1.zfs", "snapshotter.v1.aufs", "snapshotter.v1.devmapper", "internal.v1.opt")


class Containerd:
    """containerd under `folder`; its socket is `socket`. Needs root."""

    def __init__(self, folder: Path, kubelet_root: Path, subtree: Subtree) -> None:
        self.folder = folder
        self.kubelet_root = kubelet_root
        self.subtree = subtree
        self.socket = folder / "containerd.sock"
        self._namespace: Process | None = None
        self._process: Process | None = None

    def start(self) -> None:
        """Make the namespace, start containerd, import the images. Raises AssertionError, CalledProcessError."""
        for name in ("root", "state", "cni", "pods-log", "containers-log"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._enter_namespace()
        disabled = ", ".join(f'"io.containerd.{name}"' for name in DISABLED)
        settings = CONFIG.format(folder=self.folder, socket=self.socket, pause=PAUSE_IMAGE, disabled=disabled)
        (self.folder / "config.toml").write_text(settings)
        self._process = self.spawn(
            "containerd", ["containerd", "-c", self.folder / "config.toml"], self.folder / "containerd.log"
        )
        eventually("containerd's socket", self._answers, seconds=20)
        for image in (pause_image_path(), box_image_path()):
            self.ctr("images", "import", str(image))

    def spawn(self, name: str, argv: Sequence[object], log: Path) -> Process:
        """Start a daemon in the namespace and in the test's cgroup."""
        # The shell joins the cgroup before it becomes the daemon, so that nothing the daemon starts can be missed.
        join = f'echo $$ > "{self.subtree.daemons_listing}" && exec "$@"'
        env = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin", "NO_PROXY": "*"}
        env |= {"AWS_EC2_METADATA_DISABLED": "true"}  # or an old kubelet asks a cloud's metadata address at its start
        return Process(name, [*self._inside(), "/bin/sh", "-c", join, "sh", *argv], log, env=env)

    def ctr(self, *words: str, timeout_seconds: float = 60) -> str:
        """Run `ctr` on kubelet's containers and return its output. Raises CalledProcessError, TimeoutExpired."""
        command = [*self._inside(), "ctr", "-a", str(self.socket), "-n", "k8s.io", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_seconds)
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, ["ctr", *words], done.stdout, done.stderr)
        return done.stdout

    def tasks(self) -> dict[str, int]:
        """Return the pid of each running container, by container id."""
        rows = [line.split() for line in self.ctr("tasks", "ls").splitlines()[1:]]
        return {row[0]: int(row[1]) for row in rows if row[2] == "RUNNING"}

    def kill(self) -> None:
        """Kill containerd; containers keep running."""
        assert self._process is not None
        self._process.kill()

    def restart(self) -> None:
        """Kill containerd, if it runs, and start it again; containers keep running."""
        self.kill()
        assert self._process is not None
        self.socket.unlink(missing_ok=True)
        self._process = self.spawn("containerd", ["containerd", "-c", self.folder / "config.toml"], self._process.log_path)
        eventually("containerd's socket", self._answers, seconds=20)

    def stop(self) -> None:
        """End containers, containerd and the namespace, whatever state they are in."""
        if self._process is not None:
            self._process.kill()
        self.subtree.remove()
        if self._namespace is not None:
            self._namespace.kill()

    def _answers(self) -> bool:
        try:
            self.ctr("version")
        except subprocess.CalledProcessError:
            return False
        return True

    def _inside(self) -> list[str]:
        assert self._namespace is not None
        return [find_program("nsenter") or "nsenter", "-m", "-t", str(self._namespace.pid), "--"]

    def _enter_namespace(self) -> None:
        lines = ["set -e", "mkdir -p /var/lib/kubelet /var/log/pods /var/log/containers"]
        lines += [f'mount --bind "{self.kubelet_root}" /var/lib/kubelet', "mount --make-rshared /var/lib/kubelet"]
        for number, (setting, value) in enumerate(SETTINGS.items()):
            shown = self.folder / f"setting-{number}"
            shown.write_text(f"{value}\n")
            lines.append(f'mount --bind "{shown}" /proc/sys/{setting}')
        lines += [f'mount --bind "{self.folder}/{name}-log" /var/log/{name}' for name in ("pods", "containers")]
        lines += [f'touch "{self.folder}/namespace-ready"', "exec sleep infinity"]
        script = "\n".join(lines)
        unshare = ["unshare", "-m", "--propagation", "private", "/bin/sh", "-c", script]
        self._namespace = Process("mount namespace", unshare, self.folder / "namespace.log")
        eventually("the mount namespace", (self.folder / "namespace-ready").exists, seconds=10)
