"""The enforcer: carries out verdicts, and tells everybody what was done. The only writer of `Latest[Enforcement]`.

An order holds the process first (so that its number cannot change hands), then asks once more whether it is still wanted: the
newest scan must still know the claim, and the driver must list, this moment, enough memory by processes that still are who
they were. Only then the signal. What cannot be asked is not answered with a signal.

News (log, Event, record) comes after the deed and never delays the next one.
"""

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import trio

from mortalgpu.cluster.base import Cluster, PodsView
from mortalgpu.driver.base import GpuDriver
from mortalgpu.enforcer.decide import (
    Standings,
    Verdict,
    decide,
    forget_gone,
    identity,
    order_begun,
    order_ended,
    still_over,
)
from mortalgpu.enforcer.records import Records, record
from mortalgpu.enforcer.wording import message, reason
from mortalgpu.errors import DriverError, HostError
from mortalgpu.host.base import HostProcess, KillOutcome, ProcessDetails, ProcessTable, WallClock
from mortalgpu.latest import Latest
from mortalgpu.model.kill import DRY_RUN, Enforcement
from mortalgpu.model.pod import Pod, PodNote
from mortalgpu.model.usage import DeviceClaim, Usage

log = logging.getLogger(__name__)

FAILED = "failed"
"""The outcome of an order that ended in an error of the host."""

_TOLD = {"killed", "still_there", "not_permitted", FAILED, DRY_RUN}
"""Outcomes that the container's owner hears of; after the others nothing has changed for them."""


@dataclass(frozen=True, slots=True)
class EnforcerSettings:
    """`dry_run` reports and does not kill. `grace_seconds` above zero: SIGTERM first, SIGKILL when it is over."""

    enabled: bool = True
    """False: nobody is judged."""
    dry_run: bool = False
    grace_seconds: float = 0.0
    gone_within_seconds: float = 5.0
    """How long after SIGKILL a process may take to end before it is given up on."""
    drain_seconds: float = 5.0
    """How long the driver may go on listing a process that has ended."""
    retry_seconds: float = 5.0
    """Rest after an order that failed."""
    report_seconds: float = 300.0
    """Rest between two reports about one container in a dry run."""
    describe_seconds: float = 0.05
    """How long an order may wait for the description of a victim that nobody has read about yet."""
    question_seconds: float = 2.0
    """How long the last question may take before the order is withdrawn."""
    spare_seconds: float = 10.0
    """How much longer than all of the above together an order may take before it counts as failed."""
    history: int = 100


@dataclass(frozen=True, slots=True)
class Hands:
    """The ports that an order needs."""

    driver: GpuDriver
    processes: ProcessTable
    cluster: Cluster
    clock: WallClock


