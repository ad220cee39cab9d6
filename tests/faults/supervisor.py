"""What systemd does for the daemon (systemd/mortalgpu.service), in virtual time: starts it, watches it, starts it again.

The daemon is `mortalgpu.daemon.run` as it stands, in this process: only where it builds the ports of the real machine it is
given the twins', each made faulty.
"""

import argparse
import logging
import signal
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from mortalgpu import configfile, daemon, wiring
from mortalgpu.__main__ import _guarded
from mortalgpu.allocator.base import Allocator
from mortalgpu.cluster.base import Cluster
from mortalgpu.config import Config
from mortalgpu.deviceplugin.servicer import OPTIONS
from mortalgpu.driver.base import OpenDriver
from mortalgpu.host.base import ProcessTable, ServiceManager, WallClock
from mortalgpu.isolation.base import Isolation
from mortalgpu.isolation.none import NoIsolation
from mortalgpu.kubelet.base import Assignments, Registrar
from mortalgpu.kubelet.registration import KubeletRegistrar
from tests.faults.faulty import Plan, faulty
from tests.faults.world import World

RESTART_SECONDS = 2.0
NEVER_AGAIN = (78, 2)
"""Exit codes after which nobody starts it again."""
STOP_SECONDS = 15.0
WATCHDOG_SECONDS = 30.0


class _NoCollector:
    """The daemon freezes what it has loaded: here that would be what all tests have loaded, each time."""

    @staticmethod
    def collect() -> int:
        return 0

    @staticmethod
    def freeze() -> None:
        pass


class _Heard(logging.Handler):
    """The daemon's own words: where it serves."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: dict[str, list[str]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() in ("serving metrics", "device API serves"):
            found = vars(record)["address"]
            self.addresses.setdefault(record.getMessage(), []).extend([found] if isinstance(found, str) else found)


@dataclass
class Supervisor:
    """One service unit. Its daemon may be started any number of times."""

    world: World
    plan: Plan
    heard: _Heard = field(default_factory=_Heard)
    codes: list[int] = field(default_factory=list)
    """Exit codes so far; 137 for one that was ended by the watchdog."""
    errors: list[BaseException] = field(default_factory=list)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    """The daemon's whole life, as long as it lasts."""
    running: bool = False
    stopping: bool = False

    @property
    def is_ready(self) -> bool:
        """Whether the present daemon has said READY."""
        words = [verb for verb, _ in self.world.manager.told if verb in ("ready", "begun", "stopping")]
        return bool(words) and words[-1] == "ready"

    async def serve(self) -> None:
        """Keep the daemon running until it was stopped on purpose, or ended in a way that nobody answers."""
        while True:
            self.codes.append(await self._one_life())
            if self.stopping or self.codes[-1] in NEVER_AGAIN:
                return
            await trio.sleep(RESTART_SECONDS)

    async def _one_life(self) -> int:
        self.world.manager.told.append(("begun", ""))
        self.heard.addresses.clear()
        self.running, self.scope = True, trio.CancelScope()
        try:
            with self.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch)
                    nursery.start_soon(self._daemon, nursery.cancel_scope)
        except Exception as error:
            self.errors.append(error)
            return _code_of(error)
        finally:
            self.running = False
        return 137 if self.scope.cancelled_caught else 0

    async def _daemon(self, life: trio.CancelScope) -> None:
        await daemon.run(self._config(), "", self._config)
        life.cancel()

    def _config(self) -> Config:
        return configfile.convert(self.world.configuration())

    async def _watch(self) -> None:
        """End a daemon that was ready and has fallen silent."""
        told = self.world.manager.told
        while True:
            seen = len(told)
            await trio.sleep(WATCHDOG_SECONDS)
            if self.is_ready and len(told) == seen:
                self.scope.cancel()

    def cancel(self, _task: trio.lowlevel.Task) -> bool:
        """Cancel the daemon, whatever it does: the blow of a campaign."""
        if self.running:
            self.scope.cancel()
        return self.running

    async def stop(self) -> int:
        """Stop the daemon as systemd does; return its exit code. Fails when it does not come to its end."""
        self.stopping = True
        if self.running:
            signal.raise_signal(signal.SIGTERM)
        with trio.move_on_after(STOP_SECONDS) as patience:
            while self.running:
                await trio.sleep(0.1)
        assert not patience.cancelled_caught, "the daemon does not end"
        return self.codes[-1]

    def hang_up(self) -> None:
        """Ask the daemon to read its configuration again; without one that listens nothing happens."""
        if self.running:
            signal.raise_signal(signal.SIGHUP)


def _code_of(error: BaseException) -> int:
    """The exit code that the program would have."""

    def face(_: argparse.Namespace) -> int:
        raise error

    return _guarded(face, argparse.Namespace())


@asynccontextmanager
async def supervised(world: World, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Supervisor]:
    """Run the daemon under a supervisor, over the twins, for the length of a block."""
    supervisor = Supervisor(world, plan)
    _put_twins_in_place(world, plan, monkeypatch)
    logger = logging.getLogger("mortalgpu")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.propagate = False  # A thousand stories with their tracebacks are more than pytest should keep.
    logger.addHandler(supervisor.heard)
    # A signal that meets no daemon, or one that crashes before it has read it, must not end the tests.
    handlers = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGHUP, signal.SIGTERM)}
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.serve)
            yield supervisor
            nursery.cancel_scope.cancel()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        logger.removeHandler(supervisor.heard)
        logger.setLevel(level)
        logger.propagate = True


def _put_twins_in_place(world: World, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    edits, allocator = NoIsolation.edits, wiring.allocator

    def faulty_edits(self: NoIsolation, *arguments: Any) -> Any:
        class Real:
            def edits(_, *these: Any) -> Any:
                return edits(self, *these)

        return faulty(Real(), Isolation, plan).edits(*arguments)

    @asynccontextmanager
    async def twin_ports(config: Config, resources: Collection[str]) -> AsyncIterator[daemon.Ports]:
        yield daemon.Ports(
            open_driver=faulty(world.driver.open, OpenDriver, plan),
            processes=faulty(world.host, ProcessTable, plan),
            registrar=faulty(KubeletRegistrar(world.kubelet.device_plugin_dir, OPTIONS), Registrar, plan),
            assignments=faulty(world.kubelet, Assignments, plan),
            cluster=faulty(world.cluster, Cluster, plan),
            clock=faulty(world.clock, WallClock, plan),
            manager=faulty(world.manager, ServiceManager, plan),
        )

    monkeypatch.setattr(NoIsolation, "edits", faulty_edits)
    monkeypatch.setattr(wiring, "allocator", lambda config: faulty(allocator(config), Allocator, plan))
    monkeypatch.setattr(daemon, "real_ports", twin_ports)
    monkeypatch.setattr(daemon, "gc", _NoCollector())
    monkeypatch.setattr(daemon, "blind_spots", lambda: ())


def hold_the_clock(clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let virtual time stand still while a thread works: it answers within the moment in which it was asked."""
    run_sync, at_work = trio.to_thread.run_sync, 0

    async def held(*arguments: Any, **named: Any) -> Any:
        nonlocal at_work
        at_work += 1
        clock.autojump_threshold = float("inf")
        try:
            return await run_sync(*arguments, **named)
        finally:
            at_work -= 1
            if not at_work:
                clock.autojump_threshold = 0

    monkeypatch.setattr(trio.to_thread, "run_sync", held)
