"""What a server promises its handlers and callers: answers, errors, deadlines, cancellation, limits."""

import logging
import os
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from mortalgpu import errors
from mortalgpu.rpc.channel import channel_over, open_channel
from mortalgpu.rpc.limits import CallRecord, Limits
from mortalgpu.rpc.listener import UnixListener, listen_tcp
from mortalgpu.rpc.server import Server, Service, unary
from mortalgpu.rpc.status import INTERNAL_TEXT, STATUS, Code, Refusal, RpcError, Unavailable
from tests.unit.rpc.trial import (
    ECHO,
    FAIL,
    FLOOD,
    HANG,
    WATCH,
    Note,
    Trial,
    in_memory,
    nothing_left_behind,
    raw_client,
    served,
)
from tests.waiting import until


async def test_a_call_over_a_unix_socket_is_answered(tmp_path: Path) -> None:
    trial = Trial()
    async with nothing_left_behind(), served(trial, tmp_path / "s"), open_channel(f"unix://{tmp_path}/s") as channel:
        answer = await channel.unary(ECHO, Note(endpoint="hello"), Note, metadata=[("who", "me"), ("raw-bin", b"\0\1")])
        assert answer.endpoint == "hello"
    (call,) = trial.calls
    assert (call.method, call.metadata["who"], call.metadata["raw-bin"]) == (ECHO, "me", b"\0\1")


async def test_the_kernel_tells_who_calls_on_a_unix_socket(tmp_path: Path) -> None:
    trial = Trial()
    async with served(trial, tmp_path / "s"), open_channel(str(tmp_path / "s")) as channel:
        with pytest.raises(RpcError):
            await channel.unary(HANG, Note(), Note, deadline_seconds=0.05)
        async with channel.stream(WATCH, Note(), Note) as answers:
            await answers.receive()
            peer = trial.calls[-1].peer
            assert (peer.kind, peer.pid, peer.uid, peer.gid) == ("unix", os.getpid(), os.getuid(), os.getgid())
            assert peer.pidfd is not None
            assert f"Pid:\t{os.getpid()}\n" in Path(f"/proc/self/fdinfo/{peer.pidfd}").read_text()


