"""Every method for every caller, over the real wire: own and foreign, forged and expired, one at a time and all at once."""

import logging
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio

from mortalgpu.deviceapi.identity import Door
from mortalgpu.deviceapi.refusals import LINES
from mortalgpu.errors import DriverLost
from mortalgpu.host.base import HostProcess
from mortalgpu.model.pod import ContainerRef
from mortalgpu.rpc.status import Code, RpcError
from mortalgpu.simulation.host import Temper
from tests.unit.deviceapi import node, rig
from tests.unit.deviceapi.rig import Client, Rig
from tests.unit.deviceapi.test_tokens import signed

IDS = node.ids(node.GPU_A, 0, 1, 2, 3)
OTHERS_IDS = node.ids(node.GPU_A, 4, 5)

OK = Code.OK
DENIED, UNAUTHENTICATED, UNIMPLEMENTED = Code.PERMISSION_DENIED, Code.UNAUTHENTICATED, Code.UNIMPLEMENTED

METHODS: dict[str, tuple[str, dict[str, object]]] = {
    "ping": ("PingServer", {}),
    "containers": ("GetGpuContainers", {}),
    "containers of own pod": ("GetGpuContainers", {"pod_id": "train"}),
    "containers of a foreign pod": ("GetGpuContainers", {"pod_id": "infer"}),
    "stream": ("StreamGpuContainers", {}),
    "stream of a foreign pod": ("StreamGpuContainers", {"pod_id": "infer"}),
    "devices": ("GetDevices", {}),
    "info": ("GetMetaDeviceInfo", {}),
    "kill own": ("KillGpuProcess", {"pid": node.TRAIN_PID}),
    "kill in own pod": ("KillGpuProcess", {"pid": node.HELPER_PID}),
    "kill foreign": ("KillGpuProcess", {"pid": node.INFER_PID}),
    "kill init": ("KillGpuProcess", {"pid": 1}),
    "patch": ("PatchConfigs", {"meta_gpus": 7}),
}

CALLERS: dict[str, Callable[[Rig], str]] = {
    "nobody": lambda _: "",
    "a forger": lambda _: signed({"visibilityLevel": "l0"}, b"x" * 32),
    "an expired operator": lambda rig: rig.node_token(lifetime_seconds=-60),
    "a container long gone": lambda rig: rig.token(*node.ids(node.GPU_A, 8, 9)),
    "the operator": lambda rig: rig.node_token(),
    "train's main": lambda rig: rig.token(*IDS),
    "the shared token": lambda _: rig.STATIC_L1,
}

EXPECTED = {
    #                  every method in the order of METHODS
    "nobody": (OK, *[UNAUTHENTICATED] * 12),
    "a forger": (OK, *[UNAUTHENTICATED] * 12),
    "an expired operator": (OK, *[UNAUTHENTICATED] * 12),
    "a container long gone": (OK, *[UNAUTHENTICATED] * 6, DENIED, *[UNAUTHENTICATED] * 4, UNIMPLEMENTED),
    "the operator": (OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, DENIED, UNIMPLEMENTED),
    "train's main": (OK, OK, OK, DENIED, OK, DENIED, OK, DENIED, OK, DENIED, DENIED, DENIED, UNIMPLEMENTED),
    "the shared token": (OK, DENIED, DENIED, OK, DENIED, OK, DENIED, DENIED, *[DENIED] * 4, UNIMPLEMENTED),
}


async def outcome(client: Client, method: str, fields: dict[str, object]) -> Code:
    try:
        await client.ask(method, **fields)
    except RpcError as error:
        told_why = error.code is UNAUTHENTICATED and error.details != "a valid token is needed"
        return Code.UNKNOWN if told_why else error.code
    return Code.OK


