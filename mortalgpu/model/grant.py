"""The outcome of one container's Allocate: meta-devices, devices and limits."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Grant:
    """What one container was granted of one resource.

    `shares` counts its meta-devices and `limit_bytes` its memory, both by device UUID, in the order of the devices.
    """

    resource: str
    meta_devices: tuple[str, ...]
    shares: Mapping[str, int]
    limit_bytes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Mount:
    """A host path to show inside a container."""

    host_path: str
    container_path: str
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class ContainerEdits:
    """What enters the container with a grant (CDI's word): environment, mounts, device nodes (host paths, `rw`)."""

    envs: Mapping[str, str]
    mounts: tuple[Mount, ...] = ()
    device_nodes: tuple[str, ...] = ()
