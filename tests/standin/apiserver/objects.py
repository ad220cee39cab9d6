"""Pod objects as the Kubernetes API writes them."""

from typing import Any

JsonObject = dict[str, Any]


def container_status(name: str, container_id: str, *, running: bool = True, scheme: str = "containerd") -> JsonObject:
    state = (
        {"running": {"startedAt": "2026-01-01T00:00:00Z"}} if running else {"terminated": {"exitCode": 137, "reason": "Error"}}
    )
    shown = f"{scheme}://{container_id}" if container_id else ""
    return {"name": name, "containerID": shown, "state": state, "ready": running, "image": "box", "restartCount": 0}


def pod_object(
    name: str,
    *,
    uid: str = "",
    namespace: str = "default",
    node: str = "node-1",
    phase: str = "Running",
    annotations: dict[str, str] | None = None,
    containers: list[JsonObject] | None = None,
    init: list[JsonObject] | None = None,
    ephemeral: list[JsonObject] | None = None,
) -> JsonObject:
    metadata: JsonObject = {"name": name, "namespace": namespace, "uid": uid or f"uid-of-{name}", "labels": {"app": name}}
    if annotations is not None:
        metadata["annotations"] = annotations
    status: JsonObject = {"phase": phase, "hostIP": "10.0.0.1"}
    if containers is not None:
        status["containerStatuses"] = containers
    if init is not None:
        status["initContainerStatuses"] = init
    if ephemeral is not None:
        status["ephemeralContainerStatuses"] = ephemeral
    spec = {"nodeName": node, "containers": [{"name": "main", "image": "box"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status}
