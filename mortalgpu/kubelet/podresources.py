"""ADAPTER kubelet's pod-resources socket (API v1): which container holds which of our meta-devices.

Each question takes a connection of its own. That costs about a millisecond on a Unix socket, and there is nothing to keep
alive, to notice dying, or to open again: a kubelet that was restarted between two questions makes no difference.
"""

import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from mortalgpu.errors import KubeletError
from mortalgpu.model.pod import Assignment
from mortalgpu.rpc.channel import open_channel
from mortalgpu.rpc.pb.podresources.v1.podresources_pb2 import (
    ContainerResources,
    ListPodResourcesRequest,
    ListPodResourcesResponse,
)
from mortalgpu.rpc.status import Code, RpcError, Unavailable

LIST = "/v1.PodResourcesLister/List"

MAX_ANSWER_BYTES = 32 * 1024 * 1024
"""kubelet's own clients take 16 MiB; thousands of shares in every container may need more."""

DEADLINE_SECONDS = 20.0
"""As long as the most patient of those who ask."""


class PodResources:
    """See `mortalgpu.kubelet.base.Assignments`. Only ids of `resources`, read at each question, are reported.

    Making one does no I/O.
    """

    def __init__(self, socket_path: Path, resources: Collection[str], *, deadline_seconds: float = DEADLINE_SECONDS) -> None:
        self._socket_path = socket_path
        self._resources = resources
        self._deadline_seconds = deadline_seconds

    async def assignments(self) -> tuple[Assignment, ...]:
        """Return every container that holds meta-devices of our resources, and its siblings that hold no device at all.

        Of these siblings it is certain that they were given nothing; of one that holds another plugin's devices it is not our
        business to say so, and it is left out, as are init and ephemeral containers, which kubelet does not list.
        The same pod and container name may appear twice: until 1.34 kubelet also lists terminated pods. kubelet lists in no
        order; this answer is in the order of names and ids, so that one that says the same is equal. Raises KubeletError when
        kubelet is away, slow, refuses (it allows about 100 questions a second), or speaks no v1.
        """
        try:
            async with open_channel(str(self._socket_path), max_message_bytes=MAX_ANSWER_BYTES) as channel:
                listed = await channel.unary(
                    LIST, ListPodResourcesRequest(), ListPodResourcesResponse, deadline_seconds=self._deadline_seconds
                )
        except RpcError as error:
            raise KubeletError(_explained(error, self._socket_path)) from error
        return tuple(sorted(_assignments(listed, self._resources), key=_names))


def _assignments(listed: ListPodResourcesResponse, resources: Collection[str]) -> Iterator[Assignment]:
    for pod in listed.pod_resources:
        found = [(container, _held(container, resources)) for container in pod.containers]
        if any(held for _, held in found):
            for container, held in found:
                if held or not container.devices:
                    yield Assignment(pod.name, pod.namespace, container.name, held)


def _held(container: ContainerResources, resources: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Gather ids by resource: new kubelets give an entry per id and NUMA node, so an id may come twice; old ones group them.

    The ids are interned: one text of an id serves every list of it, the checkpoint's too.
    """
    held: dict[str, list[str]] = {}
    for devices in container.devices:
        if devices.resource_name in resources:
            held.setdefault(devices.resource_name, []).extend(devices.device_ids)
    return {resource: tuple(map(sys.intern, sorted(set(ids)))) for resource, ids in held.items() if ids}


def _names(found: Assignment) -> tuple[str, str, str]:
    return found.pod_namespace, found.pod_name, found.container_name


def _explained(error: RpcError, socket_path: Path) -> str:
    if isinstance(error, Unavailable):
        return f"kubelet's pod-resources socket does not answer: {error.details}"
    if error.code is Code.UNIMPLEMENTED:
        return f"kubelet's pod-resources socket {socket_path} does not speak v1, which kubelet has since 1.20: {error}"
    return f"kubelet's pod-resources socket {socket_path} refused the list of assignments: {error}"
