"""The notification protocol, against a real datagram socket that plays systemd."""

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from mortalgpu.errors import HostError
from mortalgpu.host.systemd import Systemd, Unwatched, service_manager


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path if request.param == "path" else "\0" + path)
        yield listener, path if request.param == "path" else "@" + path


async def test_each_verb_arrives_as_the_protocol_says(manager: tuple[socket.socket, str]) -> None:
    listener, address = manager
    told = service_manager({"NOTIFY_SOCKET": address})
    await told.ready("4 GPUs")
    await told.alive()
    await told.stopping("asked to")
    messages = [listener.recv(1000).decode() for _ in range(3)]
    assert messages == ["READY=1\nSTATUS=4 GPUs", "WATCHDOG=1", "STOPPING=1\nSTATUS=asked to"]


async def test_a_text_cannot_smuggle_in_a_field(manager: tuple[socket.socket, str]) -> None:
    listener, address = manager
    await service_manager({"NOTIFY_SOCKET": address}).ready("fine\nMAINPID=1\r\nFDSTORE=1")
    assert listener.recv(1000) == b"READY=1\nSTATUS=fine MAINPID=1 FDSTORE=1"


async def test_a_manager_that_is_gone_is_warned_of_once_and_found_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = service_manager({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    with caplog.at_level(logging.WARNING):
        await told.alive()
        await told.alive()
    assert [record.message for record in caplog.records] == ["service manager cannot be told"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        await told.alive()
        assert listener.recv(100) == b"WATCHDOG=1"


async def test_a_manager_that_does_not_read_holds_nobody_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "notify"))
        told = Systemd(os.fsencode(tmp_path / "notify"), patience_seconds=0.05)
        with trio.fail_after(30):
            while not caplog.records:
                await told.alive()
    assert getattr(caplog.records[0], "cause", None) == "its queue is full"


async def test_without_a_manager_the_log_is_told(caplog: pytest.LogCaptureFixture) -> None:
    told = service_manager({"WATCHDOG_USEC": "1000000"})
    assert isinstance(told, Unwatched)
    with caplog.at_level(logging.INFO, logger="mortalgpu.host.systemd"):
        for verb in (told.ready("4 GPUs"), told.alive(), told.stopping("asked to")):
            with trio.testing.assert_checkpoints():
                await verb
    assert [record.message for record in caplog.records] == ["ready", "stopping"]


def test_an_address_that_is_no_unix_socket_is_refused_at_the_start() -> None:
    with pytest.raises(HostError, match="NOTIFY_SOCKET: 'vsock:2:1234'"):
        service_manager({"NOTIFY_SOCKET": "vsock:2:1234"})
