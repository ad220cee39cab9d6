"""Answers kubelet for one resource. Knows the inventory, the policy and the isolation; nothing of sockets or registration.

Rules:
1. An answer never depends on a previous call: kubelet passes the ids of a finished init container on without telling, and
   asks again after its own restart.
2. Splitting and health are checked again in Allocate, since kubelet may ignore a preference or decide on an old list.
3. A refusal is an exception whose text the user reads in `kubectl describe pod`.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from mortalgpu.allocator.base import Allocator, Request
from mortalgpu.allocator.grant import granted
from mortalgpu.deviceplugin.answers import allocate_response, device_list, preferred_response
from mortalgpu.errors import AllocationError, DeviceUnhealthy
from mortalgpu.isolation.base import Isolation
from mortalgpu.latest import Latest
from mortalgpu.model.counts import Histogram, PluginCounts
from mortalgpu.model.grant import ContainerEdits, Grant
from mortalgpu.model.share import Inventory
from mortalgpu.rpc.pb.deviceplugin.v1beta1 import deviceplugin_pb2 as pb
from mortalgpu.rpc.server import Call, Send, Service, streaming, unary

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Offer:
    """One resource as it is offered on this node, and all that decides about requests for it.

    `no_split` tells whether a container may get shares of one device only. `on_grant` hears of every grant, before kubelet
    does; it must not block.
    """

    resource: str
    inventory: Latest[Inventory]
    allocator: Allocator
    isolation: Isolation
    no_split: Callable[[], bool]
    counts: PluginCounts
    on_grant: Callable[[Grant], None]


class Servicer:
    """The v1beta1.DevicePlugin service of one resource, for one registration."""

    def __init__(self, offer: Offer) -> None:
        self._offer = offer
        self.watchers = Latest(0)
        """How many ListAndWatch streams are open: the end of the last one is the only sign that kubelet dropped us."""
        self._ended = False
        self._waiting: set[trio.CancelScope] = set()

    def service(self) -> Service:
        """Return the service's table for the RPC server."""
        return Service(
            "v1beta1.DevicePlugin",
            {
                "GetDevicePluginOptions": unary(pb.Empty, self.get_options),
                "ListAndWatch": streaming(pb.Empty, self.list_and_watch),
                "GetPreferredAllocation": unary(pb.PreferredAllocationRequest, self.get_preferred_allocation),
                "Allocate": unary(pb.AllocateRequest, self.allocate),
                "PreStartContainer": unary(pb.PreStartContainerRequest, self.pre_start_container),
            },
        )

    async def get_options(self, _request: pb.Empty, _call: Call) -> pb.DevicePluginOptions:
        """Say that we want to be asked for preferences, and need no call before a container starts."""
        return OPTIONS

    async def list_and_watch(self, _request: pb.Empty, _call: Call, send: Send) -> None:
        """Send the full list at once and again whenever the inventory was published, until kubelet goes."""
        self.watchers.publish(self.watchers.value + 1)
        try:
            while not self._ended:
                seen = self._offer.inventory.version
                await send(device_list(self._offer.inventory.value, self._offer.resource))
                await self._changed_or_ended(seen)
        finally:
            self.watchers.publish(self.watchers.value - 1)

    def end_lists(self) -> None:
        """End all ListAndWatch streams in good order, so that kubelet drops this registration now. Never blocks."""
        self._ended = True
        for scope in self._waiting:
            scope.cancel()

    async def _changed_or_ended(self, seen: int) -> None:
        with trio.CancelScope() as scope:
            self._waiting.add(scope)
            try:
                await self._offer.inventory.wait_beyond(seen)
            finally:
                self._waiting.discard(scope)

    async def get_preferred_allocation(
        self, request: pb.PreferredAllocationRequest, _call: Call
    ) -> pb.PreferredAllocationResponse:
        """Choose meta-devices for each container asked about. Raises AllocationError."""
        devices = self._offer.inventory.value.of_resource(self._offer.resource)
        with self._measured(self._offer.counts.preferred):
            choices = [
                await self._offer.allocator.prefer(
                    Request(
                        self._offer.resource,
                        wanted.allocation_size,
                        tuple(wanted.available_deviceIDs),
                        tuple(wanted.must_include_deviceIDs),
                    ),
                    devices,
                )
                for wanted in request.container_requests
            ]
        return preferred_response(choices)

    async def allocate(self, request: pb.AllocateRequest, _call: Call) -> pb.AllocateResponse:
        """Say what enters each container that gets these ids. Raises AllocationError, and then nothing was changed."""
        if not request.container_requests:
            raise AllocationError(f"{self._offer.resource}: the request names no container")
        with self._measured(self._offer.counts.allocate):
            decided = [self._decide(tuple(wanted.devices_ids)) for wanted in request.container_requests]
        for grant, _ in decided:
            self._offer.on_grant(grant)
            self._tell(grant)
        self._offer.counts.allocations += len(decided)
        return allocate_response([edits for _, edits in decided])

    async def pre_start_container(self, _request: pb.PreStartContainerRequest, _call: Call) -> pb.PreStartContainerResponse:
        """Do nothing: our options say that kubelet need not call this."""
        return pb.PreStartContainerResponse()

    def _decide(self, ids: tuple[str, ...]) -> tuple[Grant, ContainerEdits]:
        inventory = self._offer.inventory.value
        devices = {shared.uuid: shared for shared in inventory.of_resource(self._offer.resource)}
        grant = granted(self._offer.resource, ids, tuple(devices.values()), no_split=self._offer.no_split())
        for uuid in grant.shares:
            health = inventory.health_of(uuid)
            if not health.healthy:
                raise DeviceUnhealthy(f"{self._offer.resource}: device {uuid} is unhealthy ({health.reason}); try again later")
        return grant, self._offer.isolation.edits(grant, devices)

    @contextmanager
    def _measured(self, histogram: Histogram) -> Iterator[None]:
        begun = trio.current_time()
        try:
            yield
        except AllocationError as error:
            self._offer.counts.refusals[error.reason] += 1
            log.warning(
                "allocation refused",
                extra={"resource": self._offer.resource, "reason": error.reason, "error": str(error)},
            )
            raise
        finally:
            histogram.observe(trio.current_time() - begun)

    def _tell(self, grant: Grant) -> None:
        log.info(
            "shares granted",
            extra={
                "resource": grant.resource,
                "shares": len(grant.meta_devices),
                "devices": list(grant.shares),
                "limit_bytes": dict(grant.limit_bytes),
            },
        )


OPTIONS = pb.DevicePluginOptions(pre_start_required=False, get_preferred_allocation_available=True)
