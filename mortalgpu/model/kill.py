"""What the enforcer did: the record of each action, and the figures over all of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

REACTION_BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the reaction time's histogram; one more bucket above the last takes the rest."""

DRY_RUN = "dry_run"
"""The outcome of an action that was only reported. The other outcomes are the values of the host port's KillOutcome."""


@dataclass(frozen=True, slots=True)
class KillRecord:
    """One process that the enforcer acted upon, with the reason a person can read.

    `used_bytes` is what all the container's processes held on the device when they were judged, `process_bytes` this one's.
    """

    number: int
    """1 for the first since the daemon was started."""
    at: float
    """Wall-clock seconds since the epoch at which the outcome was known."""
    pod_namespace: str
    pod_name: str
    pod_uid: str
    container_name: str
    container_id: str
    uuid: str
    resource: str
    pid: int
    used_bytes: int
    limit_bytes: int
    process_bytes: int
    outcome: str
    """`killed`, `already_gone`, `identity_changed`, `withdrawn`, `not_permitted`, `still_there`, `failed` or `dry_run`."""
    message: str
    """Two or three plain sentences for the container's owner."""
    reaction_seconds: float | None = None
    """From the look that saw it to the process being gone; None unless it was killed."""
    pid_inside: int | None = None
    user: str = ""
    command: str = ""


@dataclass(frozen=True, slots=True)
class KillTarget:
    """A container on a device, by the names that metrics use."""

    pod_namespace: str
    pod_name: str
    container_name: str
    uuid: str
    resource: str


@dataclass(frozen=True, slots=True)
class Enforcement:
    """The newest records, oldest first, and the figures since the daemon was started."""

    history: tuple[KillRecord, ...] = ()
    outcomes: Mapping[str, int] = field(default_factory=dict)
    """Actions by outcome; only grows."""
    kills: Mapping[KillTarget, int] = field(default_factory=dict)
    """Kills by container and device, for containers that still exist."""
    reaction_seconds: float = 0.0
    """Sum over all kills."""
    reaction_buckets: tuple[int, ...] = (0,) * (len(REACTION_BUCKETS_SECONDS) + 1)
    """How many kills fell into each bucket of REACTION_BUCKETS_SECONDS; not cumulative."""


NO_ENFORCEMENT = Enforcement()
"""What is known before the enforcer has done anything."""
