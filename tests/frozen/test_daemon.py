"""The daemon as systemd, kubelet and the driver meet it: from source, and frozen.

Kubelet is the twin, a real gRPC peer; the driver is the stand-in library; systemd is a socket that receives what it would.
"""

import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from mortalgpu.simulation.kubelet import AdmissionRefused, SimulatedKubelet, running
from tests.e2e.daemon import EXAMPLE_COUNTS, TWENTY, Daemon, example_config
from tests.folders import short_folder
from tests.frozen import built
from tests.waiting import until

START_SECONDS = 1.5
WATCHDOG_SECONDS = 2.0
PATIENCE_SECONDS = 30.0


@pytest.fixture(params=[pytest.param("source"), pytest.param("frozen", marks=pytest.mark.frozen)])
def program(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let `Daemon` run each form of the program."""
    path = built.binary() if request.param == "frozen" else Path(sys.executable).parent / "mortalgpu"
    monkeypatch.setenv("MORTALGPU_BIN", str(path))
    return path


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


class Manager:
    """systemd's end of the notification socket: keeps every message with the moment it came."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.messages: list[tuple[float, str]] = []

    async def receive(self) -> None:
        with self._socket:
            stream = trio.socket.from_stdlib_socket(self._socket)
            while True:
                text = (await stream.recv(4096)).decode()
                self.messages.append((trio.current_time(), text))

    def said(self, word: str) -> bool:
        return any(word in text for _, text in self.messages)

    def silent_for(self) -> float:
        """Seconds since the last sign of life."""
        signs = [moment for moment, text in self.messages if "WATCHDOG=1" in text]
        return trio.current_time() - max(signs, default=float("-inf"))


def registered(kubelet: SimulatedKubelet) -> bool:
    return all(kubelet.capacity(resource) == (count, count) for resource, count in EXAMPLE_COUNTS.items())


@asynccontextmanager
async def managed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Manager]:
    """Play systemd for whatever is started in the block."""
    path = folder / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    monkeypatch.setenv("WATCHDOG_USEC", str(int(WATCHDOG_SECONDS * 1e6)))
    async with trio.open_nursery() as nursery:
        manager = Manager(path)
        nursery.start_soon(manager.receive)
        yield manager
        nursery.cancel_scope.cancel()


@pytest.mark.frozen
async def test_from_start_to_registered_in_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORTALGPU_BIN", str(built.binary()))
    times = []
    async with running(SimulatedKubelet(folder / "kubelet")) as kubelet:
        for number in range(3):
            with Daemon(folder / f"d{number}", kubelet.device_plugin_dir) as daemon:
                times.append(await until(lambda: registered(kubelet), PATIENCE_SECONDS, what="registration", said=daemon.log))
                assert await trio.to_thread.run_sync(daemon.stop) == 0
            await until(
                lambda: not any(kubelet.healthy(resource) for resource in EXAMPLE_COUNTS), PATIENCE_SECONDS, what="the end"
            )
    print(f"\nstart to registered: {min(times):.2f} s, of {', '.join(f'{one:.2f}' for one in times)}")
    assert min(times) <= START_SECONDS


