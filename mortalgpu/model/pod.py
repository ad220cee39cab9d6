"""Pods and containers as the cluster and kubelet know them.

Identity is never a name that a tenant can choose: containers are told apart by the runtime's container id and the pod's
UID, which come from the kernel (cgroup), the runtime and the API server.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ContainerRef:
    """Where a process runs, read from its cgroup: the pod UID (dashes, lower case) and the 64-hex container id."""

    pod_uid: str
    container_id: str


@dataclass(frozen=True, slots=True)
class Container:
    """One container of a pod on this node. `container_id` is the bare 64-hex id, without a `containerd://` scheme."""

    name: str
    container_id: str
    running: bool = True


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod on this node.

    `uid` is the one in the cgroup path: for a static pod the config hash, not the mirror pod's own uid, which is
    `api_uid` (what an Event must name).
    """

    uid: str
    name: str
    namespace: str
    containers: tuple[Container, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    api_uid: str = ""
    finished: bool = False
    """True once the phase is Succeeded or Failed: it can hold nothing any more."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What kubelet says a container holds: meta-device ids by resource, for our resources only.

    An empty mapping says that it certainly holds nothing, while a container of the same pod does.
    """

    pod_name: str
    pod_namespace: str
    container_name: str
    meta_devices: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class PodNote:
    """A message to a pod's owner: becomes a Kubernetes Event on the pod."""

    reason: str
    message: str
    warning: bool = True
