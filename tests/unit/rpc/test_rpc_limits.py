"""What a server grants: slow readers, idle and silent connections, and too many of them."""

from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from mortalgpu.rpc.channel import open_channel
from mortalgpu.rpc.limits import KUBELET_LIMITS, Limits
from mortalgpu.rpc.listener import UnixListener
from mortalgpu.rpc.server import RECOGNISING_AT_ONCE, Peer, Server
from mortalgpu.rpc.status import Unavailable
from tests.unit.rpc.trial import (
    ECHO,
    FLOOD,
    WATCH,
    Note,
    RawClient,
    Trial,
    in_memory,
    nothing_left_behind,
    raw_client,
    served,
)
from tests.waiting import until


async def test_a_slow_reader_holds_up_its_handler_and_not_our_memory(tmp_path: Path) -> None:
    trial = Trial()
    async with nothing_left_behind(), served(trial, tmp_path / "s", KUBELET_LIMITS):
        async with raw_client(tmp_path / "s") as client:
            await client.send(*client.request(1, FLOOD, text="y" * 10_000))
            await until(lambda: trial.sent > 0)
            seen = 0
            with trio.fail_after(10):
                while seen != trial.sent:
                    seen = trial.sent
                    await trio.sleep(0.1)
            assert seen < 200
        await until(lambda: trial.running == 0)


async def test_a_reader_that_stalls_too_long_is_dropped(autojump_clock: MockClock) -> None:
    trial = Trial()
    ours, theirs = trio.testing.memory_stream_pair()
    client = RawClient(ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Server([trial.service()], Limits(stall_seconds=30)).serve_connection, theirs)
        await client.greet()
        await client.send(*client.request(1, FLOOD, text="y" * 10_000))
        began = trio.current_time()
        assert await client.ended(60)
        assert trio.current_time() - began == pytest.approx(30, abs=1)
    assert trial.running == 0


@pytest.mark.parametrize("limits", [Limits(max_connections=2), Limits(max_connections_per_peer=2)], ids=["all", "one peer"])
async def test_more_busy_connections_than_allowed_are_closed_at_once(tmp_path: Path, limits: Limits) -> None:
    trial = Trial()
    async with nothing_left_behind(), served(trial, tmp_path / "s", limits) as server:
        async with raw_client(tmp_path / "s") as one, raw_client(tmp_path / "s") as two:
            await one.send(*one.request(1, WATCH))
            await two.send(*two.request(1, WATCH))
            await until(lambda: trial.running == 2)
            async with open_channel(str(tmp_path / "s")) as three:
                with pytest.raises(Unavailable):
                    await three.unary(ECHO, Note(), Note)
            assert trial.running == 2
        await until(lambda: server.connections == 0)
        async with open_channel(str(tmp_path / "s")) as again:
            await again.unary(ECHO, Note(), Note)


@pytest.mark.parametrize("limits", [Limits(max_connections=2), Limits(max_connections_per_peer=2)], ids=["all", "one peer"])
async def test_a_new_connection_takes_the_place_of_the_idlest(tmp_path: Path, limits: Limits) -> None:
    trial = Trial()
    async with nothing_left_behind(), served(trial, tmp_path / "s", limits) as server:
        async with raw_client(tmp_path / "s") as busy, await trio.open_unix_socket(tmp_path / "s") as silent:
            await busy.send(*busy.request(1, WATCH))
            await until(lambda: trial.running == 1 and server.connections == 2)
            async with open_channel(str(tmp_path / "s")) as third:
                await third.unary(ECHO, Note(), Note)
                with trio.fail_after(5):
                    while await silent.receive_some():
                        pass
            assert trial.running == 1


