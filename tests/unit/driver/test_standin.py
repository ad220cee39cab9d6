"""The stand-in itself, where a mistake in a test would otherwise look like one in the adapter."""

import ctypes
from pathlib import Path

import pytest

from mortalgpu.driver.base import OpenDriver
from mortalgpu.errors import DriverError
from mortalgpu.simulation.driver import v100_uuid, worked_example
from tests.standin.nvml import BuildError, Gpu, Process, State, StateFile, build, state_of
from tests.standin.nvml.variant import another_build

V100_UUID = v100_uuid(0)
MOST_HANDLES = 1024
INSUFFICIENT_RESOURCES = 23


def test_the_library_is_compiled_once_and_then_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library = build()
    made_at = library.stat().st_mtime_ns
    assert library.name == "libnvidia-ml.so.1"
    assert library.is_relative_to(tmp_path / "mortalgpu/standin")
    assert build().stat().st_mtime_ns == made_at


def test_a_machine_without_a_compiler_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(BuildError, match="no C compiler found"):
        build()


def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho no such luck >&2\nexit 1\n", encoding="ascii")
    compiler.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", str(compiler))
    with pytest.raises(BuildError, match="no such luck"):
        build()


async def test_a_state_file_that_cannot_be_parsed_stops_the_driver_and_names_the_line(
    open_driver: OpenDriver, machine: StateFile, capfd: pytest.CaptureFixture[str]
) -> None:
    machine.path.write_text("driver\tloaded=1\ngpux\tuuid=GPU-a\n", encoding="ascii")
    with pytest.raises(DriverError, match="driver not loaded"):
        async with open_driver():
            pass
    assert "line 2 of the state file cannot be used: gpux" in capfd.readouterr().err


async def test_a_state_file_that_is_taken_away_is_a_driver_that_left(open_driver: OpenDriver, machine: StateFile) -> None:
    async with open_driver() as driver:
        machine.path.unlink()
        with pytest.raises(DriverError, match="driver not loaded"):
            await driver.devices()


def test_a_call_without_initialisation_is_refused(machine: StateFile) -> None:
    library = ctypes.CDLL(str(build()))
    assert library.nvmlDeviceGetCount_v2(ctypes.byref(ctypes.c_uint())) == 1
    assert library.nvmlShutdown() == 1


def test_a_device_beyond_all_handles_is_refused_and_the_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A library of its own: the handles of the one that all tests share are not to be used up.
    library = ctypes.CDLL(str(another_build(tmp_path, 1)))
    file = StateFile(tmp_path / "nvml.state", State(gpus=_gpus(0, MOST_HANDLES)))
    for name, value in file.environment.items():
        monkeypatch.setenv(name, value)
    assert library.nvmlInit_v2() == 0
    assert {_look_up(library, f"GPU-{number}") for number in range(MOST_HANDLES)} == {0}
    file.write(State(gpus=_gpus(1, MOST_HANDLES + 1)))
    assert _look_up(library, f"GPU-{MOST_HANDLES}") == INSUFFICIENT_RESOURCES
    assert _look_up(library, "GPU-1") == 0
    assert library.nvmlShutdown() == 0


def _gpus(first: int, end: int) -> tuple[Gpu, ...]:
    return tuple(Gpu(f"GPU-{number}", "V100", 1) for number in range(first, end))


def _look_up(library: ctypes.CDLL, uuid: str) -> int:
    return int(library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(ctypes.c_void_p())))


def test_the_text_of_a_state_leaves_out_what_is_not_said(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "nvml.state", state_of(worked_example(v100s=1)))
    file.set_processes(V100_UUID, Process(V100_UUID, 12, None))
    file.push_event(V100_UUID, "xid", 79)
    lines = file.path.read_text(encoding="ascii").splitlines()
    assert f"process\tdevice={V100_UUID}\tpid=12\tused=none\tkind=C\tutil=-1" in lines
    assert f"event\tseq=1\tgpu={V100_UUID}\ttype=xid\tdata=79" in lines
    assert sum(line.startswith("mig\t") for line in lines) == 4
    assert not list(tmp_path.glob("*.new"))
