"""PORT: what MortalGPU asks of kubelet.

Paths are on the host; resources are extended resource names. Errors of every verb: `KubeletError` with kubelet's own
words when it refuses or does not answer; it usually passes. All verbs may be cancelled.
"""

from collections.abc import AsyncIterator
from typing import Protocol

from mortalgpu.model.pod import Assignment


class Registrar(Protocol):
    """Where a device plugin makes itself known."""

    async def register(self, resource: str, endpoint: str) -> None:
        """Announce that `endpoint`, a socket's base name in kubelet's device-plugin directory, serves `resource`.

        The socket must be serving already: kubelet dials it before it answers. Returns once kubelet has accepted.
        """
        ...

    def restarts(self) -> AsyncIterator[None]:
        """Yield once each time kubelet's registration socket has been created anew; never for the one found at first."""
        ...


class Assignments(Protocol):
    """Who holds which meta-devices, in kubelet's books."""

    async def assignments(self) -> tuple[Assignment, ...]:
        """Return every container that holds meta-devices of our resources, as kubelet sees it now."""
        ...
