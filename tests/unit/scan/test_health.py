"""What makes a device unhealthy, for how long, and what it is told to people."""

from collections.abc import Mapping

import pytest

from mortalgpu.model.device import HEALTHY, Device, Fault, Health, HealthEvent, MigPlacement
from mortalgpu.scan.health import (
    DEFAULT_XIDS,
    NO_TROUBLES,
    HealthPolicy,
    Troubles,
    after_event,
    after_probes,
    after_reopening,
    judge,
)

GPU = Device("GPU-1", 0, "A", 2**30, mig_mode=True)
OTHER = Device("GPU-2", 1, "A", 2**30)
PART = Device("MIG-1", 0, "A", 2**29, mig=MigPlacement("GPU-1", 1, 0))
TWIN = Device("MIG-2", 0, "A", 2**29, mig=MigPlacement("GPU-1", 2, 0))
DEVICES = (GPU, PART, TWIN, OTHER)
QUIET = 60.0
WALL = 1_000_000.0
WELL: Mapping[str, Fault | None] = {device.uuid: None for device in DEVICES}


def event(troubles: Troubles, what: HealthEvent, at: float, policy: HealthPolicy | None = None) -> Troubles:
    """Return the troubles after an event at `at` seconds."""
    return after_event(troubles, what, DEVICES, policy or HealthPolicy(), WALL + at, at)


def probed(troubles: Troubles, at: float, **faults: Fault) -> Troubles:
    """Return the troubles after a probe of all devices, in which those named by keyword (`MIG_1`) have a fault."""
    named = {name.replace("_", "-"): fault for name, fault in faults.items()}
    return after_probes(troubles, {**WELL, **named}, WALL + at, at, QUIET)


def sick(troubles: Troubles) -> dict[str, str]:
    """Return the reasons of the devices that are unhealthy."""
    found = judge(DEVICES, troubles, {}, WALL)
    return {uuid: health.reason for uuid, health in found.items() if not health.healthy}


@pytest.mark.parametrize("xid", [13, 31, 43, 45, 68, 109])
def test_faults_of_applications_do_not_count(xid: int) -> None:
    assert event(NO_TROUBLES, HealthEvent("xid", "GPU-2", xid), 0) == NO_TROUBLES


@pytest.mark.parametrize("kind", ["ecc_single", "something new"])
def test_what_is_no_trouble_does_not_count(kind: str) -> None:
    assert sick(event(NO_TROUBLES, HealthEvent(kind, "GPU-2"), 0)) == {}


XIDS = {
    "in the catalogue of resets": (79, {}, 3600.0, False),
    "not in any catalogue, soon": (999, {}, 59.0, False),
    "not in any catalogue, after a while": (999, {}, 60.0, True),
    "ignored by the operator": (79, {"79": "ignore"}, 0.0, True),
    "an application's, made serious": (13, {"13": "untilReset"}, 3600.0, False),
    "a default of the operator's": (999, {"default": "ignore"}, 0.0, True),
    "a default that does not replace what is named": (79, {"default": "ignore"}, 0.0, False),
}


@pytest.mark.parametrize(("xid", "changed", "later", "is_well"), XIDS.values(), ids=XIDS)
def test_an_xid_counts_as_the_policy_says(xid: int, changed: Mapping[str, str], later: float, is_well: bool) -> None:
    policy = HealthPolicy({**DEFAULT_XIDS, **changed}, QUIET)
    troubles = probed(event(NO_TROUBLES, HealthEvent("xid", "GPU-2", xid), 0, policy), later)
    assert sick(troubles) == ({} if is_well else {"GPU-2": f"XID {xid}"})


def test_a_repeated_event_begins_the_quiet_time_anew() -> None:
    troubles = event(NO_TROUBLES, HealthEvent("xid", "GPU-2", 999), 0)
    troubles = event(troubles, HealthEvent("xid", "GPU-2", 999), 50)
    assert sick(probed(troubles, 100)) == {"GPU-2": "XID 999"}
    assert sick(probed(troubles, 110)) == {}


def test_a_device_that_answers_no_probe_is_unhealthy_until_it_does() -> None:
    troubles = probed(NO_TROUBLES, 0, GPU_2=Fault("timeout"))
    assert sick(troubles) == {"GPU-2": "timeout"}
    assert sick(probed(troubles, 0.5)) == {}


