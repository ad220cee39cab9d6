"""What kubelet saw of the plugins: registrations requested, made, ended, and what must never be: two of a resource at once.

Pure: it reads the events that the device manager's driver reports, in their order.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec


class Event(msgspec.Struct, frozen=True):
    """Something kubelet logged about a plugin. `at` is Unix time in seconds."""

    event: str
    at: float
    resource: str = ""
    count: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Overlap:
    """A registration of `resource` was asked for at `at`, while kubelet still listened to the one made at `since`."""

    resource: str
    since: float
    at: float


@dataclass(slots=True)
class Registrations:
    """The registrations in force, and every overlap seen so far."""

    live: dict[str, float] = field(default_factory=dict)
    requested: dict[str, float] = field(default_factory=dict)
    overlaps: list[Overlap] = field(default_factory=list)
    made: dict[str, int] = field(default_factory=dict)
    lists: dict[str, int] = field(default_factory=dict)
    """How many lists of devices came, by resource."""

    def see(self, event: Event) -> None:
        """Take the next event into account."""
        match event.event:
            case "registration_requested":
                since = self.live.get(event.resource, self.requested.get(event.resource))
                if since is not None:
                    self.overlaps.append(Overlap(event.resource, since, event.at))
                self.requested[event.resource] = event.at
            case "registration_failed":
                self.requested.pop(event.resource, None)
            case "registered":
                self.live[event.resource] = self.requested.pop(event.resource, event.at)
                self.made[event.resource] = self.made.get(event.resource, 0) + 1
            case "list_received":
                self.lists[event.resource] = self.lists.get(event.resource, 0) + 1
            case "disconnected":
                self.live.pop(event.resource, None)

    def kubelet_ended(self) -> None:
        """Forget what was in force: it ended with the process."""
        self.live.clear()
        self.requested.clear()


def overlaps(events: Iterable[Event]) -> list[Overlap]:
    """Return the overlaps in the events of one kubelet's life."""
    registrations = Registrations()
    for event in events:
        registrations.see(event)
    return registrations.overlaps
