"""Every method for every caller, over the real wire: own and foreign, forged and expired, one at a time and all at once."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from mortalgpu.deviceapi.identity import Door
from mortalgpu.deviceapi.refusals import LINES
from mortalgpu.errors import DriverLost
from mortalgpu.host.base import HostProcess
from mortalgpu.model.pod import ContainerRef
from mortalgpu.rpc.status import Code, RpcError
from tests.unit.deviceapi import node, rig
from tests.unit.deviceapi.rig import Client, Rig, outcome
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


async def test_a_container_that_inherited_ids_waits_for_books_that_name_it_and_never_sees_who_had_them(
    tmp_path: Path, autojump_clock: object
) -> None:
    async with rig.rig(tmp_path) as made, made.client(made.token(*IDS)) as client:
        made.succession.minted(IDS, rig.NOW)
        granted_at = made.succession.granted_at(IDS)
        heir = replace(node.usage().containers[1], pod_name="heir", pod_uid=node.uid(8), container_id=node.cid(81))
        made.usage.publish(node.usage(books_at=granted_at - 1))
        async with trio.open_nursery() as nursery:

            async def read_books() -> None:
                await trio.sleep(0.5)
                made.usage.publish(node.usage(books_at=granted_at - 1))
                await trio.sleep(3)
                made.usage.publish(node.usage(containers=(heir,), books_at=granted_at + 1))

            nursery.start_soon(read_books)
            assert [found.pod_id for found in (await client.ask("GetGpuContainers")).gpu_containers] == ["heir"]
        assert trio.current_time() > 3


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
