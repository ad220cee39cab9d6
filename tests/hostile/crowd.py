"""Callers of the device API in different containers: this process by turns, and crowds, which are real processes."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from mortalgpu.model.pod import ContainerRef
from mortalgpu.rpc.channel import open_channel
from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb
from mortalgpu.rpc.status import RpcError
from tests.scenario.device_api import Served
from tests.unit.deviceapi import node

GET_DEVICES = "/device.v1.DeviceService/GetDevices"
KNOCKING = """
import socket, sys, threading
def knock():
    while True:
        with socket.socket(socket.AF_UNIX) as one:
            try:
                one.connect(sys.argv[1])
            except OSError:
                pass
for _ in range(3):
    threading.Thread(target=knock, daemon=True).start()
print("knocking", flush=True)
sys.stdin.read()
"""


@contextmanager
def knocking(made: Served, ref: ContainerRef) -> Iterator[None]:
    """Let a process of a container connect to the containers' socket and leave, as fast as it can."""
    path = made.container_socket.removeprefix("unix://")
    command = [sys.executable, "-c", KNOCKING, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as crowd:
        try:
            made.host.start(ref, pid=crowd.pid)
            assert crowd.stdout is not None
            assert crowd.stdout.readline() == b"knocking\n"
            yield
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
