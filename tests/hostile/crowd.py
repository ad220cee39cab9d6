"""Callers of the device API in different containers: this process by turns, and crowds, which are real processes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from mortalgpu.model.pod import ContainerRef
from mortalgpu.rpc.channel import open_channel
from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb
from mortalgpu.rpc.status import RpcError
from tests.scenario.device_api import Served
from tests.unit.deviceapi import node

GET_DEVICES = "/device.v1.DeviceService/GetDevices"
CHECKOUT = Path(__file__).parents[2]


@contextmanager
def attacking(made: Served, ref: ContainerRef, attack: str, address: str) -> Iterator[None]:
    """Let a process of a container attack an address for the length of the block, as `tests.hostile.attacker` does."""
    command = [sys.executable, "-m", "tests.hostile.attacker", attack, address.removeprefix("unix://")]
    environment = {**os.environ, "TOKEN": made.token(*node.ids(node.GPU_A, 0, 1, 2, 3))}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdin=pipe, stdout=pipe) as crowd:
        try:
            made.host.start(ref, pid=crowd.pid)
            assert crowd.stdout is not None
            assert crowd.stdout.readline() == b"attacking\n"
            yield
            assert crowd.poll() is None, "the attacker gave up"
        finally:
            crowd.kill()


async def served_fresh(made: Served, address: str, *, seconds: float = 10) -> float:
    """Call once on a connection of its own; returns the seconds that it took. Raises RpcError, TooSlowError."""
    began = trio.current_time()
    token = [("authorization", made.node_token())] if address == made.network else []
    with trio.fail_after(seconds):
        async with open_channel(address) as channel:
            answer = await channel.unary(GET_DEVICES, pb.GetDevicesRequest(), pb.GetDevicesResponse, metadata=token)
    assert node.GPU_B in answer.device
    return trio.current_time() - began


async def refused(made: Served, address: str) -> bool:
    """Whether a fresh caller is turned away."""
    try:
        await served_fresh(made, address)
    except RpcError:
        return True
    return False
