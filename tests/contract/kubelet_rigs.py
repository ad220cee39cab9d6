"""The two kubelets of the contract behind one face: the twin, and the real device manager as a process.

The plugin that they serve is ours, in the test's own process, so whatever blocks on it is asked in a thread.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import trio

from mortalgpu.simulation.kubelet import AdmissionRefused, SimulatedKubelet, running
from tests.e2e.device_manager import DeviceManager
from tests.e2e.pods import Pod, pod_asking


class Kubelet(Protocol):
    """What the contract asks of a kubelet. Ids and environment of a pod's containers are in the order of the containers."""

    async def capacity(self, resource: str) -> tuple[int, int]:
        """Return capacity and allocatable."""
        ...

    async def admit(self, name: str, containers: Mapping[str, Mapping[str, int]]) -> Sequence[tuple[list[str], dict[str, str]]]:
        """Admit a pod; return each container's ids and environment. Raises AdmissionRefused."""
        ...

    async def delete(self, name: str) -> None:
        """Delete a pod."""
        ...

    async def held(self) -> dict[str, set[str]]:
        """Return which pods hold each id."""
        ...

    async def restart(self) -> None:
        """Die and start anew, while the pods run on."""
        ...

    def overlaps(self) -> int:
        """Return how often a resource was registered while it was registered."""
        ...


class Twin:
    """The twin."""

    def __init__(self, kubelet: SimulatedKubelet) -> None:
        self._kubelet = kubelet

    async def capacity(self, resource: str) -> tuple[int, int]:
        return self._kubelet.capacity(resource)

    async def admit(self, name: str, containers: Mapping[str, Mapping[str, int]]) -> Sequence[tuple[list[str], dict[str, str]]]:
        admitted = await self._kubelet.admit(name, containers)
        return [(list(one.meta_devices), dict(one.edits.envs)) for one in admitted]

    async def delete(self, name: str) -> None:
        self._kubelet.delete(name)

    async def held(self) -> dict[str, set[str]]:
        return {text: set(pods) for text, pods in self._kubelet.held().items()}

    async def restart(self) -> None:
        await self._kubelet.restart()

    def overlaps(self) -> int:
        return len(self._kubelet.overlaps)


class Real:
    """The device manager of a real kubelet."""

    def __init__(self, manager: DeviceManager) -> None:
        self._manager = manager
        self._pods: dict[str, Pod] = {}

    async def capacity(self, resource: str) -> tuple[int, int]:
        seen = await trio.to_thread.run_sync(self._manager.capacity, resource)
        return seen.capacity, seen.allocatable

    async def admit(self, name: str, containers: Mapping[str, Mapping[str, int]]) -> Sequence[tuple[list[str], dict[str, str]]]:
        pod = pod_asking(name, **containers)
        verdict = await trio.to_thread.run_sync(self._manager.admit, pod)
        if not verdict.admitted:
            raise AdmissionRefused(verdict.message)
        self._pods[name] = pod
        return [([text for ids in one.ids.values() for text in ids], dict(one.edits.env)) for one in verdict.holdings]

    async def delete(self, name: str) -> None:
        await trio.to_thread.run_sync(self._manager.delete, self._pods.pop(name))

    async def held(self) -> dict[str, set[str]]:
        owners: dict[str, set[str]] = {}
        for holding in await trio.to_thread.run_sync(self._manager.holdings):
            for text in (text for ids in holding.ids.values() for text in ids):
                owners.setdefault(text, set()).add(holding.pod)
        return owners

    async def restart(self) -> None:
        # Not in a thread: the process ends with the thread that started it.
        self._manager.restart()

    def overlaps(self) -> int:
        return len(self._manager.registrations.overlaps)


OpenKubelet = Callable[[Path], AbstractAsyncContextManager[Kubelet]]


@asynccontextmanager
async def twin(folder: Path) -> AsyncIterator[Kubelet]:
    """Run the twin in a folder."""
    async with running(SimulatedKubelet(folder)) as kubelet:
        yield Twin(kubelet)


def real(binary: Path) -> OpenKubelet:
    """Return what runs a real device manager in a folder."""

    @asynccontextmanager
    async def run(folder: Path) -> AsyncIterator[Kubelet]:
        manager = DeviceManager(binary, folder)
        manager.start()
        try:
            yield Real(manager)
        finally:
            manager.stop()

    return run
