"""The two methods that last: ending a process for its owner, and the stream of snapshots."""

import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio

from mortalgpu.rpc.status import Code, RpcError
from mortalgpu.simulation.host import Temper
from tests.unit.deviceapi import node, rig
from tests.unit.deviceapi.rig import Rig, outcome

IDS = node.ids(node.GPU_A, 0, 1, 2, 3)

# Kills.


async def test_a_kill_ends_exactly_the_process_that_was_named(tmp_path: Path) -> None:
    async with rig.rig(tmp_path) as made, made.client(made.token(*IDS)) as client:
        made.populate()
        await client.ask("KillGpuProcess", pid=node.TRAIN_PID)
        assert [sent.process.pid for sent in made.host.signals] == [node.TRAIN_PID]
        assert made.host.running(node.INFER_PID)


async def kill_code(made: Rig, pid: int = node.TRAIN_PID) -> Code:
    async with made.client(made.token(*IDS)) as client:
        return await outcome(client, "KillGpuProcess", {"pid": pid})


async def test_a_pid_that_was_reused_is_not_killed(tmp_path: Path) -> None:
    async with rig.rig(tmp_path) as made:
        made.populate()
        made.host.reuse(node.TRAIN_PID, node.TRAIN_MAIN)
        assert await kill_code(made) is Code.NOT_FOUND
        assert made.host.signals == []


async def test_a_process_that_moved_to_another_container_is_not_killed(tmp_path: Path) -> None:
    async with rig.rig(tmp_path) as made:
        made.populate()
        made.host.move(node.TRAIN_PID, node.INFER)
        assert await kill_code(made) is Code.NOT_FOUND
        assert made.host.signals == []


async def test_a_process_that_has_ended_is_not_found(tmp_path: Path) -> None:
    async with rig.rig(tmp_path) as made:
        made.populate()
        made.host.exit(node.TRAIN_PID)
        assert await kill_code(made) is Code.NOT_FOUND


async def test_a_container_whose_shares_went_while_it_asked_kills_nothing(tmp_path: Path) -> None:
    async with rig.rig(tmp_path) as made:
        made.populate()
        opened = made.host.open

        async def open_late(pid: int) -> object:
            made.usage.publish(node.usage(containers=()))
            return await opened(pid)

        made.host.open = open_late  # type: ignore[method-assign, assignment]
        assert await kill_code(made) is Code.NOT_FOUND
        assert made.host.signals == []


@pytest.mark.parametrize(
    ("temper", "code"), [(Temper(protected=True), Code.FAILED_PRECONDITION), (Temper(kill_seconds=60), Code.DEADLINE_EXCEEDED)]
)
async def test_a_kill_that_does_not_succeed_says_so(tmp_path: Path, temper: Temper, code: Code, autojump_clock: object) -> None:
    async with rig.rig(tmp_path) as made:
        made.populate(pid1001=temper)
        assert await kill_code(made) is code


async def test_a_kill_with_a_grace_asks_the_process_first(tmp_path: Path, autojump_clock: object) -> None:
    async with rig.rig(tmp_path, grace_seconds=1.0) as made:
        made.populate(pid1001=Temper(term_seconds=0.5))
        assert await kill_code(made) is Code.OK
        assert [sent.name for sent in made.host.signals] == ["SIGTERM"]


async def test_a_kill_is_logged_with_who_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with rig.rig(tmp_path) as made, made.client(made.node_token()) as client:
        made.populate()
        await client.ask("KillGpuProcess", pid=node.INFER_PID)
    record = next(record for record in caplog.records if record.message == "process killed on request")
    assert (record.__dict__["pid"], record.__dict__["user"], record.__dict__["outcome"]) == (
        node.INFER_PID,
        "op@site",
        "killed",
    )


# Streams.


async def test_a_stream_sends_at_once_then_on_each_change_and_at_least_every_second(
    tmp_path: Path, autojump_clock: object
) -> None:
    async with rig.rig(tmp_path) as made, made.client(made.node_token()) as client, client.stream() as answers:
        times = []
        for change in (False, True, False, True):
            assert await answers.receive()
            times.append(trio.current_time())
            if change:
                await trio.sleep(0.3)
                made.usage.publish(node.usage())
        gaps = [round(later - earlier, 2) for earlier, later in pairwise(times)]
        assert gaps == [1.0, 0.3, 1.0]


async def test_a_flood_of_changes_is_told_ten_times_a_second(tmp_path: Path, autojump_clock: object) -> None:
    async with rig.rig(tmp_path) as made, made.client(made.node_token()) as client, client.stream() as answers:
        began = trio.current_time()

        async def flood() -> None:
            while True:
                made.usage.publish(node.usage())
                await trio.sleep(0.001)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            for _ in range(11):
                await answers.receive()
            assert trio.current_time() - began == pytest.approx(1.0, abs=0.05)
            nursery.cancel_scope.cancel()


async def test_kills_and_devices_wake_a_stream_too(tmp_path: Path, autojump_clock: object) -> None:
    async with rig.rig(tmp_path) as made, made.client(made.node_token()) as client, client.stream() as answers:
        await answers.receive()
        await trio.sleep(0.2)
        made.enforcement.publish(node.enforcement(node.kill(node.TRAIN_MAIN)))
        told = await answers.receive()
        assert trio.current_time() % 1 == pytest.approx(0.2, abs=0.02)
        assert [kill.pid for found in told.gpu_containers for kill in found.kills] == [999]


async def test_a_stream_ends_when_its_token_expires(tmp_path: Path, autojump_clock: object) -> None:
    async with (
        rig.rig(tmp_path) as made,
        made.client(made.node_token(lifetime_seconds=5)) as client,
        client.stream() as answers,
    ):
        await answers.receive()
        made.now += 20
        with pytest.raises(RpcError) as raised:
            await drain(answers)
        assert trio.current_time() < 4
        assert raised.value.code is Code.UNAUTHENTICATED


async def drain(answers: Any) -> None:
    async for _ in answers:
        pass


async def test_a_stream_ends_when_its_container_does(tmp_path: Path, autojump_clock: object) -> None:
    async with rig.rig(tmp_path) as made, made.client(made.token(*IDS)) as client, client.stream() as answers:
        await answers.receive()
        made.usage.publish(node.usage(containers=node.usage().containers[2:]))
        with pytest.raises(RpcError) as raised:
            await answers.receive()
        assert raised.value.code is Code.UNAUTHENTICATED


async def test_one_callers_many_streams_leave_room_for_others(tmp_path: Path, autojump_clock: object) -> None:
    async with rig.rig(tmp_path) as made, made.client(made.token(*IDS)) as greedy, made.client(made.node_token()) as other:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                async with greedy.stream() as answers:
                    async for _ in answers:
                        pass

            for _ in range(16):
                nursery.start_soon(watch)
            await trio.testing.wait_all_tasks_blocked()
            async with made.client(made.token(*IDS)) as beside:
                assert await outcome(beside, "StreamGpuContainers", {}) is Code.RESOURCE_EXHAUSTED
            assert await outcome(other, "StreamGpuContainers", {}) is Code.OK
            nursery.cancel_scope.cancel()
        async with made.client(made.token(*IDS)) as again:
            assert await outcome(again, "StreamGpuContainers", {}) is Code.OK
