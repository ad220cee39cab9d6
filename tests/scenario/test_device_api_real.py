"""Who calls, as a real kernel tells it: real processes in real cgroups, at a real socket."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from mortalgpu.deviceapi import servicer
from mortalgpu.host.table import ProcfsTable
from mortalgpu.model.pod import ContainerRef
from mortalgpu.model.usage import ProcessUsage
from tests.scenario.device_api import Served, served
from tests.scenario.mgctl import COMMAND
from tests.standin.cgroups import Box, KubepodsTree, needs_unified
from tests.unit.deviceapi import node

pytestmark = list(needs_unified.marks)


@pytest.fixture
def tree() -> Iterator[KubepodsTree]:
    with KubepodsTree.unified() as made:
        yield made


def box_of(tree: KubepodsTree, ref: ContainerRef) -> Box:
    return tree.container(ref.pod_uid, ref.container_id)


@asynccontextmanager
async def on_this_machine(directory: Path) -> AsyncIterator[Served]:
    """Serve with the machine's own process table."""
    with ProcfsTable() as table:
        async with served(directory, processes=table) as made:
            yield made


async def run_in(tree: KubepodsTree, where: Box | Path | None, words: Sequence[str]) -> tuple[int, str]:
    """Run a program in a container to its end; return its exit code and output."""
    process = await trio.to_thread.run_sync(lambda: tree.run(where, words, stdout=subprocess.PIPE))
    assert process.stdout is not None
    output = await trio.to_thread.run_sync(process.stdout.read)
    return await trio.to_thread.run_sync(process.wait), output.decode()


async def mgctl_in(tree: KubepodsTree, where: Box | Path | None, *words: str) -> tuple[int, Any]:
    """Run mgctl in a container; return its exit code and what its JSON says."""
    code, output = await run_in(tree, where, [*COMMAND, *words, "-o", "json"])
    return code, json.loads(output) if output else None


def pods(answer: dict[str, Any]) -> set[str]:
    return {f"{found['pod_namespace']}/{found['pod_id']}" for found in answer["gpu_containers"]}


async def test_each_container_sees_its_own_pod_without_a_token(tmp_path: Path, tree: KubepodsTree) -> None:
    async with on_this_machine(tmp_path) as made:
        for ref, pod in ((node.TRAIN_MAIN, "team-a/train"), (node.OTHER_TRAIN, "team-b/train"), (node.INFER, "team-b/infer")):
            code, answer = await mgctl_in(tree, box_of(tree, ref), "get", "p", "-s", made.container_socket)
            assert (code, answer["visibility_level"], pods(answer)) == (0, "l1", {pod})


async def test_a_cgroup_made_inside_a_container_is_still_that_container(tmp_path: Path, tree: KubepodsTree) -> None:
    async with on_this_machine(tmp_path) as made:
        nested = tree.nested(box_of(tree, node.INFER), "a/kubepods/podf/b")
        code, answer = await mgctl_in(tree, nested, "get", "p", "-s", made.container_socket)
    assert (code, pods(answer)) == (0, {"team-b/infer"})


async def test_another_pods_token_and_name_get_nothing_on_the_socket(tmp_path: Path, tree: KubepodsTree) -> None:
    async with on_this_machine(tmp_path) as made:
        stolen = made.token(*node.ids(node.GPU_A, 0, 1, 2, 3))
        infer = box_of(tree, node.INFER)
        code, answer = await mgctl_in(tree, infer, "get", "p", "-s", made.container_socket, "-t", stolen)
        assert (code, pods(answer)) == (0, {"team-b/infer"})
        code, answer = await mgctl_in(tree, infer, "get", "d", "-s", made.container_socket, "-t", stolen)
        assert (code, set(answer["device"])) == (0, {node.GPU_B})


async def test_a_container_without_shares_sees_nothing(
    tmp_path: Path, tree: KubepodsTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servicer, "NEXT_SCAN_SECONDS", 0.1)
    async with on_this_machine(tmp_path) as made:
        code, answer = await mgctl_in(tree, tree.container(), "get", "p", "-s", made.container_socket)
    assert (code, pods(answer)) == (0, set())


async def test_a_process_of_the_host_needs_a_token_where_containers_come_in_and_root_none_where_they_do_not(
    tmp_path: Path, tree: KubepodsTree
) -> None:
    async with on_this_machine(tmp_path) as made:
        assert await mgctl_in(tree, None, "get", "p", "-s", made.container_socket) == (1, None)
        code, answer = await mgctl_in(tree, None, "get", "p", "-s", made.admin_socket)
    assert (code, answer["visibility_level"]) == (0, "l0")


def with_process(made: Served, ref: ContainerRef, pid: int, start_ticks: int) -> None:
    """Publish that a real process of a container works on its device."""
    holders = []
    for holder in made.usage.value.containers:
        if holder.container_id == ref.container_id:
            claim = holder.devices[0]
            real = ProcessUsage(pid, start_ticks, ref, claim.uuid, 1)
            holders.append(replace(holder, devices=(replace(claim, processes=(real,)),)))
        else:
            holders.append(holder)
    made.usage.publish(replace(made.usage.value, containers=tuple(holders)))


async def test_a_container_ends_its_own_process_and_no_other_containers(tmp_path: Path, tree: KubepodsTree) -> None:
    with ProcfsTable() as table:
        async with served(tmp_path, processes=table) as made:
            mine, other = box_of(tree, node.INFER), box_of(tree, node.TRAIN_MAIN)
            victim = await trio.to_thread.run_sync(lambda: tree.run(mine, ("sleep", "300")))
            found = (await table.inspect([victim.pid]))[victim.pid]
            with_process(made, node.INFER, victim.pid, found.start_ticks)
            reach = ("-s", made.container_socket)
            assert (await mgctl_in(tree, other, "kill", str(victim.pid), *reach))[0] == 1
            assert victim.poll() is None
            assert await mgctl_in(tree, mine, "kill", str(victim.pid), *reach) == (0, {"killed": [victim.pid]})
            assert victim.wait(10) == -9


async def test_a_process_with_another_start_time_is_not_ended(tmp_path: Path, tree: KubepodsTree) -> None:
    async with on_this_machine(tmp_path) as made:
        mine = box_of(tree, node.INFER)
        reused = await trio.to_thread.run_sync(lambda: tree.run(mine, ("sleep", "300")))
        with_process(made, node.INFER, reused.pid, 7)
        assert (await mgctl_in(tree, mine, "kill", str(reused.pid), "-s", made.container_socket))[0] == 1
        assert reused.poll() is None


ORPHAN = """
import os, socket, sys, trio
from mortalgpu.rpc.channel import channel_over
from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb
from mortalgpu.rpc.status import RpcError

sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1].removeprefix("unix://"))
parent = os.pidfd_open(os.getpid())
if os.fork():
    os._exit(0)

async def main():
    await trio.lowlevel.wait_readable(parent)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
    async with channel_over(stream, "orphan") as channel:
        try:
            await channel.unary("/device.v1.DeviceService/GetDevices", pb.GetDevicesRequest(), pb.GetDevicesResponse)
            print("answered")
        except RpcError as error:
            print(error.code.name)

trio.run(main)
"""
"""Connects, dies, and leaves the connection to its child: the number of the one that connected may be anybody's by now."""


async def test_a_connection_whose_process_has_died_is_nobodys(tmp_path: Path, tree: KubepodsTree) -> None:
    async with on_this_machine(tmp_path) as made:
        box = box_of(tree, node.INFER)
        _, output = await run_in(tree, box, [sys.executable, "-c", ORPHAN, made.container_socket])
    assert output == "UNAUTHENTICATED\n"
