"""Pods as the tests describe them, for the device manager alone and as manifests of static pods."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.images import BOX_IMAGE

SLEEP = ("/bin/sleep", "1000000")


@dataclass(frozen=True, slots=True)
class Container:
    """One container: extended resources (request = limit), and for a real node its command, environment and host folders."""

    name: str = "main"
    resources: Mapping[str, int] = field(default_factory=dict)
    sidecar: bool = False
    """An init container that keeps running."""
    command: tuple[str, ...] = SLEEP
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: Mapping[str, Path] = field(default_factory=dict)
    """Path in the container → folder on the host, mounted read-write."""
    image: str = BOX_IMAGE
    security: Mapping[str, Any] = field(default_factory=dict)
    """Kubernetes' securityContext of the container."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod. `uid` counts for the device manager alone; kubelet makes a static pod's UID from its manifest."""

    name: str
    containers: tuple[Container, ...]
    init_containers: tuple[Container, ...] = ()
    namespace: str = "default"
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    annotations: Mapping[str, str] = field(default_factory=dict)
    restart_policy: str = "Always"


def pod_asking(name: str, **containers: Mapping[str, int]) -> Pod:
    """Return a pod with one container for each keyword, asking for those resources."""
    return Pod(name, tuple(Container(container, resources) for container, resources in containers.items()))


def spec_for_device_manager(pod: Pod) -> dict[str, Any]:
    """Return the JSON form that the device manager's driver reads."""

    def container(spec: Container) -> dict[str, Any]:
        return {"name": spec.name, "resources": dict(spec.resources), "sidecar": spec.sidecar}

    return {
        "uid": pod.uid,
        "name": pod.name,
        "namespace": pod.namespace,
        "init_containers": [container(spec) for spec in pod.init_containers],
        "containers": [container(spec) for spec in pod.containers],
    }


def manifest(pod: Pod) -> dict[str, Any]:
    """Return the static pod's manifest: host network (there is no network plugin), our image, and an end within a second."""
    folders = sorted({str(folder) for spec in (*pod.init_containers, *pod.containers) for folder in spec.mounts.values()})
    volumes = {folder: f"folder-{index}" for index, folder in enumerate(folders)}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod.name, "namespace": pod.namespace, "annotations": dict(pod.annotations)},
        "spec": {
            "hostNetwork": True,
            "restartPolicy": pod.restart_policy,
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "volumes": [{"name": name, "hostPath": {"path": folder, "type": "Directory"}} for folder, name in volumes.items()],
            "initContainers": [_container_manifest(spec, volumes) for spec in pod.init_containers],
            "containers": [_container_manifest(spec, volumes) for spec in pod.containers],
        },
    }


def _container_manifest(spec: Container, volumes: Mapping[str, str]) -> dict[str, Any]:
    counts = {resource: str(count) for resource, count in spec.resources.items()}
    mounts = [{"name": volumes[str(folder)], "mountPath": path} for path, folder in spec.mounts.items()]
    body = {
        "name": spec.name,
        "image": spec.image,
        "imagePullPolicy": "Never",
        "command": list(spec.command),
        "env": [{"name": name, "value": value} for name, value in spec.env.items()],
        "resources": {"limits": counts, "requests": counts},
        "volumeMounts": mounts,
        "securityContext": dict(spec.security),
    }
    return body | ({"restartPolicy": "Always"} if spec.sidecar else {})
