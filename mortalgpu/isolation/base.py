"""What enters a container that was granted shares: environment, mounts, device nodes.

Rules:
1. The edits are a function of the grant and of settings only; the same grant gives the same edits, up to the token.
2. A limit is shown in whole MiB, rounded down, so that a tenant who believes it stays below the real one.
3. The single figure METAGPU_MAX_MEM is per device, so of several devices it is the smallest.
4. Device nodes and mounts are host paths that exist; kubelet creates none of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mortalgpu.model.device import Device
from mortalgpu.model.grant import ContainerEdits, Grant, Mount
from mortalgpu.model.share import SharedDevice
from mortalgpu.sharing import evidence
from mortalgpu.units import mib_floor

MEMORY_LIMIT_VARIABLE = "MORTALGPU_MEMORY_LIMIT_MIB"


class Isolation(Protocol):
    """A way to hold a container to its grant."""

    def edits(self, grant: Grant, devices: Mapping[str, SharedDevice]) -> ContainerEdits:
        """Return what must enter the container; `devices` holds those of the grant, by UUID."""
        ...


MintToken = Callable[[Sequence[str]], str]
"""Makes a container's token from the meta-device ids of its grant; an empty one is left out."""


def no_token(_meta_devices: Sequence[str]) -> str:
    """Mint nothing."""
    return ""


@dataclass(frozen=True, slots=True)
class EditSettings:
    """What every container gets besides its limit."""

    mgctl_address: str = ""
    mint_token: MintToken = no_token
    mounts: Callable[[], tuple[Mount, ...]] = lambda: ()
    """mgctl's mounts and the configured ones, as they stand now."""
    device_nodes: Callable[[Device], tuple[str, ...]] = field(default=lambda _device: ())
    """The device nodes of one device; empty unless deviceSpecs is on."""


def environment(grant: Grant, devices: Mapping[str, SharedDevice]) -> dict[str, str]:
    """Return the variables that tell a container its devices and limits."""
    limits_mib = {uuid: mib_floor(limit_bytes) for uuid, limit_bytes in grant.limit_bytes.items()}
    return {
        "NVIDIA_VISIBLE_DEVICES": ",".join(limits_mib),
        "METAGPU_MAX_MEM": str(min(limits_mib.values())),
        MEMORY_LIMIT_VARIABLE: ",".join(f"{uuid}={limit}" for uuid, limit in limits_mib.items()),
        evidence.VARIABLE: evidence.shares_text(grant, devices),
    }
