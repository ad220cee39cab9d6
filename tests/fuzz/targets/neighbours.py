"""Targets: kubelet and the container runtime, whose answers we ask for over sockets or read from a file."""

import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from mortalgpu.cluster.cri import POD_UID, read_pods
from mortalgpu.errors import ClusterError, KubeletError
from mortalgpu.kubelet.checkpoint import parse_checkpoint
from mortalgpu.kubelet.podresources import PodResources
from mortalgpu.kubelet.registration import SOCKET_NAME, KubeletRegistrar
from mortalgpu.model.pod import Assignment, Pod
from mortalgpu.rpc.pb.cri.v1 import runtime_pb2 as cri
from mortalgpu.rpc.pb.deviceplugin.v1beta1 import deviceplugin_pb2 as plugin
from mortalgpu.rpc.pb.podresources.v1 import podresources_pb2 as listed
from mortalgpu.sharing.evidence import VARIABLE
from tests.fuzz.frames import answer, reply
from tests.fuzz.target import Target, no_fault_logged, only, scratch

_T = TypeVar("_T")

RESOURCE = "mortalgpu/v100"
_UID = "a9f875c6-f5b7-4ad4-a890-c3b2c81cf9fa"


def check_checkpoint(data: bytes) -> None:
    """kubelet's checkpoint has entries of our resources, as it names them, or it is refused as a whole."""
    with only(KubeletError):
        for entry in parse_checkpoint(data, (RESOURCE,), VARIABLE):
            assert entry.resource == RESOURCE
            assert _named(data, entry.pod_uid, entry.container_name, *entry.meta_devices)


def _named(data: bytes, *texts: str) -> bool:
    """Whether texts stand in JSON; one with escapes in it is taken on trust."""
    return all(text.encode("utf-8", "replace") in data or b"\\" in data for text in texts)


async def _answered(said: Mapping[int, bytes], socket: Path, ask: Callable[[], Awaitable[_T]]) -> _T:
    """Ask a server on a socket that says these bytes, by the number of the stream on which it is asked."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await reply(stream, said)

    answer: _T | Exception
    socket.unlink(missing_ok=True)
    with trio.socket.socket(trio.socket.AF_UNIX) as listening:
        await listening.bind(str(socket))
        listening.listen(8)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve, [trio.SocketListener(listening)])
            try:
                with trio.fail_after(30):
                    answer = await ask()
            except Exception as error:
                answer = error  # Raised outside, so that the nursery puts no group around it.
            nursery.cancel_scope.cancel()
    if isinstance(answer, Exception):
        raise answer
    return answer


_ENDINGS = (
    ("0", ""),
    ("0", ""),
    ("0", ""),
    ("5", "no%20such"),
    ("8", "slow%0adown%1b[2J"),
    ("x", ""),
    ("77", "%ff%fe" + "x" * 3000),
)


def _wire(data: bytes) -> bytes:
    """A server's answer: the first byte picks the status it ends with, and whether the message's length is right."""
    how, length = (data or b"\0")[0], max(0, len(data) - 1)
    status, text = _ENDINGS[how % len(_ENDINGS)]
    prefix = b"\x00\x7f\xff\xff\xff" if how & 0xC0 == 0xC0 else b"\0" + (length + (how > 200)).to_bytes(4, "big")
    return answer(data[1:], status=status, text=text, prefix=prefix)


def check_pod_resources(data: bytes) -> None:
    """kubelet's list of assignments: of our resources only, nothing that it did not name, or one KubeletError."""
    with no_fault_logged(), only(KubeletError):
        for found in assignments(data):
            assert set(found.meta_devices) <= {RESOURCE}
            named = [found.pod_name, found.pod_namespace, found.container_name, *found.meta_devices.get(RESOURCE, ())]
            assert all(name.encode() in data for name in named)


def assignments(data: bytes) -> tuple[Assignment, ...]:
    """Ask a kubelet that answers so."""
    socket = scratch() / "resources.sock"
    return trio.run(_answered, {1: _wire(data)}, socket, PodResources(socket, (RESOURCE,)).assignments)


def check_registration(data: bytes) -> None:
    """kubelet takes our registration, or there is one KubeletError with its words."""
    with no_fault_logged(), only(KubeletError):
        register(data)


