"""Devices as they are shared: which resource a device belongs to, into how many shares it is cut, and how it fares."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mortalgpu.model.device import HEALTHY, Device, Health


@dataclass(frozen=True, slots=True)
class SharedDevice:
    """A device under a resource name, cut into `shares` equal shares of which the last `reserved` are not advertised."""

    device: Device
    resource: str
    shares: int
    reserved: int = 0

    @property
    def uuid(self) -> str:
        """The device's UUID."""
        return self.device.uuid

    @property
    def advertised(self) -> int:
        """How many shares kubelet is told of: numbers 0 up to this."""
        return self.shares - self.reserved

    @property
    def share_bytes(self) -> int:
        """Bytes behind one share, rounded down."""
        return self.device.memory_bytes // self.shares

    def limit_bytes(self, held: int) -> int:
        """Return what `held` shares are worth in bytes: computed from the whole, so that rounding happens once."""
        return self.device.memory_bytes * held // self.shares


@dataclass(frozen=True, slots=True)
class LayoutNotice:
    """A device whose configured layout waits because containers still hold shares of the one in force.

    `resource` is the one in force. `shares_configured` is 0 when no entry takes the device any more, `held` is 0 while kubelet
    has not yet said what containers hold.
    """

    uuid: str
    resource: str
    shares_in_force: int
    shares_configured: int
    held: int


@dataclass(frozen=True, slots=True)
class Inventory:
    """Every device of the node and how it is shared, at one moment. Ordered by device index, then GPU instance."""

    devices: tuple[SharedDevice, ...] = ()
    left_alone: tuple[Device, ...] = ()
    """Devices that no entry of deviceSharing matches."""
    health: Mapping[str, Health] = field(default_factory=dict)
    """By UUID, for every shared device."""
    notices: tuple[LayoutNotice, ...] = ()

    @property
    def resources(self) -> tuple[str, ...]:
        """Resource names in the order of their first device."""
        return tuple(dict.fromkeys(shared.resource for shared in self.devices))

    def of_resource(self, resource: str) -> tuple[SharedDevice, ...]:
        """Return the devices advertised under `resource`, in order."""
        return tuple(shared for shared in self.devices if shared.resource == resource)

    def by_uuid(self) -> dict[str, SharedDevice]:
        """Return the shared devices by UUID."""
        return {shared.uuid: shared for shared in self.devices}

    def health_of(self, uuid: str) -> Health:
        """Return a device's health; a device nobody has judged yet is healthy."""
        return self.health.get(uuid, HEALTHY)
