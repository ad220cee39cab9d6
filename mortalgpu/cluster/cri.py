"""ADAPTER the container runtime's CRI socket (containerd, CRI-O): the pods of this node without any API server.

There is nothing to watch in the CRI's stable part, so it is polled: every few seconds, and at once when somebody has seen a
container that no view names. Pod annotations are those the sandbox was made with; later changes only the API server knows.
"""

import logging
import stat
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from mortalgpu.cluster.base import SOURCE_CRI, ClusterCounts, PodsView
from mortalgpu.cluster.lastview import LastView
from mortalgpu.cluster.podwire import limit_annotations
from mortalgpu.errors import ClusterError
from mortalgpu.model.pod import Container, Pod, PodNote
from mortalgpu.rpc.channel import open_channel
from mortalgpu.rpc.pb.cri.v1 import runtime_pb2 as cri
from mortalgpu.rpc.status import RpcError

log = logging.getLogger(__name__)

USUAL_SOCKETS = (
    Path("/run/containerd/containerd.sock"),
    Path("/run/crio/crio.sock"),
    Path("/run/k3s/containerd/containerd.sock"),
    Path("/run/k0s/containerd.sock"),
    Path("/var/snap/microk8s/common/run/containerd.sock"),
    Path("/run/cri-dockerd.sock"),
)
"""Where runtimes listen; the first that is a socket is asked."""

POD_UID = "io.kubernetes.pod.uid"
CONTAINER_NAME = "io.kubernetes.container.name"

_MAX_ANSWER_BYTES = 32 * 1024 * 1024
_DEADLINE_SECONDS = 5.0


class CriCluster:
    """See `mortalgpu.cluster.base.Cluster`. Notes become log lines: a runtime has nobody to tell.

    `poll_seconds` is the longest time between two looks, `gap_seconds` the shortest. Each look takes a connection of its own.
    """

    def __init__(
        self,
        sockets: Sequence[Path] = USUAL_SOCKETS,
        *,
        poll_seconds: float = 3.0,
        gap_seconds: float = 0.1,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._sockets = sockets
        self._poll_seconds = poll_seconds
        self._gap_seconds = gap_seconds
        self._view = LastView(SOURCE_CRI, now)
        self._asked = trio.Event()
        self._lists = 0

    @asynccontextmanager
    async def pods(self) -> AsyncIterator[AsyncIterator[PodsView]]:
        """Poll; see the port."""
        views = self._view.opened()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._poll)
            yield views
            nursery.cancel_scope.cancel()

    def refresh(self) -> None:
        """Look at once, or as soon as the gap allows."""
        self._asked.set()

    def note(self, pod: Pod, note: PodNote) -> None:
        """Log it."""
        about = {"namespace": pod.namespace, "pod": pod.name, "reason": note.reason, "cause": note.message}
        log.info("note for a pod, with no API server to take it", extra=about)

    def node_note(self, note: PodNote) -> None:
        """Log it."""
        log.info("note for the node, with no API server to take it", extra={"reason": note.reason, "cause": note.message})

    def counts(self) -> ClusterCounts:
        """Return the figures so far."""
        return ClusterCounts(lists=self._lists, failures=self._view.failures)

    async def _poll(self) -> None:
        while True:
            self._asked = trio.Event()
            try:
                self._view.known(await read_pods(find_socket(self._sockets)))
                self._lists += 1
            except ClusterError as trouble:
                self._view.lost(trouble)
            await trio.sleep(self._gap_seconds)
            with trio.move_on_after(self._poll_seconds - self._gap_seconds):
                await self._asked.wait()


def find_socket(sockets: Sequence[Path]) -> Path:
    """Return the first path that is a socket. Raises ClusterError that says where it looked."""
    for path in sockets:
        try:
            if stat.S_ISSOCK(path.stat().st_mode):
                return path
        except OSError:
            continue
    looked = ", ".join(map(str, sockets)) or "nowhere"
    raise ClusterError(f"no container runtime socket found (looked at {looked}): mount it, or name it in the configuration")


async def read_pods(socket: Path) -> dict[str, Pod]:
    """Ask the runtime for its sandboxes and containers, both within one deadline. Raises ClusterError."""
    try:
        with trio.fail_after(_DEADLINE_SECONDS):
            async with open_channel(str(socket), max_message_bytes=_MAX_ANSWER_BYTES) as channel:
                sandboxes = await channel.unary(
                    "/runtime.v1.RuntimeService/ListPodSandbox", cri.ListPodSandboxRequest(), cri.ListPodSandboxResponse
                )
                containers = await channel.unary(
                    "/runtime.v1.RuntimeService/ListContainers", cri.ListContainersRequest(), cri.ListContainersResponse
                )
    except trio.TooSlowError:
        raise ClusterError(f"the container runtime at {socket} did not answer within {_DEADLINE_SECONDS:g} s") from None
    except RpcError as error:
        raise ClusterError(f"the container runtime at {socket} does not list its containers: {error}") from error
    return join_pods(sandboxes.items, containers.containers)


def join_pods(sandboxes: Iterable[cri.PodSandbox], containers: Iterable[cri.Container]) -> dict[str, Pod]:
    """Build pods from sandboxes and the containers whose labels name them. Pure.

    Of several sandboxes of one pod the newest counts. A pod whose newest sandbox has stopped and none of whose containers runs
    is finished. A container that belongs to no listed sandbox's pod is left out: its pod's name would be a guess.
    """
    newest: dict[str, cri.PodSandbox] = {}
    for sandbox in sandboxes:
        uid = sandbox.metadata.uid
        if uid and (uid not in newest or sandbox.created_at > newest[uid].created_at):
            newest[uid] = sandbox
    inside: dict[str, list[Container]] = {uid: [] for uid in newest}
    for each in sorted(containers, key=lambda found: (found.created_at, found.id)):
        uid = each.labels.get(POD_UID, "")
        if uid in inside and each.id:
            inside[uid].append(Container(each.labels.get(CONTAINER_NAME, ""), each.id, each.state == cri.CONTAINER_RUNNING))
    return {uid: _pod(sandbox, tuple(inside[uid])) for uid, sandbox in newest.items()}


def _pod(sandbox: cri.PodSandbox, containers: tuple[Container, ...]) -> Pod:
    return Pod(
        uid=sandbox.metadata.uid,
        name=sandbox.metadata.name,
        namespace=sandbox.metadata.namespace,
        containers=containers,
        annotations=limit_annotations(dict(sandbox.annotations)),
        finished=sandbox.state != cri.SANDBOX_READY and not any(each.running for each in containers),
    )
