"""One plugin per resource, for as long as the resource has devices. A crash of one is a crash of all: they are essential."""

import logging
import math
from collections.abc import Callable, Collection

import trio

from mortalgpu.deviceplugin.server import Plugin
from mortalgpu.latest import Latest
from mortalgpu.model.share import Inventory

log = logging.getLogger(__name__)

FAREWELL_SECONDS = 1.0
"""How long a resource that has lost its last device goes on, so that kubelet hears of the empty list."""
TIDY_SECONDS = 0.5
"""How long kubelet has to forget a plugin that left, before the same resource may be registered anew (see `server`, rule 2)."""


class Plugins:
    """Starts a plugin for each resource of the inventory and ends those whose devices all went to other resources."""

    def __init__(self, inventory: Latest[Inventory], make_plugin: Callable[[str], Plugin]) -> None:
        self._inventory = inventory
        self._make_plugin = make_plugin
        self._running: dict[str, trio.CancelScope] = {}

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled. Started once every resource of the first inventory is registered. Raises HostError."""
        async with trio.open_nursery() as nursery:
            await self._start(self._inventory.value.resources, nursery)
            task_status.started()
            while True:
                seen = self._inventory.version
                self._follow(self._inventory.value, nursery)
                await self._inventory.wait_beyond(seen)

    def _follow(self, inventory: Inventory, nursery: trio.Nursery) -> None:
        wanted = inventory.resources
        for resource, scope in self._running.items():
            if resource in wanted:
                scope.deadline = math.inf  # It may have been about to leave.
            elif scope.deadline == math.inf:
                log.info("resource has no device any more", extra={"resource": resource})
                scope.deadline = trio.current_time() + FAREWELL_SECONDS
        for resource in wanted:
            if resource not in self._running:
                self._running[resource] = trio.CancelScope()
                nursery.start_soon(self._run_one, resource)

    async def _start(self, resources: Collection[str], nursery: trio.Nursery) -> None:
        async with trio.open_nursery() as starting:
            for resource in resources:
                self._running[resource] = trio.CancelScope()
                starting.start_soon(nursery.start, self._run_one, resource)

    async def _run_one(self, resource: str, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the plugin of a resource until it was without a device for a while, and again should one have come meanwhile."""
        while True:
            with self._running[resource]:
                await self._make_plugin(resource).serve(task_status=task_status)
            await trio.sleep(TIDY_SECONDS)
            if resource not in self._inventory.value.resources:
                del self._running[resource]
                return
            self._running[resource], task_status = trio.CancelScope(), trio.TASK_STATUS_IGNORED
