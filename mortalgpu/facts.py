"""The cells through which facts travel, and the counts that services keep about themselves: all that they have in common."""

from collections import Counter
from dataclasses import dataclass, field

from mortalgpu.cluster.base import NO_PODS, PodsView
from mortalgpu.latest import Latest
from mortalgpu.model.counts import CallCounts, DriverCounts, EventCounts, PluginCounts, Pulse, ReloadCounts
from mortalgpu.model.kill import NO_ENFORCEMENT, Enforcement
from mortalgpu.model.share import Inventory
from mortalgpu.model.usage import NO_USAGE, Usage
from mortalgpu.supervise import Budget, Service, restartable


@dataclass(frozen=True, slots=True)
class Facts:
    """The cells, each with one writer, and the counts, each kept by the service that it is about."""

    inventory: Latest[Inventory] = field(default_factory=lambda: Latest(Inventory()))
    pods: Latest[PodsView] = field(default_factory=lambda: Latest(NO_PODS))
    usage: Latest[Usage] = field(default_factory=lambda: Latest(NO_USAGE))
    enforcement: Latest[Enforcement] = field(default_factory=lambda: Latest(NO_ENFORCEMENT))
    plugins: dict[str, PluginCounts] = field(default_factory=dict)
    driver: DriverCounts = field(default_factory=DriverCounts)
    events: EventCounts = field(default_factory=Counter)
    restarts: Counter[str] = field(default_factory=Counter)
    reloads: ReloadCounts = field(default_factory=ReloadCounts)
    calls: CallCounts = field(default_factory=Counter)
    pulse: Pulse = field(default_factory=Pulse)
    endpoints: dict[str, str] = field(default_factory=dict)
    """Where metrics are served, by the endpoint's name."""

    def restartable(self, name: str, service: Service) -> Service:
        """Make a service restartable, with its restarts counted from zero."""
        self.restarts[name] += 0
        return restartable(name, service, Budget(), self._restarted)

    def _restarted(self, name: str) -> None:
        self.restarts[name] += 1