async def test_a_call_over_tcp_is_answered_and_its_host_known() -> None:
    trial = Trial()
    listeners = await listen_tcp("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        await nursery.start(Server([trial.service()]).serve, listeners)
        async with open_channel(f"127.0.0.1:{listeners[0].socket.getsockname()[1]}") as channel:
            assert (await channel.unary(ECHO, Note(endpoint="tcp"), Note)).endpoint == "tcp"
        nursery.cancel_scope.cancel()
    assert (trial.calls[0].peer.kind, trial.calls[0].peer.address) == ("tcp", "127.0.0.1")


@pytest.mark.parametrize(("error_class", "row"), STATUS.items(), ids=lambda value: getattr(value, "__name__", None))
async def test_each_known_error_becomes_its_status(error_class: type[Exception], row: tuple[Code, str | None]) -> None:
    trial = Trial()
    trial.failure = error_class("one two three")
    async with in_memory(trial) as channel:
        with pytest.raises(RpcError) as caught:
            await channel.unary(FAIL, Note(), Note)
    assert (caught.value.code, caught.value.details) == (row[0], row[1] or "one two three")


@pytest.mark.parametrize(
    ("failure", "code", "text"),
    [
        (errors.WouldSplit("günstig: 40 % / ü"), Code.FAILED_PRECONDITION, "günstig: 40 % / ü"),
        (Refusal(Code.UNIMPLEMENTED, "not here"), Code.UNIMPLEMENTED, "not here"),
        (ExceptionGroup("nursery", [errors.Forbidden("no")]), Code.PERMISSION_DENIED, "no"),
        (ExceptionGroup("nursery", [errors.Forbidden("no"), KeyError("k")]), Code.INTERNAL, INTERNAL_TEXT),
        (RpcError(Code.NOT_FOUND, "what a neighbour said"), Code.INTERNAL, INTERNAL_TEXT),
        (KeyError("secret"), Code.INTERNAL, INTERNAL_TEXT),
    ],
    ids=["subclass", "refusal", "group of one", "group of two", "nested call", "unknown"],
)
async def test_what_a_handler_raises_decides_the_status(failure: Exception, code: Code, text: str) -> None:
    trial = Trial()
    trial.failure = failure
    async with in_memory(trial) as channel:
        with pytest.raises(RpcError) as caught:
            await channel.unary(FAIL, Note(), Note)
    assert (caught.value.code, caught.value.details) == (code, text)


async def test_a_missing_token_is_refused_without_saying_why() -> None:
    trial = Trial()
    trial.failure = errors.Unauthenticated("signature does not match key 3")
    async with in_memory(trial) as channel:
        with pytest.raises(RpcError) as caught:
            await channel.unary(FAIL, Note(), Note)
    assert "key 3" not in str(caught.value)


async def test_an_unknown_error_is_told_to_our_log_only(caplog: pytest.LogCaptureFixture) -> None:
    async with in_memory(Trial()) as channel:
        with pytest.raises(RpcError) as caught:
            await channel.unary(FAIL, Note(), Note)
    assert "secret" not in str(caught.value)
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert "secret of the house" in str(record.exc_info[1])


async def test_an_unknown_method_is_unimplemented() -> None:
    async with in_memory(Trial()) as channel:
        with pytest.raises(RpcError) as caught:
            await channel.unary("/trial.Trial/Nothing", Note(), Note)
    assert caught.value.code is Code.UNIMPLEMENTED


async def test_the_servers_limit_ends_a_hanging_handler(autojump_clock: MockClock) -> None:
    trial = Trial()
    async with in_memory(trial, Limits(unary_seconds=3)) as channel:
        began = trio.current_time()
        with pytest.raises(RpcError) as caught:
            await channel.unary(HANG, Note(), Note)
    assert (caught.value.code, caught.value.details, trio.current_time() - began) == (
        Code.DEADLINE_EXCEEDED,
        "not done in time",
        3,
    )
    assert trial.running == 0


async def test_the_clients_shorter_deadline_reaches_the_handler(autojump_clock: MockClock) -> None:
    trial = Trial()
    async with in_memory(trial, Limits(unary_seconds=30)) as channel:
        began = trio.current_time()
        with pytest.raises(RpcError) as caught:
            await channel.unary(HANG, Note(), Note, deadline_seconds=2)
        assert trial.calls[0].deadline == pytest.approx(began + 2)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert trial.running == 0


async def test_a_trio_scope_round_a_call_is_told_to_the_server(autojump_clock: MockClock) -> None:
    trial = Trial()
    async with in_memory(trial, Limits(unary_seconds=30)) as channel:
        began = trio.current_time()
        with trio.move_on_after(7):
            await channel.unary(HANG, Note(), Note)
        assert trial.calls[0].deadline == pytest.approx(began + 7)


async def test_a_deadline_that_the_server_sees_is_a_status(tmp_path: Path) -> None:
    trial = Trial()
    async with served(trial, tmp_path / "s"), raw_client(tmp_path / "s") as client:
        await client.send(*client.request(1, HANG, grpc_timeout="50m"))
        assert await client.status_of(1) == str(int(Code.DEADLINE_EXCEEDED))
    assert trial.running == 0


async def test_a_stream_may_outlive_the_limit_for_unary_calls(autojump_clock: MockClock) -> None:
    trial = Trial()
    async with in_memory(trial, Limits(unary_seconds=1)) as channel, channel.stream(WATCH, Note(), Note) as answers:
        await answers.receive()
        await trio.sleep(1000)
        assert trial.running == 1


async def test_a_stream_ends_at_the_clients_deadline(autojump_clock: MockClock) -> None:
    trial = Trial()
    async with in_memory(trial) as channel:
        async with channel.stream(WATCH, Note(), Note, deadline_seconds=20) as answers:
            await answers.receive()
            with pytest.raises(RpcError) as caught:
                await answers.receive()
    assert caught.value.code is Code.DEADLINE_EXCEEDED


async def test_leaving_a_stream_cancels_its_handler(tmp_path: Path) -> None:
    trial = Trial()
    async with nothing_left_behind(), served(trial, tmp_path / "s"), open_channel(str(tmp_path / "s")) as channel:
        async with channel.stream(WATCH, Note(), Note) as answers:
            await answers.receive()
            await until(lambda: trial.running == 1)
        await until(lambda: trial.running == 0)
        assert (await channel.unary(ECHO, Note(endpoint="still"), Note)).endpoint == "still"


async def test_cancelling_a_unary_call_cancels_its_handler(tmp_path: Path) -> None:
    trial = Trial()
    async with nothing_left_behind(), served(trial, tmp_path / "s"), open_channel(str(tmp_path / "s")) as channel:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.unary, HANG, Note(), Note)
            await until(lambda: trial.running == 1)
            nursery.cancel_scope.cancel()
        await until(lambda: trial.running == 0)


