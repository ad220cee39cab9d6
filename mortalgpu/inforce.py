"""The settings in force while the daemon runs, in the cells from which services read them. Used by the composition root only.

Services that cannot read a cell are given a small object that does (an allocator, a collection of names).
"""

from collections.abc import Collection, Iterable, Iterator, Sequence

from mortalgpu import wiring
from mortalgpu.allocator.base import Request
from mortalgpu.config import Config
from mortalgpu.latest import Latest
from mortalgpu.model.grant import Mount
from mortalgpu.model.share import SharedDevice


class CurrentAllocator:
    """The allocation policy in force: that of the cell's newest configuration."""

    def __init__(self, in_force: Latest[Config]) -> None:
        self._in_force = in_force
        self._made_for = in_force.value.allocator
        self._made = wiring.allocator(in_force.value)

    async def prefer(self, request: Request, devices: Sequence[SharedDevice]) -> tuple[str, ...]:
        """See the allocator port."""
        config = self._in_force.value
        if config.allocator != self._made_for:
            self._made_for, self._made = config.allocator, wiring.allocator(config)
        return await self._made.prefer(request, devices)


class OurResources(Collection[str]):
    """Every resource name whose shares containers may hold: names are added when the configuration changes, and stay."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = dict.fromkeys(names)

    def add(self, names: Iterable[str]) -> None:
        """Know more names."""
        self._names |= dict.fromkeys(names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._names))

    def __len__(self) -> int:
        return len(self._names)


class InForce:
    """One configuration, as the services take it; `follow` is the only writer of the cells."""

    def __init__(self, config: Config) -> None:
        self.config = Latest(config)
        self.scan = Latest(wiring.scan_settings(config))
        self.enforcer = Latest(wiring.enforcer_settings(config))
        self.switches = Latest(wiring.exporter_switches(config))
        self.mounts: Latest[tuple[Mount, ...]] = Latest(())
        self.resources = OurResources(wiring.resources_of_ours(config))
        self.allocator = CurrentAllocator(self.config)

    def follow(self, config: Config, mounts: tuple[Mount, ...]) -> None:
        """Put another configuration in force. Never blocks, never fails: what can be refused was refused before."""
        self.config.publish(config)
        self.scan.publish(wiring.scan_settings(config))
        self.enforcer.publish(wiring.enforcer_settings(config))
        self.switches.publish(wiring.exporter_switches(config))
        self.mounts.publish(mounts)
