"""A whole cluster of one node: etcd, kube-apiserver, kubelet, containerd; only scheduler and controllers are missing.

The test is the scheduler: it creates pods that name their node. kubelet runs them, and tells the API of them, as anywhere.
"""

import json
from pathlib import Path
from typing import Any

from tests.e2e.apiserver.control_plane import ControlPlane
from tests.e2e.node import NODE_NAME, Node
from tests.e2e.pods import Pod, manifest
from tests.e2e.waiting import eventually

PODS = "/api/v1/namespaces/default/pods"


def node_of(plane: ControlPlane) -> Node:
    """Return a node, not started, whose kubelet registers with the control plane as an administrator."""
    kubeconfig = plane.folder / "kubeconfig"
    kubeconfig.write_text(json.dumps(_kubeconfig(plane)))
    return Node(settings={"nodeStatusUpdateFrequency": "1s"}, flags=["--kubeconfig", kubeconfig])


def access(plane: ControlPlane, folder: Path) -> dict[str, str]:
    """Return the daemon's `kubernetes` section: a service account that may do only what the daemon needs."""
    plane.make_account()
    plane.grant()
    token = folder / "token"
    token.write_text(plane.token())
    return {"apiServer": plane.url, "caFile": str(plane.certificate), "tokenFile": str(token)}


def create(plane: ControlPlane, pod: Pod) -> str:
    """Create the pod in the API, already on our node; returns its UID."""
    body = manifest(pod)
    body["spec"]["nodeName"] = NODE_NAME
    return str(plane.call("POST", PODS, body)["metadata"]["uid"])


def annotate(plane: ControlPlane, name: str, **annotations: str) -> None:
    """Change annotations of a pod."""
    plane.call("PATCH", f"{PODS}/{name}", {"metadata": {"annotations": annotations}}, "application/merge-patch+json")


def allocatable(plane: ControlPlane, *resources: str) -> dict[str, int]:
    """Return what the node object says can be allocated of the resources; empty before there is one."""
    nodes = plane.call("GET", "/api/v1/nodes")["items"]
    told = nodes[0]["status"].get("allocatable", {}) if nodes else {}
    return {name: int(told[name]) for name in resources if name in told}


def event_on(plane: ControlPlane, pod: str, reason: str, *, seconds: float = 20) -> dict[str, Any]:
    """Wait for an Event on the pod with that reason, and return it."""

    def found() -> dict[str, Any] | None:
        told = [each for each in plane.events() if each["reason"] == reason]
        return next((each for each in told if each["involvedObject"]["name"] == pod), None)

    event = eventually(f"an Event {reason} on {pod}", found, seconds=seconds)
    assert event is not None
    return event


def _kubeconfig(plane: ControlPlane) -> dict[str, Any]:
    cluster = {"server": plane.url, "certificate-authority": str(plane.certificate)}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "cluster", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": plane.admin_token}}],
        "contexts": [{"name": "context", "context": {"cluster": "cluster", "user": "admin"}}],
        "current-context": "context",
    }
