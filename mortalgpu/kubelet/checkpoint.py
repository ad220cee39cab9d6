"""Reads kubelet's device checkpoint: what it remembers of device allocations across its own restarts.

A second witness beside the pod-resources socket: it knows init containers, which pod-resources leaves out, and it can be read
while kubelet is down. It may name pods that are long gone, since kubelet writes it only now and then; of a container that lives
it tells the truth, since kubelet writes it before the container starts, and goes by the pod's UID.

The format is kubelet's own and carries no version (`kubelet_internal_checkpoint`, seen in 1.20 to 1.36): a JSON object with
`Data.PodDeviceEntries[]`, each with PodUID, ContainerName, ResourceName, DeviceIDs (by NUMA node) and AllocResp, which is a
ContainerAllocateResponse in base64.
"""

import base64
import binascii
import sys
from collections.abc import Container
from pathlib import Path

import msgspec
from google.protobuf.message import DecodeError

from mortalgpu.errors import KubeletError
from mortalgpu.kubelet.base import CheckpointEntry
from mortalgpu.rpc.pb.deviceplugin.v1beta1 import deviceplugin_pb2 as pb

FILE_NAME = "kubelet_internal_checkpoint"


class _Entry(msgspec.Struct, rename="pascal"):
    resource_name: str
    pod_uid: str = msgspec.field(name="PodUID", default="")
    container_name: str = ""
    device_i_ds: dict[str, list[str]] | list[str] | None = msgspec.field(name="DeviceIDs", default=None)
    alloc_resp: str | None = None


class _Data(msgspec.Struct, rename="pascal"):
    pod_device_entries: list[_Entry] | None = None


class _Document(msgspec.Struct, rename="pascal"):
    data: _Data


def read_checkpoint(device_plugin_dir: Path, resources: Container[str], variable: str) -> tuple[CheckpointEntry, ...]:
    """Return the entries of our resources. No file means that kubelet never gave out anything: no entries.

    `variable` names the environment variable to return as evidence. Reads one small file; blocks. Raises KubeletError when the
    file cannot be read or understood.
    """
    return parse_checkpoint(_text(device_plugin_dir), resources, variable)


def resources_mounting(device_plugin_dir: Path, folder: Path) -> tuple[str, ...]:
    """Return the resources of which a grant mounts something of `folder`, a path on the host, into its container.

    Reads one small file; blocks. Raises KubeletError as `read_checkpoint` does.
    """
    return tuple(dict.fromkeys(entry.resource_name for entry in _entries(_text(device_plugin_dir)) if _mounts(entry, folder)))


def _text(device_plugin_dir: Path) -> bytes:
    path = device_plugin_dir / FILE_NAME
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b'{"Data": {}}'
    except OSError as error:
        raise KubeletError(f"{path}: cannot be read: {error.strerror}") from None


def parse_checkpoint(text: bytes, resources: Container[str], variable: str) -> tuple[CheckpointEntry, ...]:
    """Return the entries of our resources in a checkpoint's text. Raises KubeletError when it is none."""
    return tuple(
        CheckpointEntry(entry.resource_name, _ids(entry), _variable(entry, variable), entry.pod_uid, entry.container_name)
        for entry in _entries(text)
        if entry.resource_name in resources
    )


def _entries(text: bytes) -> list[_Entry]:
    try:
        document = msgspec.json.decode(text, type=_Document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise KubeletError(f"kubelet's device checkpoint is of an unknown form: {error}") from None
    return document.data.pod_device_entries or []


def _ids(entry: _Entry) -> tuple[str, ...]:
    ids = entry.device_i_ds
    found = [text for of_node in ids.values() for text in of_node] if isinstance(ids, dict) else ids or []
    return tuple(map(sys.intern, found))


def _variable(entry: _Entry, variable: str) -> str:
    return str(_response(entry).envs.get(variable, ""))


def _mounts(entry: _Entry, folder: Path) -> bool:
    return any(Path(mount.host_path).is_relative_to(folder) for mount in _response(entry).mounts)


def _response(entry: _Entry) -> pb.ContainerAllocateResponse:
    try:
        return pb.ContainerAllocateResponse.FromString(base64.b64decode(entry.alloc_resp or "", validate=True))
    except (binascii.Error, ValueError, DecodeError):
        return pb.ContainerAllocateResponse()