async def test_it_is_ready_only_once_kubelet_has_its_resources(
    program: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubelet = SimulatedKubelet(folder / "kubelet")
    kubelet.device_plugin_dir.mkdir(parents=True)
    async with managed(folder, monkeypatch) as manager:
        with Daemon(folder / "d", kubelet.device_plugin_dir) as daemon:
            await until(lambda: manager.said("WATCHDOG=1"), PATIENCE_SECONDS, what="the first scan", said=daemon.log)
            assert not manager.said("READY=1"), "no kubelet has answered yet"
            async with running(kubelet):
                await until(lambda: manager.said("READY=1"), PATIENCE_SECONDS, what="readiness", said=daemon.log)
                assert {resource for resource, _ in kubelet.registrations} == set(EXAMPLE_COUNTS)
                assert await trio.to_thread.run_sync(daemon.stop) == 0
        await until(lambda: manager.said("STOPPING=1"), PATIENCE_SECONDS, what="the farewell")


async def test_a_refused_registration_is_no_readiness(program: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubelet = SimulatedKubelet(folder / "kubelet")
    kubelet.refusal = "not today"
    async with managed(folder, monkeypatch) as manager, running(kubelet):
        with Daemon(folder / "d", kubelet.device_plugin_dir) as daemon:
            await until(lambda: "not today" in daemon.log(), PATIENCE_SECONDS, what="the refusal in the log")
            assert not manager.said("READY=1")
            kubelet.refusal = ""
            await until(lambda: manager.said("READY=1"), PATIENCE_SECONDS, what="readiness", said=daemon.log)


async def test_the_signs_of_life_come_well_within_the_watchdogs_time(
    program: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with managed(folder, monkeypatch) as manager, running(SimulatedKubelet(folder / "kubelet")) as kubelet:
        with Daemon(folder / "d", kubelet.device_plugin_dir):
            await until(lambda: manager.said("READY=1"), PATIENCE_SECONDS, what="readiness")
            began = trio.current_time()
            await until(
                lambda: trio.current_time() > began + 2 * WATCHDOG_SECONDS, PATIENCE_SECONDS, what="two periods of the watchdog"
            )
            signs = [moment for moment, text in manager.messages if "WATCHDOG=1" in text and moment >= began]
            gaps = [later - earlier for earlier, later in pairwise(signs)]
            assert max(gaps) < WATCHDOG_SECONDS / 2


async def test_the_watchdog_bites_when_scanning_hangs(program: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands still with the whole process, and no helper speaks for it."""
    async with managed(folder, monkeypatch) as manager, running(SimulatedKubelet(folder / "kubelet")) as kubelet:
        with Daemon(folder / "d", kubelet.device_plugin_dir) as daemon:
            await until(lambda: manager.said("READY=1"), PATIENCE_SECONDS, what="readiness")
            os.kill(daemon.pid, signal.SIGSTOP)
            await until(lambda: manager.silent_for() > WATCHDOG_SECONDS, PATIENCE_SECONDS, what="the watchdog's bite")


async def test_a_driver_that_hangs_is_told_to_kubelet_and_does_not_feed_a_restart_loop(
    program: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with managed(folder, monkeypatch) as manager, running(SimulatedKubelet(folder / "kubelet")) as kubelet:
        with Daemon(folder / "d", kubelet.device_plugin_dir) as daemon:
            await until(lambda: manager.said("READY=1") and registered(kubelet), PATIENCE_SECONDS, what="readiness")
            daemon.driver.add_fault(hang=0)
            await until(
                lambda: not any(kubelet.healthy(name) for name in EXAMPLE_COUNTS),
                PATIENCE_SECONDS,
                what="unhealthy",
                said=daemon.log,
            )
            assert manager.silent_for() < WATCHDOG_SECONDS
            daemon.driver.clear_faults()
            await until(lambda: registered(kubelet), PATIENCE_SECONDS, what="recovery")


async def test_an_external_allocator_sees_the_environment_as_it_was(
    program: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must find the host's libraries, not those of the frozen program."""
    seen, script = folder / "seen", folder / "allocator"
    script.write_text(f"#!/bin/sh\nenv >{seen}\necho 'enough seen' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/given/by/the/operator")
    config = example_config(folder, allocator={"plugin": "external", "externalConfig": {"path": str(script)}})
    async with running(SimulatedKubelet(folder / "kubelet")) as kubelet:
        with Daemon(folder / "d", kubelet.device_plugin_dir, config=config):
            await until(lambda: registered(kubelet), PATIENCE_SECONDS, what="registration")
            with pytest.raises(AdmissionRefused, match="enough seen"):
                await kubelet.admit("pod", {"main": {TWENTY: 2}})
    lines = seen.read_text().splitlines()
    assert "LD_LIBRARY_PATH=/given/by/the/operator" in lines
    assert not [line for line in lines if line.startswith("_PYI_")]