@pytest.mark.parametrize("caller", CALLERS)
async def test_every_method_gives_every_caller_what_it_may_have(tmp_path: Path, caller: str, autojump_clock: object) -> None:
    async with rig.rig(tmp_path, container_token=rig.STATIC_L1) as made:
        made.populate()
        async with made.client(CALLERS[caller](made)) as client:
            found = {name: await outcome(client, method, fields) for name, (method, fields) in METHODS.items()}
    assert found == dict(zip(METHODS, EXPECTED[caller], strict=True))


async def test_two_hundred_calls_of_mixed_level_at_once_never_swap(tmp_path: Path) -> None:
    async with rig.rig(tmp_path) as made:
        levels: list[tuple[str, int]] = []

        async def call(number: int) -> None:
            operator = number % 2 == 0
            async with made.client(made.node_token() if operator else made.token(*OTHERS_IDS)) as client:
                for _ in range(3):
                    answer = await client.ask("GetGpuContainers")
                    levels.append((answer.visibility_level, len(answer.gpu_containers)))
                    assert (answer.visibility_level, len(answer.gpu_containers)) == (("l0", 5) if operator else ("l1", 1))

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for number in range(200):
                    nursery.start_soon(call, number)
    assert len(levels) == 600


async def test_two_levels_on_one_connection_do_not_swap(tmp_path: Path) -> None:
    async with rig.rig(tmp_path) as made:
        async with made.client() as connection:
            clients = {
                "l0": Client(connection.channel, made.node_token()),
                "l1": Client(connection.channel, made.token(*OTHERS_IDS)),
            }

            async def call(level: str) -> None:
                for _ in range(5):
                    assert (await clients[level].ask("GetGpuContainers")).visibility_level == level

            async with trio.open_nursery() as nursery:
                for level in ["l0", "l1"] * 8:
                    nursery.start_soon(call, level)


# Who the kernel says it is.


async def test_a_container_needs_no_token_on_the_socket(tmp_path: Path) -> None:
    async with rig.rig(tmp_path) as made, made.client_inside(node.INFER) as client:
        answer = await client.ask("GetGpuContainers")
        assert [found.pod_id for found in answer.gpu_containers] == ["infer"]
        assert list((await client.ask("GetDevices")).device) == [node.GPU_B]


async def test_a_container_gets_nothing_of_another_by_token_or_name(tmp_path: Path) -> None:
    async with rig.rig(tmp_path) as made, made.client_inside(node.INFER, token=made.token(*IDS)) as client:
        assert [found.pod_id for found in (await client.ask("GetGpuContainers")).gpu_containers] == ["infer"]
        assert await outcome(client, "GetGpuContainers", {"pod_id": "train"}) is DENIED
        assert await outcome(client, "KillGpuProcess", {"pid": node.TRAIN_PID}) is DENIED


async def test_root_of_the_host_needs_a_token_at_the_containers_socket(tmp_path: Path) -> None:
    async with rig.rig(tmp_path) as made, made.client_inside(None, uid=0) as client:
        assert await outcome(client, "GetDevices", {}) is UNAUTHENTICATED


async def test_a_container_without_shares_sees_an_empty_node(tmp_path: Path, autojump_clock: object) -> None:
    async with rig.rig(tmp_path) as made, made.client_inside(ContainerRef(node.uid(9), node.cid(91))) as client:
        answer = await client.ask("GetGpuContainers")
        assert (answer.visibility_level, list(answer.gpu_containers), list(answer.troubles)) == ("l1", [], [])
        assert not (await client.ask("GetDevices")).device


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
        assert raised.value.code is UNAUTHENTICATED


async def drain(answers: Any) -> None:
    async for _ in answers:
        pass


async def test_a_stream_ends_when_its_container_does(tmp_path: Path, autojump_clock: object) -> None:
    async with rig.rig(tmp_path) as made, made.client(made.token(*IDS)) as client, client.stream() as answers:
        await answers.receive()
        made.usage.publish(node.usage(containers=node.usage().containers[2:]))
        with pytest.raises(RpcError) as raised:
            await answers.receive()
        assert raised.value.code is UNAUTHENTICATED


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


