"""The image under test, and values with which the chart runs it on a cluster's only node: loopback, and the driver stand-in."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

from mortalgpu.simulation.driver import worked_example
from tests.e2e.build import Missing
from tests.e2e.cluster.cluster import Cluster
from tests.e2e.daemon import EXAMPLE_SHARING, SHARED
from tests.e2e.images import BOX_IMAGE
from tests.ports import free_ports
from tests.standin.nvml import StateFile, state_of
from tests.standin.nvml import build as build_driver

ROOT = Path(__file__).parents[3]
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
NAMESPACE = "mortalgpu"
RELEASE = "gpu"
DAEMON = "gpu-mortalgpu"
"""The DaemonSet, and what else carries the installation's name."""


def image_path() -> Path:
    """Return the image's archive: build/image.tar, or what MORTALGPU_IMAGE names. Raises Missing."""
    path = Path(os.environ.get("MORTALGPU_IMAGE") or ROOT / "build" / "image.tar")
    if not path.exists():
        raise Missing(f"no image at {path}; run `just image`")
    return path


class Release:
    """What the chart is installed with. `driver` changes what the node's GPU driver says; `ports` are those of its Service."""

    def __init__(self, cluster: Cluster) -> None:
        """Import the image and lay out the driver stand-in. Raises Missing, CalledProcessError."""
        self.cluster = cluster
        self.image = import_image(cluster, image_path())
        folder = cluster.folder / "driver"
        folder.mkdir()
        shutil.copy(build_driver(), folder / "libnvidia-ml.so.1")
        self.driver = StateFile(folder / "nvml.state", state_of(worked_example(1)))
        self.state = cluster.folder / "state"
        self.ports = dict(zip(("grpc", "mgdpMetrics", "exporter"), free_ports(3), strict=True))

    def values(self) -> dict[str, Any]:
        """Return values for `helm install`: a new tree each time, to be changed by the test."""
        repository, _, tag = self.image.rpartition(":")
        folder = str(self.cluster.folder / "driver")
        return {
            "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
            "hostNetwork": True,
            "service": {"ports": dict(self.ports)},
            "extraEnv": [{"name": "MORTALGPU_NVML_STATE", "value": "/driver/nvml.state"}],
            "extraVolumes": [{"name": "driver", "hostPath": {"path": folder, "type": "Directory"}}],
            "extraVolumeMounts": [{"name": "driver", "mountPath": "/driver", "readOnly": True}],
            "config": {
                "deviceSharing": EXAMPLE_SHARING,
                "driver": {"library": "/driver/libnvidia-ml.so.1"},
                "mgctl": {"hostMount": {"hostPath": str(self.state)}},
                "criSocket": f"unix://{self.cluster.node.containerd.socket}",
                "kubernetes": {
                    "apiServer": self.cluster.plane.url,
                    "caFile": f"{ACCOUNT}/ca.crt",
                    "tokenFile": f"{ACCOUNT}/token",
                },
                "deviceApi": {"address": "127.0.0.1:50052"},
                "exporter": {"address": "127.0.0.1:2113", "daemonAddress": "127.0.0.1:2112"},
            },
        }


def import_image(cluster: Cluster, path: Path) -> str:
    """Give the node an image from an archive and return its name."""
    said = cluster.node.containerd.ctr("images", "import", str(path))
    named = re.search(r"^unpacking (\S+)", said, re.MULTILINE)
    assert named is not None, said
    return named[1]


def workload(name: str, shares: int, **more: Any) -> dict[str, Any]:
    """A Deployment of one pod that asks for shares, says its environment and sleeps."""
    resources = {"limits": {SHARED: str(shares)}}
    command = ["/bin/sh", "-c", "env; exec sleep 1000000"]
    main = {"name": "main", "image": BOX_IMAGE, "imagePullPolicy": "Never", "command": command, "resources": resources}
    pod = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [main], "terminationGracePeriodSeconds": 1, **more}}
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": pod}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}
