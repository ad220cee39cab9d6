"""A machine for each test: the worked example's devices in a state file of its own, under the real adapter."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mortalgpu.driver.base import OpenDriver
from mortalgpu.driver.nvml import NvmlSettings, nvml_driver
from mortalgpu.simulation.driver import worked_example
from tests.standin.nvml import StateFile, build, state_of

CALL_SECONDS = 0.3


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StateFile]:
    """Yield the state file that the stand-in answers from; faults end with the test."""
    file = StateFile(tmp_path / "nvml.state", state_of(worked_example()))
    for name, value in file.environment.items():
        monkeypatch.setenv(name, value)
    yield file
    file.clear_faults()


@pytest.fixture
def settings(tmp_path: Path) -> NvmlSettings:
    """Return settings with deadlines short enough for tests, and an empty /sys."""
    return NvmlSettings(
        library=str(build()),
        sysfs=tmp_path / "sys",
        call_seconds=CALL_SECONDS,
        enumerate_seconds=CALL_SECONDS,
        open_seconds=10.0,
        event_wait_seconds=0.1,
        max_abandoned=2,
    )


@pytest.fixture
def open_driver(machine: StateFile, settings: NvmlSettings) -> OpenDriver:
    """Return what opens the adapter on the machine."""
    return nvml_driver(settings)