async def test_peers_are_counted_and_named_by_what_they_are_recognised_as(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trial, names = Trial(), iter(["greedy", "greedy", "greedy", "modest"])

    async def recognise(peer: Peer) -> Peer:
        return replace(peer, address=next(names))

    server = Server([trial.service()], Limits(max_connections_per_peer=2), recognise=recognise)
    async with nothing_left_behind(), trio.open_nursery() as nursery:
        await nursery.start(server.serve, [await UnixListener.bind(tmp_path / "s")])
        async with raw_client(tmp_path / "s") as one, raw_client(tmp_path / "s") as two:
            await one.send(*one.request(1, WATCH))
            await two.send(*two.request(1, WATCH))
            await until(lambda: trial.running == 2)
            async with raw_client(tmp_path / "s") as three:
                assert await three.ended()
            async with open_channel(str(tmp_path / "s")) as modest:
                await modest.unary(ECHO, Note(), Note)
        nursery.cancel_scope.cancel()
    assert trial.calls[-1].peer.address == "modest"
    (refused,) = [record for record in caplog.records if "refused" in record.message]
    assert vars(refused)["peer"] == "greedy"


async def test_who_comes_while_many_are_recognised_waits_and_is_turned_away_by_nobody(tmp_path: Path) -> None:
    known, asked = trio.Event(), 0

    async def slowly(peer: Peer) -> Peer:
        nonlocal asked
        asked += 1
        await known.wait()
        return peer

    async def call() -> None:
        async with open_channel(str(tmp_path / "s")) as channel:
            assert (await channel.unary(ECHO, Note(endpoint="patient"), Note)).endpoint == "patient"

    server = Server([Trial().service()], recognise=slowly)
    async with nothing_left_behind(), trio.open_nursery() as nursery:
        await nursery.start(server.serve, [await UnixListener.bind(tmp_path / "s")])
        async with trio.open_nursery() as callers:
            for _ in range(RECOGNISING_AT_ONCE + 9):
                callers.start_soon(call)
            await until(lambda: asked == RECOGNISING_AT_ONCE)
            await trio.sleep(0.05)
            assert asked == RECOGNISING_AT_ONCE
            known.set()
        assert asked == RECOGNISING_AT_ONCE + 9
        nursery.cancel_scope.cancel()


async def test_a_thousand_connections_leave_nothing_behind(tmp_path: Path) -> None:
    trial = Trial()
    async with nothing_left_behind(), served(trial, tmp_path / "s") as server:
        for number in range(1000):
            async with await trio.open_unix_socket(tmp_path / "s") as stream:
                if number % 2:
                    await stream.send_all(b"PRI * HTTP/2.0\r\n"[: number % 17])
        await until(lambda: server.connections == 0)
        async with open_channel(str(tmp_path / "s")) as channel:
            assert (await channel.unary(ECHO, Note(endpoint="after"), Note)).endpoint == "after"


async def test_a_connection_that_never_speaks_is_closed(autojump_clock: MockClock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Server([]).serve_connection, theirs)
        with trio.fail_after(11):
            while await ours.receive_some():
                pass


async def test_an_idle_connection_is_closed_and_a_busy_one_not(autojump_clock: MockClock) -> None:
    trial = Trial()
    async with in_memory(trial, Limits(idle_seconds=60)) as channel:
        async with channel.stream(WATCH, Note(), Note) as answers:
            await answers.receive()
            await trio.sleep(600)
            assert (await channel.unary(ECHO, Note(endpoint="busy"), Note)).endpoint == "busy"
        await trio.sleep(59)
        assert (await channel.unary(ECHO, Note(endpoint="idle"), Note)).endpoint == "idle"
        await trio.sleep(61)
        with pytest.raises(Unavailable):
            await channel.unary(ECHO, Note(), Note)


async def test_without_limits_a_connection_may_rest_for_days(autojump_clock: MockClock) -> None:
    async with in_memory(Trial(), KUBELET_LIMITS) as channel:
        await channel.unary(ECHO, Note(), Note)
        await trio.sleep(3 * 86400)
        assert (await channel.unary(ECHO, Note(endpoint="awake"), Note)).endpoint == "awake"
