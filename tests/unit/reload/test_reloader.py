"""Reading the configuration again: what a bad file, a half-written one, and a refusal of the devices leave behind."""

import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from mortalgpu import configfile
from mortalgpu.config import Config
from mortalgpu.errors import ConfigError, HostError
from mortalgpu.host.clock import MachineClock
from mortalgpu.latest import Latest
from mortalgpu.model.counts import ReloadCounts
from mortalgpu.reload import Reloader

LOOK_SECONDS = 0.02
QUIET = "log: {verbose: false}\n"
VERBOSE = "log: {verbose: true}\n"


class Rig:
    """A reloader on a file; `refusal` makes the services refuse."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.write_text(QUIET)
        self.reads = 0
        self.refusal: ConfigError | None = None
        self.in_force = Latest(self.read())
        self.counts = ReloadCounts()
        self.reloader = Reloader(self.read, self.take, self.in_force, self.counts, MachineClock())
        self.reads = 0

    def read(self) -> Config:
        self.reads += 1
        return configfile.load(str(self.path), {})

    async def take(self, config: Config) -> None:
        if self.refusal:
            raise self.refusal
        self.in_force.publish(config)

    async def settles(self, probe: Callable[[], bool]) -> None:
        with trio.fail_after(5):
            while not probe():
                await trio.sleep(0.005)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "config.yaml")


async def test_a_changed_key_is_taken_and_told(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    rig.path.write_text(VERBOSE)
    await rig.reloader.reload()
    assert rig.in_force.value.log.verbose
    assert rig.counts.outcomes == {"applied": 1}
    assert [(record.message, vars(record)["config_field"]) for record in caplog.records] == [
        ("configuration changed", "log.verbose")
    ]


@pytest.mark.parametrize("text", ["log: {verbose: maybe}\n", "lgo: {}\n", "log: {verbose: true\n", "\x00", "- a list\n"])
async def test_a_bad_file_changes_nothing_and_says_why(rig: Rig, caplog: pytest.LogCaptureFixture, text: str) -> None:
    taken_at = rig.counts.taken_at
    rig.path.write_text(text)
    await rig.reloader.reload()
    assert rig.in_force.version == 0
    assert (rig.counts.outcomes, rig.counts.is_good, rig.counts.taken_at) == ({"refused": 1}, False, taken_at)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_a_file_that_has_become_empty_is_refused_and_not_taken_for_the_defaults(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    with trio.open_signal_receiver(signal.SIGHUP) as hang_ups:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.reloader.serve, hang_ups, str(rig.path))
            await trio.testing.wait_all_tasks_blocked(0.01)
            rig.path.write_text("")
            await rig.reloader.reload()
            assert (rig.counts.outcomes, rig.in_force.version) == ({"refused": 1}, 0)
            assert "is empty; if you mean the defaults, write `{}`" in caplog.records[0].__dict__["error"]
            rig.path.write_text("{}\n")
            await rig.reloader.reload()
            assert rig.counts.is_good
            nursery.cancel_scope.cancel()


async def test_a_missing_file_changes_nothing(rig: Rig) -> None:
    rig.path.unlink()
    await rig.reloader.reload()
    assert rig.counts.outcomes == {"refused": 1}
    assert rig.in_force.version == 0


@pytest.mark.parametrize("what", ["directory", "pipe", "device", "long", "loop"])
async def test_what_is_no_file_to_read_changes_nothing_and_holds_nobody_up(
    rig: Rig, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    with trio.fail_after(5), trio.open_signal_receiver(signal.SIGHUP) as hang_ups:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.reloader.serve, hang_ups, str(rig.path))
            await rig.settles(lambda: rig.reads == 1)
            rig.path.unlink()
            match what:
                case "directory":
                    rig.path.mkdir()
                case "pipe":
                    os.mkfifo(rig.path)  # Nobody ever opens its other end.
                case "device":
                    rig.path.symlink_to("/dev/zero")
                case "long":
                    rig.path.write_bytes(b"# nothing\n" * 10_000_000)
                case "loop":
                    rig.path.symlink_to(rig.path)
            signal.raise_signal(signal.SIGHUP)
            await rig.settles(lambda: rig.counts.outcomes == {"refused": 1})
            nursery.cancel_scope.cancel()
    assert rig.in_force.version == 0
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_a_file_that_cannot_be_read_is_tried_again_and_told_of_once(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """The file itself is the same before and after."""
    refused: list[int] = []
    wanted = rig.reloader._wanted

    def flaky() -> Config:
        if len(refused) < 4:
            refused.append(1)
            raise HostError("the disk is away")
        return wanted()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.reloader.follow_file, str(rig.path), LOOK_SECONDS)
        await trio.sleep(LOOK_SECONDS)
        rig.path.write_text(VERBOSE)
        rig.reloader._wanted = flaky  # type: ignore[method-assign]
        await rig.settles(lambda: rig.in_force.value.log.verbose)
        nursery.cancel_scope.cancel()
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == [
        "configuration cannot be read; what was in force stays"
    ]
    assert (rig.counts.outcomes, rig.counts.is_good) == ({"refused": 4, "applied": 1}, True)


async def test_what_came_through_a_pipe_is_not_read_again(rig: Rig) -> None:
    """As `--config <(...)` of a shell: reading its end would mean the defaults."""
    reading, writing = os.pipe()
    os.close(writing)
    with os.fdopen(reading), trio.fail_after(5), trio.open_signal_receiver(signal.SIGHUP) as hang_ups:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.reloader.serve, hang_ups, f"/dev/fd/{reading}")
            await trio.testing.wait_all_tasks_blocked(0.01)
            await rig.reloader.reload()
            nursery.cancel_scope.cancel()
    assert (rig.reads, rig.counts.outcomes, rig.in_force.version) == (0, {"refused": 1}, 0)


async def test_what_the_devices_refuse_changes_nothing(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.refusal = ConfigError("config.deviceSharing[0].reservedChunks", "is more than GPU-a has")
    rig.path.write_text(VERBOSE)
    await rig.reloader.reload()
    assert not rig.in_force.value.log.verbose
    assert not rig.counts.is_good
    assert "GPU-a" in caplog.records[0].__dict__["error"]


async def test_after_a_bad_file_a_good_one_is_taken(rig: Rig) -> None:
    rig.path.write_text("nonsense: 1\n")
    await rig.reloader.reload()
    rig.path.write_text(VERBOSE)
    await rig.reloader.reload()
    assert rig.in_force.value.log.verbose
    assert rig.counts.is_good


async def test_a_key_that_needs_a_restart_is_named_once_with_the_way_out(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.path.write_text(VERBOSE + "nodeName: another\nstateDir: /elsewhere\n")
    await rig.reloader.reload()
    assert (rig.in_force.value.log.verbose, rig.in_force.value.node_name) == (True, "")
    (record,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert "restart" in record.message
    assert vars(record)["config_field"] == "nodeName, stateDir"
    assert (rig.counts.outcomes, rig.counts.is_good) == ({"partly": 1}, False)


async def test_a_key_that_went_back_makes_the_configuration_good_again(rig: Rig) -> None:
    rig.path.write_text("nodeName: another\n")
    await rig.reloader.reload()
    rig.path.write_text(QUIET)
    await rig.reloader.reload()
    assert rig.counts.is_good
    assert rig.counts.outcomes == {"partly": 1, "unchanged": 1}


async def test_a_changed_file_is_read_by_itself_and_an_unchanged_one_is_not(rig: Rig) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.reloader.follow_file, str(rig.path), LOOK_SECONDS)
        await trio.sleep(LOOK_SECONDS * 5)
        assert rig.reads == 1, "the reading that catches up with the start"
        assert not rig.counts.outcomes
        rig.path.write_text(VERBOSE)
        await rig.settles(lambda: rig.in_force.value.log.verbose)
        await trio.sleep(LOOK_SECONDS * 5)
        assert rig.reads == 2
        nursery.cancel_scope.cancel()


async def test_a_change_while_the_services_started_is_taken(rig: Rig) -> None:
    rig.path.write_text(VERBOSE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.reloader.follow_file, str(rig.path), LOOK_SECONDS)
        await rig.settles(lambda: rig.in_force.value.log.verbose)
        nursery.cancel_scope.cancel()


async def test_a_config_maps_swapped_link_is_a_changed_file(tmp_path: Path) -> None:
    for name, text in (("v1", QUIET), ("v2", VERBOSE)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(text)
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "config.yaml").symlink_to("..data/config.yaml")
    reads: list[str] = []
    in_force = Latest(Config())

    def read() -> Config:
        reads.append((tmp_path / "config.yaml").read_text())
        return Config()

    async def take(config: Config) -> None:
        in_force.publish(config)

    reloader = Reloader(read, take, in_force, ReloadCounts(), MachineClock())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reloader.follow_file, str(tmp_path / "config.yaml"), LOOK_SECONDS)
        await trio.sleep(LOOK_SECONDS * 5)
        (tmp_path / "..data_tmp").symlink_to("v2")
        os.replace(tmp_path / "..data_tmp", tmp_path / "..data")
        with trio.fail_after(5):
            while len(reads) < 2:
                await trio.sleep(0.005)
        nursery.cancel_scope.cancel()
    assert reads == [QUIET, VERBOSE]


async def test_a_file_that_is_away_for_a_moment_is_waited_for(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.reloader.follow_file, str(rig.path), LOOK_SECONDS)
        await trio.sleep(LOOK_SECONDS * 2)
        rig.path.unlink()
        await trio.sleep(LOOK_SECONDS * 4)
        rig.path.write_text(VERBOSE)
        await rig.settles(lambda: rig.in_force.value.log.verbose)
        nursery.cancel_scope.cancel()
    assert caplog.records == []


async def test_a_hang_up_signal_reads_the_file_at_once(rig: Rig) -> None:
    with trio.open_signal_receiver(signal.SIGHUP) as hang_ups:
        rig.path.write_text(VERBOSE)
        os.kill(os.getpid(), signal.SIGHUP)  # Before anybody listens: it is kept.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.reloader.follow_signals, hang_ups)
            await rig.settles(lambda: rig.in_force.value.log.verbose)
            nursery.cancel_scope.cancel()


async def test_many_signals_at_once_are_served_one_after_the_other(rig: Rig) -> None:
    running = 0

    async def take(config: Config) -> None:
        nonlocal running
        running += 1
        await trio.sleep(0.01)
        assert running == 1
        running -= 1
        rig.in_force.publish(config)

    reloader = Reloader(rig.read, take, rig.in_force, rig.counts, MachineClock())
    rig.path.write_text(VERBOSE)
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(reloader.reload)
    assert rig.counts.outcomes == {"applied": 1, "unchanged": 4}
