"""Another policy meets troubles that are there already."""

import pytest

from mortalgpu.model.device import Device, Fault, HealthEvent
from mortalgpu.scan.health import (
    DEFAULT_XIDS,
    NO_TROUBLES,
    HealthPolicy,
    Troubles,
    after_event,
    after_policy,
    after_probes,
)

GPU = Device("GPU-1", 0, "A", 2**30)


def troubled(*xids: int) -> Troubles:
    """The troubles after these XIDs and an uncorrectable ECC error."""
    troubles = NO_TROUBLES
    for event in (HealthEvent("ecc_double", "GPU-1"), *(HealthEvent("xid", "GPU-1", xid) for xid in xids)):
        troubles = after_event(troubles, event, [GPU], HealthPolicy(), 100.0, 100.0)
    return troubles


def until(troubles: Troubles) -> dict[str, str]:
    """How long each trouble lasts, by kind."""
    return {kind: trouble.until for kind, trouble in troubles.get("GPU-1", {}).items()}


@pytest.mark.parametrize(("xids", "left"), [
    ({}, {"ecc_double": "untilReset", "xid 79": "untilReset", "xid 63": "untilClear"}),
    ({"79": "ignore"}, {"ecc_double": "untilReset", "xid 63": "untilClear"}),
    ({"79": "untilClear", "63": "untilReset"}, {"ecc_double": "untilReset", "xid 79": "untilClear", "xid 63": "untilReset"}),
    ({"default": "ignore"}, {"ecc_double": "untilReset", "xid 79": "untilReset"}),
])  # fmt: skip
def test_troubles_last_as_the_new_policy_says(xids: dict[str, str], left: dict[str, str]) -> None:
    assert until(after_policy(troubled(79, 63), HealthPolicy({**DEFAULT_XIDS, **xids}))) == left


def test_a_device_that_does_not_answer_is_no_matter_of_policy() -> None:
    silent = after_probes(NO_TROUBLES, {"GPU-1": Fault("GPU is lost", True)}, 100.0, 100.0, 60.0)
    assert after_policy(silent, HealthPolicy({"default": "ignore"})) == silent


def test_the_last_trouble_that_goes_takes_the_device_out_of_the_list() -> None:
    only = after_event(NO_TROUBLES, HealthEvent("xid", "GPU-1", 79), [GPU], HealthPolicy(), 100.0, 100.0)
    assert after_policy(only, HealthPolicy({"default": "ignore"})) == {}
