"""What the owner of a stopped process reads."""

import pytest

from mortalgpu.enforcer.decide import Verdict
from mortalgpu.enforcer.wording import message, reason
from mortalgpu.model.kill import DRY_RUN
from mortalgpu.model.usage import ContainerUsage, DeviceClaim, ProcessUsage
from mortalgpu.units import MIB
from tests.unit.scan.making import RESOURCE, cid, partition, ref, shared, uid


def verdict(shares: int = 4, limit: int = 400, command: str = "python train.py") -> Verdict:
    """Container `main` uses 900 of 400 MiB on GPU-a; process 4711 (12 inside) holds 700 of them."""
    victim = ProcessUsage(4711, 5, ref(1), "GPU-a", 700 * MIB, None, "ann", command, 12)
    other = ProcessUsage(4712, 5, ref(1), "GPU-a", 200 * MIB)
    claim = DeviceClaim("GPU-a", RESOURCE, shares, limit * MIB, limit * MIB, (victim, other))
    return Verdict(ContainerUsage("ns", "p", "main", uid(1), cid(1), (claim,)), claim, victim, 1.0)


def test_the_text_says_who_where_how_much_what_and_what_to_do() -> None:
    assert message(verdict(), "killed", shared(index=3)) == (
        "Container main uses 900 MiB of GPU memory on GPU 3 (GPU-a), above its limit of 400 MiB (4 shares of mortalgpu/v100). "
        "Process 4711, 12 in the container (python train.py), which held the most (700 MiB), was stopped. "
        "Use less memory, or request more of mortalgpu/v100."
    )


def test_a_foreign_device_has_its_own_words() -> None:
    text = message(verdict(shares=0, limit=0), "killed", shared())
    assert "of which it was granted nothing" in text
    assert "NVIDIA_VISIBLE_DEVICES" in text


def test_a_partition_is_named_by_its_gpu_instance() -> None:
    assert "GPU 0 instance 9 (MIG-9)" in message(verdict(), "killed", partition("MIG-9", "GPU-p", 9, mib=9728, shares=100))


@pytest.mark.parametrize(
    ("outcome", "words", "word"),
    [
        ("killed", "was stopped", "GpuMemoryLimitExceeded"),
        (DRY_RUN, "only reports", "GpuMemoryLimitExceededDryRun"),
        ("still_there", "does not end", "GpuProcessCannotBeStopped"),
        ("not_permitted", "the kernel refused", "GpuProcessCannotBeStopped"),
    ],
)
def test_the_text_and_the_reason_follow_the_outcome(outcome: str, words: str, word: str) -> None:
    assert words in message(verdict(), outcome, shared())
    assert reason(verdict(), outcome) == word


def test_the_reason_for_a_foreign_device_differs() -> None:
    assert reason(verdict(shares=0), "killed") == "GpuDeviceNotGranted"


def test_a_long_command_is_cut_so_that_the_text_fits_an_event() -> None:
    assert len(message(verdict(command="x" * 5000), "killed", shared())) < 1024


def test_a_device_that_is_gone_is_still_named() -> None:
    assert "device GPU-a" in message(verdict(), "killed", None)
