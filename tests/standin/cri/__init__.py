"""A container runtime's CRI socket, as far as MortalGPU asks it: sandboxes and containers, and failing on command."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from mortalgpu.model.pod import Pod
from mortalgpu.rpc.listener import UnixListener
from mortalgpu.rpc.pb.cri.v1 import runtime_pb2 as cri
from mortalgpu.rpc.server import Server
from mortalgpu.rpc.service import Call, Service, unary
from mortalgpu.rpc.status import Code, Refusal


def sandbox_of(pod: Pod, *, created_at: int = 1, sandbox_id: str = "") -> cri.PodSandbox:
    metadata = cri.PodSandboxMetadata(name=pod.name, uid=pod.uid, namespace=pod.namespace)
    state = cri.SANDBOX_NOTREADY if pod.finished else cri.SANDBOX_READY
    found = cri.PodSandbox(id=sandbox_id or f"sandbox-{pod.uid}", metadata=metadata, state=state, created_at=created_at)
    found.annotations.update(pod.annotations)
    return found


def containers_of(pod: Pod) -> list[cri.Container]:
    made = []
    for number, each in enumerate(pod.containers):
        state = cri.CONTAINER_RUNNING if each.running else cri.CONTAINER_EXITED
        container = cri.Container(id=each.container_id, pod_sandbox_id=f"sandbox-{pod.uid}", state=state, created_at=number)
        container.labels.update({"io.kubernetes.pod.uid": pod.uid, "io.kubernetes.container.name": each.name})
        made.append(container)
    return made


class RuntimePeer:
    """What the socket answers; change `sandboxes` and `containers` at will."""

    def __init__(self) -> None:
        self.sandboxes: list[cri.PodSandbox] = []
        self.containers: list[cri.Container] = []
        self.refusal: Refusal | None = None
        self.asleep = False
        self.asked = 0

    def hold(self, *pods: Pod) -> None:
        """Have exactly these pods."""
        self.sandboxes = [sandbox_of(pod) for pod in pods]
        self.containers = [each for pod in pods for each in containers_of(pod)]

    async def list_sandboxes(self, request: cri.ListPodSandboxRequest, call: Call) -> cri.ListPodSandboxResponse:
        self.asked += 1
        if self.asleep:
            await trio.sleep_forever()
        if self.refusal is not None:
            raise self.refusal
        return cri.ListPodSandboxResponse(items=self.sandboxes)

    async def list_containers(self, request: cri.ListContainersRequest, call: Call) -> cri.ListContainersResponse:
        return cri.ListContainersResponse(containers=self.containers)


@asynccontextmanager
async def open_runtime(socket: Path, peer: RuntimePeer) -> AsyncIterator[None]:
    """Serve the peer on a Unix socket until the context is left."""
    service = Service(
        "runtime.v1.RuntimeService",
        {
            "ListPodSandbox": unary(cri.ListPodSandboxRequest, peer.list_sandboxes),
            "ListContainers": unary(cri.ListContainersRequest, peer.list_containers),
        },
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(Server([service]).serve, [await UnixListener.bind(socket)])
        yield
        nursery.cancel_scope.cancel()


def refusing(code: Code, text: str) -> Refusal:
    return Refusal(code, text)
