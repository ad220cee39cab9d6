"""What a container's owner reads when one of its processes was stopped. Pure.

A user must be able to act on it without asking anybody: which container, which device, how much against how much, which
process, and what to do about it. Names and commands come from tenants: they are cut and shown on one line.
"""

from mortalgpu.enforcer.decide import Verdict
from mortalgpu.model.kill import DRY_RUN
from mortalgpu.model.share import SharedDevice
from mortalgpu.units import mib_ceil, mib_floor

REASON_OVER = "GpuMemoryLimitExceeded"
REASON_FOREIGN = "GpuDeviceNotGranted"
REASON_DRY_RUN = "GpuMemoryLimitExceededDryRun"
REASON_STUCK = "GpuProcessCannotBeStopped"

_DONE = {
    "killed": "was stopped",
    "still_there": "was signalled but does not end; it may be stuck in the GPU driver",
    "not_permitted": "could not be stopped: the kernel refused the signal",
    "failed": "could not be stopped",
    DRY_RUN: "would have been stopped, but this node only reports (enforcer.dryRun)",
}


def reason(verdict: Verdict, outcome: str) -> str:
    """Return the Event's reason: one CamelCase word."""
    if outcome == DRY_RUN:
        return REASON_DRY_RUN
    if outcome != "killed":
        return REASON_STUCK
    return REASON_OVER if verdict.claim.shares else REASON_FOREIGN


def message(verdict: Verdict, outcome: str, shared: SharedDevice | None) -> str:
    """Return the text for the owner."""
    claim, victim, holder = verdict.claim, verdict.victim, verdict.container
    device = _device(verdict, shared)
    process = _process(verdict)
    done = _DONE.get(outcome, outcome)
    uses = f"Container {holder.container_name} uses {mib_ceil(claim.known_bytes)} MiB of GPU memory on {device}"
    if not claim.shares:
        return (
            f"{uses}, of which it was granted nothing. Process {process} {done}. "
            "Use only the devices in NVIDIA_VISIBLE_DEVICES."
        )
    return (
        f"{uses}, above its limit of {mib_floor(verdict.limit_bytes)} MiB ({claim.shares} shares of {claim.resource}). "
        f"Process {process}, which held the most ({mib_ceil(victim.used_bytes or 0)} MiB), {done}. "
        f"Use less memory, or request more of {claim.resource}."
    )


def _process(verdict: Verdict) -> str:
    victim = verdict.victim
    inside = f", {victim.pid_inside} in the container" if victim.pid_inside not in (None, victim.pid) else ""
    command = victim.command if len(victim.command) <= 60 else victim.command[:57] + "..."
    return f"{victim.pid}{inside}{f' ({command})' if command else ''}"


def _device(verdict: Verdict, shared: SharedDevice | None) -> str:
    if shared is None:
        return f"device {verdict.claim.uuid}"
    mig = shared.device.mig
    where = f"GPU {shared.device.index}" + (f" instance {mig.gi_id}" if mig else "")
    return f"{where} ({shared.uuid})"