def test_a_device_that_was_gone_and_answers_again_was_reset() -> None:
    troubles = event(NO_TROUBLES, HealthEvent("xid", "GPU-2", 79), 0)
    troubles = event(troubles, HealthEvent("lost", "GPU-2"), 0)
    troubles = event(troubles, HealthEvent("xid", "GPU-2", 999), 0)
    gone = probed(troubles, 1, GPU_2=Fault("gpu is lost", lost=True))
    assert sick(gone) == {"GPU-2": "XID 79"}
    assert sick(probed(gone, 2)) == {}


def test_a_call_that_failed_is_no_reset() -> None:
    troubles = event(NO_TROUBLES, HealthEvent("xid", "GPU-2", 79), 0)
    slow = probed(troubles, 1, GPU_2=Fault("did not return"))
    assert sick(probed(slow, 2)) == {"GPU-2": "XID 79"}


def test_a_device_that_was_gone_and_then_silent_was_reset_all_the_same() -> None:
    troubles = event(NO_TROUBLES, HealthEvent("ecc_double", "GPU-2"), 0)
    troubles = probed(troubles, 1, GPU_2=Fault("gpu is lost", lost=True))
    troubles = probed(troubles, 2, GPU_2=Fault("did not return"))
    assert sick(troubles) == {"GPU-2": "uncorrectable ECC error"}
    assert sick(probed(troubles, 3)) == {}


def test_a_loss_that_the_driver_reported_ends_with_the_next_answer_and_proves_no_reset() -> None:
    troubles = event(NO_TROUBLES, HealthEvent("lost", "GPU-2"), 0)
    assert sick(troubles) == {"GPU-2": "GPU is lost"}
    troubles = probed(event(troubles, HealthEvent("xid", "GPU-2", 79), 0.1), 0.2)
    assert sick(troubles) == {"GPU-2": "XID 79"}


def test_a_driver_opened_anew_ends_what_lasts_until_a_reset_and_nothing_else() -> None:
    troubles = event(NO_TROUBLES, HealthEvent("xid", "GPU-2", 79), 0)
    assert sick(after_reopening(troubles)) == {}
    troubles = event(troubles, HealthEvent("xid", "GPU-2", 999), 1)
    assert sick(after_reopening(troubles)) == {"GPU-2": "XID 999"}


def test_a_gpus_trouble_is_its_partitions_and_a_partitions_is_its_own() -> None:
    of_gpu = event(NO_TROUBLES, HealthEvent("xid", "GPU-1", 79), 0)
    assert sick(of_gpu) == {"GPU-1": "XID 79", "MIG-1": "its GPU: XID 79", "MIG-2": "its GPU: XID 79"}
    assert sick(event(NO_TROUBLES, HealthEvent("xid", "MIG-1", 79), 0)) == {"MIG-1": "XID 79"}


def test_an_event_without_a_device_concerns_all_of_them() -> None:
    assert set(sick(event(NO_TROUBLES, HealthEvent("xid", None, 79), 0))) == {device.uuid for device in DEVICES}


def test_the_oldest_trouble_gives_the_reason() -> None:
    troubles = event(NO_TROUBLES, HealthEvent("xid", "GPU-2", 79), 5)
    assert sick(event(troubles, HealthEvent("ecc_double", "GPU-2"), 3)) == {"GPU-2": "uncorrectable ECC error"}


def test_a_state_that_does_not_change_keeps_its_beginning() -> None:
    troubles = probed(NO_TROUBLES, 0, GPU_2=Fault("timeout"))
    first = judge([OTHER], troubles, {}, WALL)
    assert first == {"GPU-2": Health(False, "timeout", WALL)}
    assert judge([OTHER], troubles, first, WALL + 9) == first
    assert judge([OTHER], NO_TROUBLES, first, WALL + 9) == {"GPU-2": Health(True, "", WALL + 9)}
    assert judge([OTHER], NO_TROUBLES, {}, WALL + 9) == {"GPU-2": HEALTHY}


def test_another_reason_in_the_same_sickness_keeps_its_beginning() -> None:
    first = judge([OTHER], probed(NO_TROUBLES, 0, GPU_2=Fault("timeout")), {}, WALL)
    later = judge([OTHER], probed(NO_TROUBLES, 5, GPU_2=Fault("gpu is lost", True)), first, WALL + 5)
    assert later == {"GPU-2": Health(False, "gpu is lost", WALL)}


def test_a_device_that_was_not_probed_keeps_its_troubles() -> None:
    troubles = probed(NO_TROUBLES, 0, GPU_2=Fault("timeout"))
    assert sick(after_probes(troubles, {"GPU-1": None}, WALL, 100, QUIET)) == {"GPU-2": "timeout"}
