"""PORT: what MortalGPU asks of kubelet.

Paths are on the host; resources are extended resource names. Errors of every verb: `KubeletError` with kubelet's own
words when it refuses or does not answer; it usually passes. All verbs may be cancelled.
"""

from dataclasses import dataclass
from typing import Protocol

from mortalgpu.model.pod import Assignment


@dataclass(frozen=True, slots=True)
class CheckpointEntry:
    """What one container was given of one resource: its meta-device ids, and a variable of its environment."""

    resource: str
    meta_devices: tuple[str, ...]
    evidence: str
    """The value of the environment variable asked for; empty when the container did not get it."""
    pod_uid: str = ""
    container_name: str = ""


class Registrar(Protocol):
    """Where a device plugin makes itself known."""

    async def wait_for_kubelet(self) -> tuple[int, ...]:
        """Wait until kubelet's registration socket takes connections; return its identity. Never raises, may be cancelled.

        kubelet sweeps the directory before it listens: a socket of ours bound after this returned is safe from the sweep.
        """
        ...

    def socket_identity(self) -> tuple[int, ...] | None:
        """Return what tells one creation of kubelet's registration socket from the next; None while there is none.

        One system call, never raises: cheap enough to ask several times a second.
        """
        ...

    async def register(self, resource: str, endpoint: str) -> None:
        """Announce that `endpoint`, a socket's base name in kubelet's device-plugin directory, serves `resource`.

        The socket must be serving already: kubelet dials it before it answers. Returns once kubelet has accepted.
        """
        ...


class Assignments(Protocol):
    """Who holds which meta-devices, in kubelet's books."""

    async def assignments(self) -> tuple[Assignment, ...]:
        """Return every container that holds meta-devices of our resources, as kubelet sees it now."""
        ...