# What is new, missing or broken.


async def test_a_container_that_no_scan_has_seen_yet_is_waited_for(tmp_path: Path, autojump_clock: object) -> None:
    async with rig.rig(tmp_path) as made, made.client(made.token(*IDS)) as client:
        made.usage.publish(node.usage(containers=()))
        async with trio.open_nursery() as nursery:

            async def scan() -> None:
                await trio.sleep(0.5)
                made.usage.publish(node.usage())

            nursery.start_soon(scan)
            assert (await client.ask("GetGpuContainers")).gpu_containers
        assert trio.current_time() < 1


async def test_a_container_on_the_socket_that_no_scan_has_seen_is_waited_for(tmp_path: Path, autojump_clock: object) -> None:
    async with rig.rig(tmp_path) as made, made.client_inside(node.INFER) as client:
        made.usage.publish(node.usage(containers=()))
        async with trio.open_nursery() as nursery:

            async def scan() -> None:
                for containers in ((), (), node.usage().containers):
                    await trio.sleep(1)
                    made.usage.publish(node.usage(containers=containers))

            nursery.start_soon(scan)
            assert [found.pod_id for found in (await client.ask("GetGpuContainers")).gpu_containers] == ["infer"]
        assert trio.current_time() < 4


async def test_info_tells_versions_and_devices(tmp_path: Path) -> None:
    async with rig.rig(tmp_path) as made, made.client(made.node_token()) as client:
        answer = await client.ask("GetMetaDeviceInfo")
        assert answer.node == "node-1"
        assert answer.metadata["cudaVersion"] == "12.4"
        assert {device.uuid for device in answer.devices} == {node.GPU_A, node.GPU_B}


async def test_info_without_a_driver_still_tells_the_devices(tmp_path: Path) -> None:
    async with rig.rig(tmp_path) as made, made.client(made.node_token()) as client:
        made.info = DriverLost("gone")
        answer = await client.ask("GetMetaDeviceInfo")
        assert "cudaVersion" not in answer.metadata
        assert len(answer.devices) == 2


async def test_a_fault_of_ours_tells_the_caller_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with rig.rig(tmp_path) as made, made.client(made.node_token()) as client:
        made.info = ValueError("an internal path /etc/shadow")
        with pytest.raises(RpcError) as raised:
            await client.ask("GetMetaDeviceInfo")
        assert raised.value.code is Code.INTERNAL
        assert "shadow" not in raised.value.details
        assert "shadow" in caplog.text


async def test_refusals_are_logged_with_the_reason_and_not_without_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, autojump_clock: object
) -> None:
    forged = signed({"visibilityLevel": "l0"}, b"x" * 32)
    async with rig.rig(tmp_path) as made, made.client(forged) as client:
        for _ in range(LINES + 30):
            await outcome(client, "GetDevices", {})
        await trio.sleep(61)
        await outcome(client, "StreamGpuContainers", {})
    reasons = [record.__dict__["reason"] for record in caplog.records if record.message == "caller refused"]
    assert reasons == ["token is signed with none of our keys"] * (LINES + 1)
    assert [record.__dict__["count"] for record in caplog.records if record.message == "more callers refused"] == [30]
    assert forged not in caplog.text


async def test_a_process_and_a_kill_need_an_identity_even_for_the_operator(tmp_path: Path) -> None:
    """A process of the host, outside of every container, is never reached: the usage does not know it."""
    async with rig.rig(tmp_path) as made, made.client(made.node_token()) as client:
        stranger: HostProcess = made.host.start(None)
        assert await outcome(client, "KillGpuProcess", {"pid": stranger.pid}) is DENIED
        assert made.host.running(stranger.pid)


@pytest.mark.parametrize("door", list(Door))
async def test_ping_is_public_at_every_door(tmp_path: Path, door: Door) -> None:
    async with rig.rig(tmp_path) as made, made.client(door=door) as client:
        assert await outcome(client, "PingServer", {}) is OK
