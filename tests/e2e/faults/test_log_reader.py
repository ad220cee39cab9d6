"""The log's reader stops reading, or is gone, or the log was never open: the daemon neither waits for it nor dies of it."""

from collections.abc import Iterator

import pytest

from tests.campaign import Tally
from tests.e2e.faults.logpipe import LogPipe
from tests.e2e.faults.rig import Rig

pytestmark = [pytest.mark.e2e, pytest.mark.faults]


@pytest.fixture
def pipe(idle: Rig) -> Iterator[LogPipe]:
    """The pipe to which the rig's daemon, started with it, logs."""
    pipe = LogPipe(idle.daemon.folder, idle.daemon.log_path)
    idle.daemon.before = pipe.words
    idle.daemon.start()
    idle.settle()
    yield pipe
    pipe.close()


def test_a_reader_that_stops_reading_holds_nothing_up(idle: Rig, pipe: LogPipe, tally: Tally) -> None:
    pipe.block()
    tally.add("faults of the environment")
    for _ in range(3):
        idle.sound()
    pipe.unblock()
    idle.sound()
    (lost,) = idle.daemon.events("lines of this log were lost")
    assert lost["count"] >= 3
    idle.sound()
    assert idle.daemon.stop() == 0


def test_a_reader_that_is_gone_is_not_missed(idle: Rig, pipe: LogPipe, tally: Tally) -> None:
    pipe.close()
    tally.add("faults of the environment")
    for _ in range(2):
        idle.sound()
    assert idle.daemon.stop() == 0


def test_a_daemon_without_a_log_works(idle: Rig, tally: Tally) -> None:
    """Standard output and error are closed before it starts: nothing else may come to lie on their numbers."""
    idle.daemon.before = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh")
    idle.daemon.start()
    tally.add("faults of the environment")
    idle.settle(ready=False)
    idle.check()
    idle.over_the_limit()
    idle.greedy_dies()
    idle.check()
    assert idle.daemon.stop() == 0


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-"])
def test_a_refusal_to_start_keeps_its_exit_code_where_nobody_can_be_told(idle: Rig, redirection: str, tally: Tally) -> None:
    idle.daemon.before = ("sh", "-c", f'exec "$@" {redirection}', "sh")
    idle.daemon.config["deviceSharing"] = [{"resourceName": "none", "metagpusPerGpu": -1}]
    idle.daemon.start()
    tally.add("faults of the environment")
    assert idle.daemon.process is not None
    assert idle.daemon.process.wait(20) == 78
