"""Is the daemon alive, is it ready? Pure; the answers of /healthz and /readyz, and of the metric `mortalgpu_ready`.

Rules:
1. Alive: the scan loop has turned lately. It turns many times a second whatever the driver does, since every driver call has
   a deadline; a loop that stands still is a fault of ours, which only a restart ends.
2. Ready: alive, every resource of the node is registered with kubelet, and the last full scan is recent. A node without
   shared devices is ready when it is alive. What is not ready is no reason for a restart.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mortalgpu.model.counts import PluginCounts, Pulse
from mortalgpu.model.share import Inventory
from mortalgpu.model.usage import Usage


@dataclass(frozen=True, slots=True)
class Patience:
    """How long ago the last turn of the scan loop and the last full scan may be, in seconds."""

    pulse_seconds: float = 30.0
    scan_seconds: float = 30.0


def why_dead(pulse: Pulse, monotonic: float, patience: Patience) -> tuple[str, ...]:
    """Return why the daemon is not alive; empty when it is."""
    silence = monotonic - pulse.beat_at
    return (f"the scan loop has not turned for {silence:.0f} s",) if silence > patience.pulse_seconds else ()


def why_not_ready(
    inventory: Inventory, plugins: Mapping[str, PluginCounts], usage: Usage, monotonic: float, patience: Patience
) -> tuple[str, ...]:
    """Return why the daemon cannot do its work, a line for each cause; empty when it can."""
    missing = [name for name in inventory.resources if name not in plugins or not plugins[name].registered]
    found = [f"{name} is not registered with kubelet" for name in missing]
    if not usage.sequence:
        found.append("there was no scan yet")
    elif (age := monotonic - usage.looked_at) > patience.scan_seconds:
        found.append(f"the last scan is {age:.0f} s old")
    return tuple(found)