async def serve(
    hands: Hands,
    usage: Latest[Usage],
    pods: Latest[PodsView],
    enforcement: Latest[Enforcement],
    settings: EnforcerSettings | Latest[EnforcerSettings],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Judge every `Usage` and carry out the verdicts, until cancelled. A signal that was sent stays sent.

    Settings in a cell may change meanwhile; an order goes by those it began with, and is withdrawn where they forbid it since.
    """
    async with trio.open_nursery() as nursery:
        cell = settings if isinstance(settings, Latest) else Latest(settings)
        enforcer = _Enforcer(hands, usage, pods, enforcement, cell)
        task_status.started()
        seen = usage.version
        while True:
            for verdict in enforcer.verdicts():
                nursery.start_soon(enforcer.carry_out, verdict)
            await usage.wait_beyond(seen)
            seen = usage.version


class _Enforcer:
    def __init__(
        self,
        hands: Hands,
        usage: Latest[Usage],
        pods: Latest[PodsView],
        enforcement: Latest[Enforcement],
        settings: Latest[EnforcerSettings],
    ) -> None:
        self._driver = hands.driver
        self._processes = hands.processes
        self._cluster = hands.cluster
        self._clock = hands.clock
        self._usage = usage
        self._pods = pods
        self._enforcement = enforcement
        self._cell = settings
        self._standings: Standings = {}
        self._records = Records(settings.value.history)

    @property
    def _settings(self) -> EnforcerSettings:
        return self._cell.value

    def verdicts(self) -> tuple[Verdict, ...]:
        """Return whom the newest scan condemns, with their orders entered as running."""
        usage = self._usage.value
        self._standings = forget_gone(self._standings, usage)
        if self._records.forget_gone(usage):
            self._enforcement.publish(self._records.summary())
        if not self._settings.enabled:
            return ()
        found = decide(usage, self._standings, self._clock.monotonic())
        for verdict in found:
            self._standings = order_begun(self._standings, verdict)
        return found

    async def carry_out(self, verdict: Verdict) -> None:
        """Carry out one order and tell of it. Raises nothing but bugs."""
        settings, outcome = self._settings, DRY_RUN
        if not settings.dry_run:
            outcome = FAILED
            # The host bounds a kill by itself; this is for a thread that never comes back.
            with trio.move_on_after(settings.grace_seconds + settings.gone_within_seconds + settings.spare_seconds):
                verdict = await self._described(verdict, settings)
                outcome = await self._kill(verdict, settings)
        self._settle(verdict, outcome, settings)
        self._tell(verdict, outcome)

    async def _described(self, verdict: Verdict, settings: EnforcerSettings) -> Verdict:
        """Read about a victim that is too new to be known by more than its number: soon there is nobody to read about."""
        victim = verdict.victim
        if victim.command:
            return verdict
        found: Mapping[int, ProcessDetails] = {}
        with trio.move_on_after(settings.describe_seconds), suppress(HostError):
            found = await self._processes.describe([identity(victim)])
        about = found.get(victim.pid)
        if about is None:
            return verdict
        known = replace(victim, user=about.user, command=about.command, pid_inside=about.pid_inside)
        return replace(verdict, victim=known)

    async def _kill(self, verdict: Verdict, settings: EnforcerSettings) -> str:
        expected = identity(verdict.victim)
        try:
            handle = await self._processes.open(expected.pid)
            if handle is None:
                return KillOutcome.ALREADY_GONE.value
            with handle:
                outcome = await handle.kill(
                    expected,
                    grace_seconds=settings.grace_seconds,
                    gone_within_seconds=settings.gone_within_seconds,
                    still_wanted=lambda: self._is_still_wanted(verdict),
                )
        except HostError as error:
            log.error("a process cannot be held for its end", extra={"pid": expected.pid, "cause": str(error)})
            return FAILED
        return outcome.value

    async def _is_still_wanted(self, verdict: Verdict) -> bool:
        """Ask the newest scan, the driver and the host once more. No answer means no."""
        claim = self._newest_claim(verdict)
        if claim is None or self._settings.dry_run or not self._settings.enabled:
            return False
        try:
            with trio.fail_after(self._settings.question_seconds):
                held_now = await self._held_now(claim)
        except (DriverError, HostError, trio.TooSlowError) as error:
            log.warning("an order is withdrawn: its reason cannot be checked", extra={"cause": str(error)})
            return False
        return identity(verdict.victim) in held_now and still_over(claim, held_now, self._standings)

    def _newest_claim(self, verdict: Verdict) -> DeviceClaim | None:
        holder = self._usage.value.container(verdict.ref.container_id)
        return holder.claim_on(verdict.claim.uuid) if holder else None

    async def _held_now(self, claim: DeviceClaim) -> dict[HostProcess, int]:
        """Return what each process on the device holds this moment, by its identity of this moment."""
        listed = (await self._driver.processes([claim.uuid])).get(claim.uuid)
        if not isinstance(listed, tuple):
            return {}
        held = {found.pid: found.used_bytes for found in listed if found.used_bytes}
        present = await self._processes.inspect([process.pid for process in claim.processes if process.pid in held])
        return {process: held[pid] or 0 for pid, process in present.items()}

    def _settle(self, verdict: Verdict, outcome: str, settings: EnforcerSettings) -> None:
        drain_seconds, rest_seconds = None, 0.0
        if outcome == KillOutcome.KILLED.value:
            drain_seconds = settings.drain_seconds
        elif outcome == KillOutcome.STILL_THERE.value:
            drain_seconds = 0.0
        elif outcome in (KillOutcome.NOT_PERMITTED.value, FAILED):
            rest_seconds = settings.retry_seconds
        elif outcome == DRY_RUN:
            rest_seconds = settings.report_seconds
        now = self._clock.monotonic()
        self._standings = order_ended(self._standings, verdict, now, drain_seconds=drain_seconds, rest_seconds=rest_seconds)

    def _tell(self, verdict: Verdict, outcome: str) -> None:
        shared = next((each.shared for each in self._usage.value.devices if each.uuid == verdict.claim.uuid), None)
        reaction = self._clock.monotonic() - verdict.looked_at if outcome == KillOutcome.KILLED.value else None
        text = message(verdict, outcome, shared)
        number, at = self._records.next_number, self._clock.now()
        self._records.add(record(verdict, outcome, text, number=number, at=at, reaction_seconds=reaction))
        self._enforcement.publish(self._records.summary())
        _log_outcome(verdict, outcome, reaction)
        if outcome in _TOLD:
            self._cluster.note(self._pod(verdict), PodNote(reason(verdict, outcome), text))

    def _pod(self, verdict: Verdict) -> Pod:
        holder = verdict.container
        known = self._pods.value.pods.get(holder.pod_uid)
        return known or Pod(holder.pod_uid, holder.pod_name, holder.pod_namespace)


def _log_outcome(verdict: Verdict, outcome: str, reaction: float | None) -> None:
    holder, claim, victim = verdict.container, verdict.claim, verdict.victim
    if outcome == KillOutcome.KILLED.value or outcome == DRY_RUN:
        level, event = logging.WARNING, "container over its limit"
    elif outcome in _TOLD:
        level, event = logging.ERROR, "container over its limit, and its process cannot be ended"
    else:
        level, event = logging.INFO, "order to end a process came to nothing"
    log.log(
        level,
        event,
        extra={
            "outcome": outcome,
            "namespace": holder.pod_namespace,
            "pod": holder.pod_name,
            "container": holder.container_name,
            "container_id": holder.container_id,
            "device": claim.uuid,
            "resource": claim.resource,
            "pid": victim.pid,
            "used_bytes": claim.known_bytes,
            "limit_bytes": claim.limit_bytes,
            "reaction_seconds": reaction,
        },
    )