async def test_a_lost_connection_cancels_all_its_handlers(tmp_path: Path) -> None:
    trial = Trial()
    async with nothing_left_behind(), served(trial, tmp_path / "s") as server:
        async with raw_client(tmp_path / "s") as client:
            for stream_id in range(1, 21, 2):
                await client.send(*client.request(stream_id, WATCH))
            await until(lambda: trial.running == 10)
        await until(lambda: trial.running == 0 and server.connections == 0)


async def test_stopping_the_server_cancels_handlers_and_tells_clients(tmp_path: Path) -> None:
    trial = Trial()
    server = Server([trial.service()])
    async with nothing_left_behind(), trio.open_nursery() as outer:
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve, [await UnixListener.bind(tmp_path / "s")])
            channel = await outer.start(_watch_until_lost, str(tmp_path / "s"))
            await until(lambda: trial.running == 1)
            nursery.cancel_scope.cancel()
        assert trial.running == 0
        assert not (tmp_path / "s").exists()
        await until(lambda: channel == ["lost"])


async def _watch_until_lost(path: str, task_status: trio.TaskStatus[list[str]]) -> None:
    seen: list[str] = []
    task_status.started(seen)
    async with open_channel(path) as channel:
        async with channel.stream(WATCH, Note(), Note) as answers:
            await answers.receive()
            # Broken, where what was sent to it last had not been read when it ended.
            with pytest.raises(Unavailable, match=r"closed the connection|the connection broke"):
                await answers.receive()
    seen.append("lost")


async def test_an_observer_learns_how_each_call_ended(autojump_clock: MockClock) -> None:
    seen: list[CallRecord] = []
    trial = Trial()
    server = Server([trial.service()], Limits(unary_seconds=2), seen.append)
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_connection, theirs)
        async with channel_over(ours, "memory") as channel:
            await channel.unary(ECHO, Note(), Note)
            for method in (FAIL, HANG, "/trial.Trial/Nothing"):
                with pytest.raises(RpcError):
                    await channel.unary(method, Note(), Note)
        nursery.cancel_scope.cancel()
    assert [record.code for record in seen] == [Code.OK, Code.INTERNAL, Code.DEADLINE_EXCEEDED, Code.UNIMPLEMENTED]


@pytest.mark.parametrize("checkpoints", range(0, 60, 3))
async def test_a_server_stopped_at_any_moment_leaves_nothing_behind(tmp_path: Path, checkpoints: int) -> None:
    trial = Trial()
    async with nothing_left_behind(), trio.open_nursery() as nursery:
        await nursery.start(Server([trial.service()]).serve, [await UnixListener.bind(tmp_path / "s")])
        nursery.start_soon(_call_all, str(tmp_path / "s"))
        for _ in range(checkpoints):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert trial.running == 0
    assert not (tmp_path / "s").exists()


async def _call_all(path: str) -> None:
    async with open_channel(path) as channel, trio.open_nursery() as nursery:
        nursery.start_soon(channel.unary, HANG, Note(), Note)
        async with channel.stream(FLOOD, Note(endpoint="z" * 12_000), Note) as answers:
            async for _ in answers:
                await channel.unary(ECHO, Note(), Note)


async def test_an_error_on_the_way_out_of_a_cancelled_handler_is_kept_in_the_house() -> None:
    async def clumsy(_note: Note, _call: object) -> Note:
        try:
            await trio.sleep_forever()
        finally:
            raise RuntimeError("clumsy")

    ours, theirs = trio.testing.memory_stream_pair()
    server = Server([Service("c.C", {"M": unary(Note, clumsy)})], Limits(unary_seconds=0.05))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_connection, theirs)
        async with channel_over(ours, "memory") as channel:
            for _ in range(2):
                with pytest.raises(RpcError) as caught:
                    await channel.unary("/c.C/M", Note(), Note)
                assert (caught.value.code, caught.value.details) == (Code.INTERNAL, INTERNAL_TEXT)
        nursery.cancel_scope.cancel()


async def test_an_answer_that_cannot_be_written_is_an_internal_error() -> None:
    async def wrong(_note: Note, _call: object) -> Note:
        return "no message"  # type: ignore[return-value]

    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Server([Service("c.C", {"M": unary(Note, wrong)})]).serve_connection, theirs)
        async with channel_over(ours, "memory") as channel:
            with pytest.raises(RpcError) as caught:
                await channel.unary("/c.C/M", Note(), Note)
        nursery.cancel_scope.cancel()
    assert caught.value.code is Code.INTERNAL
