"""Connections lent, inherited and left behind: on the Unix socket a call is the call of who connected, while it lives there."""

import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from mortalgpu.model.pod import ContainerRef
from mortalgpu.rpc.channel import Channel, channel_over
from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb
from mortalgpu.rpc.status import Code, RpcError
from tests.campaign import Tally
from tests.scenario.device_api import Served, served
from tests.unit.deviceapi import node

pytestmark = pytest.mark.hostile

GET_CONTAINERS = "/device.v1.DeviceService/GetGpuContainers"
KILL = "/device.v1.DeviceService/KillGpuProcess"
LENDER = """
import os, socket, sys
mode, path, lent = sys.argv[1], sys.argv[2], socket.socket(fileno=int(sys.argv[3]))
lent.recv(1)
if mode == "by a fork":
    if os.fork() == 0:
        one = socket.socket(socket.AF_UNIX)
        one.connect(path)
        socket.send_fds(lent, [b"x"], [one.fileno()])
        sys.stdin.read()
        os._exit(0)
else:
    one = socket.socket(socket.AF_UNIX)
    one.connect(path)
    socket.send_fds(lent, [b"x"], [one.fileno()])
    if mode == "and exec":
        os.set_inheritable(one.fileno(), True)
        os.execv("/bin/sleep", ["sleep", "60"])
sys.stdin.read()
"""


@asynccontextmanager
async def lent_connection(
    made: Served, ref: ContainerRef, mode: str = ""
) -> AsyncIterator[tuple[Channel, "subprocess.Popen[bytes]"]]:
    """A connection that a process of a container made and handed over to us, and that process."""
    ours, theirs = socket.socketpair()
    path = made.container_socket.removeprefix("unix://")
    with ours, theirs:
        command = [sys.executable, "-c", LENDER, mode, path, str(theirs.fileno())]
        with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[theirs.fileno()]) as lender:
            try:
                made.host.start(ref, pid=lender.pid)
                ours.sendall(b"!")
                _, descriptors, _, _ = await trio.to_thread.run_sync(socket.recv_fds, ours, 1, 1)
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=descriptors[0])))
                async with channel_over(stream, "lent") as channel:
                    yield channel, lender
            finally:
                lender.kill()


async def pods(channel: Channel, pod_id: str = "") -> list[str]:
    """The names of the pods that a call shows."""
    request = pb.GetGpuContainersRequest(pod_id=pod_id)
    with trio.fail_after(20):
        answer = await channel.unary(GET_CONTAINERS, request, pb.GetGpuContainersResponse)
    return sorted({found.pod_id for found in answer.gpu_containers})


@pytest.mark.parametrize("mode", ["", "and exec"])
async def test_a_lent_connection_is_its_makers_and_gives_the_borrower_no_name(tmp_path: Path, tally: Tally, mode: str) -> None:
    async with served(tmp_path) as made:
        made.call_from(node.TRAIN_MAIN)
        async with lent_connection(made, node.INFER, mode) as (channel, _):
            assert await pods(channel) == ["infer"]
            with pytest.raises(RpcError) as raised:
                await channel.unary(KILL, pb.KillGpuProcessRequest(pid=node.TRAIN_PID), pb.KillGpuProcessResponse)
            assert raised.value.code is Code.PERMISSION_DENIED
            assert made.host.signals == []
    tally.add("attacks")


async def test_a_connection_whose_maker_has_ended_opens_nothing(tmp_path: Path, tally: Tally) -> None:
    """Its number may be another's by now, here even in the process table's eyes."""
    async with served(tmp_path) as made:
        made.call_from(node.TRAIN_MAIN)
        async with lent_connection(made, node.INFER) as (channel, lender):
            assert await pods(channel) == ["infer"]
            lender.kill()
            await trio.to_thread.run_sync(lender.wait)
            made.host.move(lender.pid, node.TRAIN_MAIN)
            for _ in range(3):
                with pytest.raises(RpcError) as raised:
                    await pods(channel)
                assert raised.value.code is Code.UNAUTHENTICATED
                tally.add("calls refused")
    tally.add("attacks")


async def test_who_is_moved_to_another_container_is_its_from_then_on_and_no_longer_the_first(
    tmp_path: Path, tally: Tally
) -> None:
    async with served(tmp_path) as made:
        async with lent_connection(made, node.INFER) as (channel, lender):
            assert await pods(channel) == ["infer"]
            made.host.move(lender.pid, node.OTHER_TRAIN)
            assert await pods(channel) == ["train"]
            made.host.move(lender.pid, None)
            with pytest.raises(RpcError) as raised:
                await pods(channel)
            assert raised.value.code is Code.UNAUTHENTICATED
            tally.add("calls refused")
    tally.add("attacks")


async def test_a_child_that_nobody_knows_is_not_its_parent(tmp_path: Path, tally: Tally) -> None:
    async with served(tmp_path) as made, lent_connection(made, node.INFER, "by a fork") as (channel, _):
        with pytest.raises(RpcError) as raised:
            await pods(channel)
        assert raised.value.code is Code.UNAUTHENTICATED
        tally.add("calls refused")
    tally.add("attacks")
