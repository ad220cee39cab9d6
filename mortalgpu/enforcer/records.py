"""The enforcer's memory for people and metrics: records, and the figures over them. Pure."""

from bisect import bisect_left
from collections import Counter, deque

from mortalgpu.enforcer.decide import Verdict
from mortalgpu.model.kill import REACTION_BUCKETS_SECONDS, Enforcement, KillRecord, KillTarget
from mortalgpu.model.usage import Usage


class Records:
    """Bounded: the newest records, a figure for each outcome, and one for each container that still exists."""

    def __init__(self, newest: int) -> None:
        self._history: deque[KillRecord] = deque(maxlen=newest)
        self._outcomes: Counter[str] = Counter()
        self._kills: Counter[KillTarget] = Counter()
        self._buckets = [0] * (len(REACTION_BUCKETS_SECONDS) + 1)
        self._reaction_seconds = 0.0

    @property
    def next_number(self) -> int:
        """The number of the next record."""
        return self._outcomes.total() + 1

    def add(self, record: KillRecord) -> None:
        """Take in one more record."""
        self._history.append(record)
        self._outcomes[record.outcome] += 1
        if record.outcome == "killed":
            self._kills[_target(record)] += 1
        if record.reaction_seconds is not None:
            self._reaction_seconds += record.reaction_seconds
            self._buckets[bisect_left(REACTION_BUCKETS_SECONDS, record.reaction_seconds)] += 1

    def forget_gone(self, usage: Usage) -> bool:
        """Drop the figures of containers that the scan does not know; returns whether there were any."""
        if not self._kills:
            return False
        known = {(holder.pod_namespace, holder.pod_name, holder.container_name) for holder in usage.containers}
        gone = [each for each in self._kills if (each.pod_namespace, each.pod_name, each.container_name) not in known]
        for each in gone:
            del self._kills[each]
        return bool(gone)

    def summary(self) -> Enforcement:
        """Return everything, frozen."""
        return Enforcement(
            tuple(self._history), dict(self._outcomes), dict(self._kills), self._reaction_seconds, tuple(self._buckets)
        )


def record(
    verdict: Verdict,
    outcome: str,
    message: str,
    *,
    number: int,
    at: float,
    reaction_seconds: float | None,
) -> KillRecord:
    """Return the record of one order that has ended."""
    holder, claim, victim = verdict.container, verdict.claim, verdict.victim
    return KillRecord(
        number=number,
        at=at,
        pod_namespace=holder.pod_namespace,
        pod_name=holder.pod_name,
        pod_uid=holder.pod_uid,
        container_name=holder.container_name,
        container_id=holder.container_id,
        uuid=claim.uuid,
        resource=claim.resource,
        pid=victim.pid,
        used_bytes=claim.known_bytes,
        limit_bytes=verdict.limit_bytes,
        process_bytes=victim.used_bytes or 0,
        outcome=outcome,
        message=message,
        reaction_seconds=reaction_seconds,
        pid_inside=victim.pid_inside,
        user=victim.user,
        command=victim.command,
    )


def _target(found: KillRecord) -> KillTarget:
    return KillTarget(found.pod_namespace, found.pod_name, found.container_name, found.uuid, found.resource)
