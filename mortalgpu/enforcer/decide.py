"""Whom to stop: the pure decision from a scan and from what the enforcer did before.

The rules:
1. Only a container that is certainly over counts: a known limit, exceeded by the memory that the driver tells of its processes.
2. The process with the most memory there is the victim; of equal ones the youngest. One victim per container at a time.
3. While an order runs against a container, nothing more is decided about it; then only by a scan whose look was taken after
   the order ended. So nobody is condemned by the memory of one who is dying.
4. A process that we ended and that the driver still lists is waited for, `drain_seconds` at most. After that, and at once
   for one that could not be ended, its memory is left out: the others are judged by what they hold themselves.
5. An order that failed, or was only reported (dry run), is not repeated before its rest is over.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mortalgpu.host.base import HostProcess
from mortalgpu.model.pod import ContainerRef
from mortalgpu.model.usage import ContainerUsage, DeviceClaim, ProcessUsage, Usage


@dataclass(frozen=True, slots=True)
class Verdict:
    """Stop `victim`: its container is over its limit on the claim's device. `looked_at` is the look that saw it."""

    container: ContainerUsage
    claim: DeviceClaim
    victim: ProcessUsage
    looked_at: float

    @property
    def ref(self) -> ContainerRef:
        """The container, by the kernel's names."""
        return self.victim.container

    @property
    def limit_bytes(self) -> int:
        """What it may use there; a verdict is never made without a limit."""
        return self.claim.limit_bytes or 0


@dataclass(frozen=True, slots=True)
class Standing:
    """What was done about one container. Times are monotonic seconds."""

    pending: bool = False
    settled_at: float = float("-inf")
    """When the last order ended."""
    rest_until: float = float("-inf")
    """Nothing is decided before."""
    ended: Mapping[HostProcess, float] = field(default_factory=dict)
    """Processes that were signalled, with the moment from which their memory is left out."""


Standings = Mapping[ContainerRef, Standing]
_NEW = Standing()


def identity(process: ProcessUsage) -> HostProcess:
    """Return the host's identity of a process as the scan saw it: what a kill must find unchanged."""
    return HostProcess(process.pid, process.start_ticks, process.container)


def decide(usage: Usage, standings: Standings, now: float) -> tuple[Verdict, ...]:
    """Return whom to stop now, at most one process a container. `now` is monotonic seconds."""
    verdicts = (_judge(holder, usage, standings, now) for holder in usage.containers)
    return tuple(verdict for verdict in verdicts if verdict)


def _judge(holder: ContainerUsage, usage: Usage, standings: Standings, now: float) -> Verdict | None:
    if not holder.container_id:
        return None
    standing = standings.get(ContainerRef(holder.pod_uid, holder.container_id), _NEW)
    if standing.pending or now < standing.rest_until or usage.looked_at <= standing.settled_at:
        return None
    for claim in holder.devices:
        victim = _victim(claim, standing, now)
        if victim is not None:
            return Verdict(holder, claim, victim, usage.looked_at)
    return None


def _victim(claim: DeviceClaim, standing: Standing, now: float) -> ProcessUsage | None:
    if claim.limit_bytes is None or not claim.over_limit:
        return None
    if any(now < standing.ended.get(identity(process), now) for process in claim.processes):
        return None
    living = [process for process in claim.processes if identity(process) not in standing.ended]
    if sum(process.used_bytes or 0 for process in living) <= claim.limit_bytes:
        return None
    return max(living, key=lambda process: (process.used_bytes or 0, process.start_ticks, process.pid))


def order_begun(standings: Standings, verdict: Verdict) -> Standings:
    """Return the standings while an order runs."""
    before = standings.get(verdict.ref, _NEW)
    return {**standings, verdict.ref: replace(before, pending=True)}


def order_ended(
    standings: Standings, verdict: Verdict, now: float, *, drain_seconds: float | None = None, rest_seconds: float = 0.0
) -> Standings:
    """Return the standings after an order has ended at `now`.

    `drain_seconds`: for how long the victim's memory may still be listed (0: it could not be ended and is given up on; None:
    it was not signalled). `rest_seconds`: how long to leave the container in peace.
    """
    before = standings.get(verdict.ref, _NEW)
    ended = before.ended
    if drain_seconds is not None:
        ended = {**ended, identity(verdict.victim): now + drain_seconds}
    after = Standing(settled_at=now, rest_until=now + rest_seconds, ended=ended)
    return {**standings, verdict.ref: after}


def forget_gone(standings: Standings, usage: Usage) -> Standings:
    """Drop the standings of containers that the scan does not know any more; those with an order running stay.

    Of the containers that stay, ended processes that the driver no longer lists are dropped, but only by a scan that could
    read all of the container's devices.
    """
    if not standings:
        return standings
    known = {ContainerRef(holder.pod_uid, holder.container_id): holder for holder in usage.containers}
    return {
        ref: _without_gone(standing, known.get(ref), usage)
        for ref, standing in standings.items()
        if standing.pending or ref in known
    }


def _without_gone(standing: Standing, holder: ContainerUsage | None, usage: Usage) -> Standing:
    if not standing.ended or holder is None or usage.looked_at <= standing.settled_at:
        return standing
    if not all(claim.readable for claim in holder.devices):
        return standing
    listed = {identity(process) for process in holder.processes}
    return replace(standing, ended={process: moment for process, moment in standing.ended.items() if process in listed})


def still_over(claim: DeviceClaim, held_now: Mapping[HostProcess, int], standings: Standings) -> bool:
    """Tell whether processes that still are who they were hold more than the limit: the last question before a signal.

    `held_now` is what the driver lists this moment, by identities read this moment.
    """
    if claim.limit_bytes is None or not claim.processes:
        return False
    standing = standings.get(claim.processes[0].container, _NEW)
    mine = {identity(process) for process in claim.processes} - standing.ended.keys()
    return sum(held for process, held in held_now.items() if process in mine) > claim.limit_bytes
