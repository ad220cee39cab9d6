"""The log when its reader does not read, is gone, or never was: nobody waits for it, and what was lost is told."""

import fcntl
import json
import logging
import os
import select
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from mortalgpu.logs import JsonLines, UnwaitingHandler, set_up

PAGE = 4096


@dataclass
class Pipe:
    """A log's pipe of a few pages, and a logger that writes into it."""

    reader: int
    writer: int
    logger: logging.Logger

    def fill(self) -> None:
        """Take all the room that there is."""
        os.set_blocking(self.writer, False)
        try:
            while select.select([], [self.writer], [], 0)[1]:
                os.write(self.writer, b"x" * PAGE)
        finally:
            os.set_blocking(self.writer, True)

    def read(self) -> str:
        """Take everything that is there."""
        found = b""
        while select.select([self.reader], [], [], 0)[0]:
            found += os.read(self.reader, 1 << 20)
        return found.decode()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4 * PAGE)
    logger = logging.Logger("mortalgpu.trial")
    handler = UnwaitingHandler(writer)
    handler.setFormatter(JsonLines())
    logger.addHandler(handler)
    yield Pipe(reader, writer, logger)
    for descriptor in (reader, writer):
        try:
            os.close(descriptor)
        except OSError:
            continue


def test_lines_arrive_whole_and_in_order(pipe: Pipe) -> None:
    for number in range(3):
        pipe.logger.info("ready", extra={"count": number, "reason": "ü" * 1000})
    assert [json.loads(line)["count"] for line in pipe.read().splitlines()] == [0, 1, 2]


def test_a_reader_that_does_not_read_loses_lines_and_hears_how_many(pipe: Pipe) -> None:
    pipe.fill()
    for _ in range(5):
        pipe.logger.info("ready")
    assert set(pipe.read()) == {"x"}
    pipe.logger.info("stopping")
    loss, line = (json.loads(line) for line in pipe.read().splitlines())
    assert loss["event"] == "lines of this log were lost: nobody took them"
    assert (loss["level"], loss["count"]) == ("warning", 5)
    assert line["event"] == "stopping"


def test_a_line_that_the_reader_took_half_of_does_not_spoil_the_next(pipe: Pipe) -> None:
    pipe.logger.info("ready", extra={"reason": "long" * 10 * PAGE})
    pipe.read()
    pipe.logger.info("stopping")
    torn, loss, line = pipe.read().splitlines()
    assert torn == ""
    assert json.loads(loss)["count"] == 1
    assert json.loads(line)["event"] == "stopping"


def test_a_reader_that_is_gone_is_no_trouble_of_ours(pipe: Pipe, capsys: pytest.CaptureFixture[str]) -> None:
    os.close(pipe.reader)
    for _ in range(3):
        pipe.logger.info("ready")
    assert capsys.readouterr().err == ""


def test_a_full_disk_is_no_trouble_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.Logger("mortalgpu.trial")
    with open("/dev/full", "w") as disk:
        logger.addHandler(UnwaitingHandler(disk.fileno()))
        logger.info("ready")
    assert capsys.readouterr().err == ""


def test_a_standard_error_that_was_closed_before_the_start_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    root, ours = logging.getLogger(), logging.getLogger("mortalgpu")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    monkeypatch.setattr("sys.stderr", None)
    try:
        set_up(verbose=False, as_json=True)
        ours.warning("ready")
    finally:
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        ours.setLevel(levels[1])