def register(data: bytes) -> None:
    """Register with a kubelet that answers so."""
    registrar = KubeletRegistrar(scratch(), plugin.DevicePluginOptions())
    trio.run(_answered, {1: _wire(data)}, scratch() / SOCKET_NAME, partial(registrar.register, RESOURCE, "ours.sock"))


def check_runtime(data: bytes) -> None:
    """The runtime's sandboxes and containers: pods by the uid that it names, or one ClusterError."""
    with no_fault_logged(), only(ClusterError):
        for uid, pod in pods(data).items():
            assert uid == pod.uid != ""
            assert uid.encode() in data
            assert all(each.container_id.encode() in data for each in pod.containers)


def pods(data: bytes) -> dict[str, Pod]:
    """Ask a runtime that answers so."""
    socket = scratch() / "cri.sock"
    sandboxes, _, containers = data.partition(b"\xfd\xfd")
    return trio.run(_answered, {1: _wire(sandboxes), 3: answer(containers, stream=3)}, socket, partial(read_pods, socket))


def _checkpoint() -> dict[str, object]:
    response = plugin.ContainerAllocateResponse(envs={VARIABLE: "GPU-0=4/320"}).SerializeToString()
    entry = {
        "PodUID": _UID,
        "ContainerName": "train",
        "ResourceName": RESOURCE,
        "DeviceIDs": {"-1": ["GPU-0::0", "GPU-0::1"]},
        "AllocResp": base64.b64encode(response).decode(),
    }
    registered = {RESOURCE: ["GPU-0::0"]}
    return {"Data": {"PodDeviceEntries": [entry], "RegisteredDevices": registered}, "Checksum": 2**63}


def _listed() -> bytes:
    ids = ["GPU-0::0", "GPU-0::1"]
    devices = [listed.ContainerDevices(resource_name=name, device_ids=ids) for name in (RESOURCE, "example.com/other")]
    containers = [listed.ContainerResources(name="train", devices=devices), listed.ContainerResources(name="side")]
    pod = listed.PodResources(name="job", namespace="team", containers=containers)
    return bytes(listed.ListPodResourcesResponse(pod_resources=[pod]).SerializeToString())


def _runtime() -> bytes:
    sandbox = cri.PodSandbox(id="s", metadata=cri.PodSandboxMetadata(name="job", uid=_UID, namespace="team"), created_at=5)
    sandbox.annotations[f"gpu-mem-limit.{RESOURCE}"] = "8"
    container = cri.Container(id="c" * 64, labels={POD_UID: _UID}, state=cri.CONTAINER_RUNNING, created_at=6)
    containers = cri.ListContainersResponse(containers=[container])
    sandboxes = cri.ListPodSandboxResponse(items=[sandbox, sandbox])
    return bytes(b"\x00" + sandboxes.SerializeToString() + b"\xfd\xfd" + containers.SerializeToString())


_GRPC = (b"\xff\xff\xff\xff\x0f", b"\x0a\x00", b"\x0a\x01\xff", RESOURCE.encode(), b"\x1b[2J", b"\xfd\xfd", b"\x0b")

TARGETS = (
    Target(
        "kubelet-checkpoint",
        check_checkpoint,
        (
            json.dumps(_checkpoint()).encode(),
            json.dumps(_checkpoint()).replace('{"-1": ["GPU-0::0", "GPU-0::1"]}', '["GPU-0::0"]').encode(),
            b'{"Data": {"PodDeviceEntries": null, "RegisteredDevices": {}}}',
        ),
        (b"null", b"[]", b'"\\ud800"', b'"\xff"', b"1e400", b'{"a":' * 1500, b'"AllocResp": "!"', b"=", b"\\u0000"),
        inputs=3000,
    ),
    Target("pod-resources", check_pod_resources, (b"\0" + _listed(), b"\3", b"\0"), _GRPC, inputs=150),
    Target("kubelet-registration", check_registration, (b"\0", b"\4", b"\xc0"), _GRPC, inputs=80),
    Target("container-runtime", check_runtime, (_runtime(), b"\0\xfd\xfd"), _GRPC, inputs=120),
)
