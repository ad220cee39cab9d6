"""Listening on a Unix socket: file modes, paths that are taken, and files that are ours to remove."""

import errno
import os
import socket
import stat
from pathlib import Path

import pytest
import trio
import trio.testing

from mortalgpu.errors import HostError
from mortalgpu.rpc.listener import NO_ROOM_PAUSE_SECONDS, UnhurriedListener, UnixListener, listen_tcp


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
async def test_the_socket_file_has_the_mode_asked_for(tmp_path: Path, mode: int) -> None:
    before = os.umask(0o077)
    try:
        listener = await UnixListener.bind(tmp_path / "s", mode=mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == mode
    await listener.aclose()


async def test_closing_removes_the_file(tmp_path: Path) -> None:
    listener = await UnixListener.bind(tmp_path / "s")
    assert listener.is_in_place()
    await listener.aclose()
    assert not (tmp_path / "s").exists()


async def test_a_file_swept_away_while_closing_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = await UnixListener.bind(tmp_path / "s")
    (tmp_path / "s").unlink()
    monkeypatch.setattr(listener, "is_in_place", lambda: True)
    await listener.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await listener.accept()


async def test_a_dead_sockets_file_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
        dead.listen()
    async with await UnixListener.bind(tmp_path / "s") as listener, await trio.open_unix_socket(tmp_path / "s"):
        await (await listener.accept()).aclose()


async def test_a_living_servers_socket_is_left_alone(tmp_path: Path) -> None:
    async with await UnixListener.bind(tmp_path / "s") as first:
        with pytest.raises(HostError, match="another server is listening there"):
            await UnixListener.bind(tmp_path / "s")
        assert first.is_in_place()


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(HostError, match="not a socket"):
        await UnixListener.bind(tmp_path / "s")
    assert (tmp_path / "s").read_text() == "precious"


async def test_a_socket_that_took_our_place_is_not_removed(tmp_path: Path) -> None:
    ours = await UnixListener.bind(tmp_path / "s")
    (tmp_path / "s").unlink()
    assert not ours.is_in_place()
    async with await UnixListener.bind(tmp_path / "s") as theirs:
        assert not ours.is_in_place()
        await ours.aclose()
        assert theirs.is_in_place()


async def test_a_path_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="107 bytes"):
        await UnixListener.bind(tmp_path / ("x" * 120))


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"nowhere/s: cannot listen there: No such file"):
        await UnixListener.bind(tmp_path / "nowhere" / "s")


async def test_a_failed_bind_leaves_no_descriptor(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(HostError):
            await UnixListener.bind(tmp_path / "nowhere" / "s")
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_tcp_port_in_use_is_named() -> None:
    (listener,) = await listen_tcp("127.0.0.1", 0)
    port = listener.socket.getsockname()[1]
    async with listener:
        with pytest.raises(HostError, match=rf"127\.0\.0\.1:{port}: cannot listen there: .*in use"):
            await listen_tcp("127.0.0.1", port)


class Crowded(trio.abc.Listener[trio.abc.Stream]):
    """A listener of a machine that has no room for the first so many connections, and then breaks."""

    def __init__(self, refusals: int, number: int = errno.EMFILE) -> None:
        self.refusals = refusals
        self.number = number
        self.client, _ = trio.testing.memory_stream_pair()

    async def accept(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        if not self.refusals:
            return self.client
        self.refusals -= 1
        raise OSError(self.number, os.strerror(self.number))

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
async def test_a_time_without_room_is_sat_out_and_told_seldom(
    number: int, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    crowded = Crowded(100, number)
    began = trio.current_time()
    async with UnhurriedListener(crowded) as listener:
        assert await listener.accept() is crowded.client
    assert trio.current_time() - began == pytest.approx(100 * NO_ROOM_PAUSE_SECONDS)
    assert [record.getMessage() for record in caplog.records] == ["no room for another connection; clients wait"] * 2
    assert not any(record.exc_info for record in caplog.records)


async def test_a_listener_that_is_broken_says_so() -> None:
    async with UnhurriedListener(Crowded(1, errno.EBADF)) as listener:
        with pytest.raises(OSError, match="Bad file descriptor"):
            await listener.accept()
