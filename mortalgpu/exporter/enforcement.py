"""Collector: what the enforcer did on this node, whoever it was done to."""

from collections.abc import Iterator

from mortalgpu.exporter import names
from mortalgpu.exporter.family import Distribution, Family, family, single
from mortalgpu.model.kill import DRY_RUN, REACTION_BUCKETS_SECONDS, Enforcement

OUTCOMES = (
    *("killed", "already_gone", "identity_changed", "withdrawn", "not_permitted", "still_there", "failed"),
    DRY_RUN,
)
"""Every outcome has its row from the start, so that the first one is seen as an increase."""


def collect(enforcement: Enforcement, *, enabled: bool) -> Iterator[Family]:
    """Yield the orders by outcome, and how fast they were carried out. `enabled`: processes are really stopped."""
    yield single(names.ENFORCEMENT_ENABLED, float(enabled))
    yield family(names.ENFORCEMENT_ACTIONS, (((outcome,), enforcement.outcomes.get(outcome, 0)) for outcome in OUTCOMES))
    yield single(
        names.ENFORCEMENT_REACTION,
        Distribution(REACTION_BUCKETS_SECONDS, tuple(enforcement.reaction_buckets), enforcement.reaction_seconds),
    )
