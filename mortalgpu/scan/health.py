"""Judges the health of devices from probes and from what the driver reports by itself. Pure.

The rules:
1. A device that does not answer a probe, or that the driver reports as lost, is unhealthy until it answers one.
2. A critical event (an XID, an uncorrectable ECC error) makes a device unhealthy as the policy says for it: not at all, until
   it has been quiet for a while and answers a probe, or until it is reset. A reset shows as a device that was gone and
   answers again, which ends every trouble of it, or as a driver that was opened anew. A call that merely failed is no reset.
3. Trouble of a physical GPU is trouble of all its partitions; trouble of one partition is that partition's alone.
4. Of several troubles the oldest gives the reason.

The default policy ignores the XIDs that an application causes by itself; the list is the one NVIDIA's own device plugin has
(13, 31, 43, 45, 68, 109). XIDs after which NVIDIA's catalogue asks for a reset or a reboot last until the reset;
154 is none of them, since it also tells that nothing more needs to be done.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from mortalgpu.model.device import HEALTHY, Device, Fault, Health, HealthEvent

IGNORE = "ignore"
UNTIL_CLEAR = "untilClear"
UNTIL_RESET = "untilReset"

DEFAULT_XIDS: Mapping[str, str] = {
    **dict.fromkeys(("13", "31", "43", "45", "68", "109"), IGNORE),
    **dict.fromkeys(("46", "48", "54", "62", "64", "74", "79", "95", "110", "119", "120", "136", "140", "143"), UNTIL_RESET),
    "default": UNTIL_CLEAR,
}
"""By XID number as text; `default` for all others."""


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """What each XID means, and for how long a device must be quiet to be well again."""

    xids: Mapping[str, str] = field(default_factory=lambda: DEFAULT_XIDS)
    quiet_seconds: float = 60.0

    def action(self, event: HealthEvent) -> str:
        """Return IGNORE, UNTIL_CLEAR or UNTIL_RESET for an event."""
        if event.kind == "xid":
            return self.xids.get(str(event.code), self.xids.get("default", UNTIL_CLEAR))
        return {"ecc_double": UNTIL_RESET, _LOST: UNTIL_CLEAR}.get(event.kind, IGNORE)


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is wrong with a device, or a GPU, since `since` (wall clock) and last seen at `seen` (monotonic)."""

    reason: str
    since: float
    seen: float
    until: str
    gone: bool = False
    """The device itself was gone, at least for a moment."""


Troubles = Mapping[str, Mapping[str, Trouble]]
"""By UUID (of a device or of a physical GPU), then by kind (`probe`, `xid 79`, `ecc_double`)."""

NO_TROUBLES: Troubles = {}
_PROBE, _LOST = "probe", "lost"
"""Troubles that end with the next good probe."""


def after_event(
    troubles: Troubles, event: HealthEvent, devices: Iterable[Device], policy: HealthPolicy, now: float, monotonic: float
) -> Troubles:
    """Return the troubles after an event; `now` is the wall clock, `monotonic` the other one, both in seconds."""
    until = policy.action(event)
    if until == IGNORE:
        return troubles
    kind = f"xid {event.code}" if event.kind == "xid" else event.kind
    reason = {"ecc_double": "uncorrectable ECC error", _LOST: "GPU is lost"}.get(event.kind, f"XID {event.code}")
    uuids = [event.uuid] if event.uuid else sorted({device.gpu_uuid for device in devices})
    after = {uuid: dict(found) for uuid, found in troubles.items()}
    for uuid in uuids:
        mine = after.setdefault(uuid, {})
        since = mine[kind].since if kind in mine else now
        mine[kind] = Trouble(reason, since, monotonic, until)
    return after


def fault_of_missing(probe: Fault | None) -> Fault:
    """Return the fault of a device that the last enumeration did not find, by what its probe says.

    Only one that the driver does not know any more is gone: it may be left out also because a call to it hangs, or failed.
    """
    return Fault("GPU is gone from the driver's list", lost=probe is not None) if probe is None or probe.lost else probe


def after_probes(
    troubles: Troubles, probes: Mapping[str, Fault | None], now: float, monotonic: float, quiet_seconds: float
) -> Troubles:
    """Return the troubles after every device was probed: failed probes begin one, good ones end what they can (rules 1, 2)."""
    after: dict[str, dict[str, Trouble]] = {}
    for uuid in {*troubles, *probes}:
        mine = dict(troubles.get(uuid, {}))
        fault = probes.get(uuid)
        if fault is not None:
            old = mine.get(_PROBE)
            since, was_gone = (old.since, old.gone) if old else (now, False)
            mine[_PROBE] = Trouble(fault.text, since, monotonic, UNTIL_CLEAR, was_gone or fault.lost)
        elif uuid in probes:
            mine = _after_good_probe(mine, monotonic, quiet_seconds)
        if mine:
            after[uuid] = mine
    return after


def _after_good_probe(mine: dict[str, Trouble], monotonic: float, quiet_seconds: float) -> dict[str, Trouble]:
    probe = mine.get(_PROBE)
    if probe and probe.gone:
        return {}
    return {
        kind: trouble
        for kind, trouble in mine.items()
        if kind not in (_PROBE, _LOST) and (trouble.until == UNTIL_RESET or monotonic - trouble.seen < quiet_seconds)
    }


def after_reopening(troubles: Troubles) -> Troubles:
    """Return the troubles after the driver was opened anew, which ends those that last until a reset."""
    kept = {
        uuid: {kind: trouble for kind, trouble in mine.items() if trouble.until != UNTIL_RESET}
        for uuid, mine in troubles.items()
    }
    return {uuid: mine for uuid, mine in kept.items() if mine}


def after_policy(troubles: Troubles, policy: HealthPolicy) -> Troubles:
    """Return the troubles as another policy sees them: what it ignores is over, the rest lasts as long as it says."""
    kept = {
        uuid: {
            kind: replace(trouble, until=until)
            for kind, trouble in mine.items()
            if (until := _until(kind, trouble, policy)) != IGNORE
        }
        for uuid, mine in troubles.items()
    }
    return {uuid: mine for uuid, mine in kept.items() if mine}


def _until(kind: str, trouble: Trouble, policy: HealthPolicy) -> str:
    word, _, code = kind.partition(" ")
    return policy.action(HealthEvent(word, None, int(code))) if code else trouble.until


def judge(devices: Iterable[Device], troubles: Troubles, before: Mapping[str, Health], now: float) -> dict[str, Health]:
    """Return each device's health (rules 3, 4); a state that did not change keeps its `since`."""
    return {device.uuid: _judge(device, troubles, before.get(device.uuid, HEALTHY), now) for device in devices}


def _judge(device: Device, troubles: Troubles, before: Health, now: float) -> Health:
    mine = [*troubles.get(device.uuid, {}).values()]
    if device.gpu_uuid != device.uuid:
        mine += [
            replace(trouble, reason=f"its GPU: {trouble.reason}") for trouble in troubles.get(device.gpu_uuid, {}).values()
        ]
    if not mine:
        return before if before.healthy else Health(True, "", now)
    worst = min(mine, key=lambda trouble: trouble.since)
    if not before.healthy and before.reason == worst.reason:
        return before
    return Health(False, worst.reason, now if before.healthy else before.since)
