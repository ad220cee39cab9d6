"""A node under attack: the device API on its port, kubelet's stream beside it, and witnesses that nobody else suffers."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from hyperframe.frame import WindowUpdateFrame

from mortalgpu.allocator import collocate
from mortalgpu.allocator.base import Policy, Terms
from mortalgpu.deviceplugin.servicer import Offer, Servicer
from mortalgpu.isolation.base import EditSettings
from mortalgpu.isolation.none import NoIsolation
from mortalgpu.model.counts import PluginCounts
from mortalgpu.model.device import Health
from mortalgpu.rpc.channel import Channel, open_channel
from mortalgpu.rpc.listener import UnixListener
from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb
from mortalgpu.rpc.pb.deviceplugin.v1beta1 import deviceplugin_pb2 as plugin_pb
from mortalgpu.rpc.server import KUBELET_LIMITS, Server
from tests.scenario.device_api import Served, served
from tests.unit.deviceapi import node
from tests.unit.rpc.trial import RawClient
from tests.waiting import until

GET_DEVICES = "/device.v1.DeviceService/GetDevices"
WORST_CALL_SECONDS = 3.0
WORST_LIST_SECONDS = 1.5
_FAULTS = ("handler failed", "connection failed")
MOST_GROWTH_BYTES = 96 * 1024 * 1024


class Siege:
    """The node, and what the witnesses have seen. Times are of the slowest of each kind."""

    def __init__(self, made: Served, plugin_socket: Path) -> None:
        self.made = made
        self.calls = 0
        self.worst_call = 0.0
        self.lists = 0
        self.worst_list = 0.0
        self._plugin_socket = plugin_socket

    async def raw(self, *, greet: bool = True) -> RawClient:
        """Connect an attacker; who gets no connection has been turned away, which is a good answer."""
        host, port = self.made.network.split(":")
        client = RawClient(await trio.open_tcp_stream(host, int(port)))
        if greet:
            await client.greet()
            # Attackers do not count what they read; the server shall not wait for them to.
            await client.send(WindowUpdateFrame(0, window_increment=2**30))
        return client

    async def witness_calls(self) -> None:
        """Call over the network, each time on a connection of its own, and over the socket on one that stays."""
        metadata = [("authorization", self.made.node_token())]

        async def call(channel: Channel) -> None:
            began = trio.current_time()
            answer = await channel.unary(GET_DEVICES, pb.GetDevicesRequest(), pb.GetDevicesResponse, metadata=metadata)
            assert len(answer.device) == 2
            self.worst_call = max(self.worst_call, trio.current_time() - began)
            self.calls += 1

        self.made.call_from(node.INFER)
        async with open_channel(self.made.container_socket) as standing:
            while True:
                async with open_channel(self.made.network) as fresh:
                    await call(fresh)
                await call(standing)
                await trio.sleep(0.1)

    async def witness_lists(self) -> None:
        """Hold kubelet's stream, and see how fast a change of health arrives there."""
        async with (
            open_channel(f"unix://{self._plugin_socket}") as channel,
            channel.stream("/v1beta1.DevicePlugin/ListAndWatch", plugin_pb.Empty(), plugin_pb.ListAndWatchResponse) as lists,
        ):
            await lists.receive()
            while True:
                began = trio.current_time()
                sick = {node.GPU_A: Health(self.lists % 2 == 0)}
                self.made.inventory.publish(replace(node.INVENTORY, health=sick))
                assert await lists.receive() is not None
                self.worst_list = max(self.worst_list, trio.current_time() - began)
                self.lists += 1
                await trio.sleep(0.1)


@asynccontextmanager
async def siege(directory: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Siege]:
    """Attack in the block. After it: the witnesses were served, memory is as it was, and the log tells of no fault of ours."""
    caplog.set_level(logging.WARNING)
    socket = directory / "plugin.sock"
    async with served(directory) as made:
        isolation = NoIsolation(EditSettings())
        offer = Offer(
            node.RESOURCE,
            made.inventory,
            Policy(collocate.choose, Terms()),
            isolation,
            lambda: True,
            PluginCounts(),
            lambda _: None,
        )
        async with trio.open_nursery() as nursery:
            plugin = Server([Servicer(offer).service()], KUBELET_LIMITS)
            await nursery.start(plugin.serve, [await UnixListener.bind(socket)])
            besieged = Siege(made, socket)
            nursery.start_soon(besieged.witness_calls)
            nursery.start_soon(besieged.witness_lists)
            await until(lambda: besieged.calls > 3 and besieged.lists > 1, 20)
            before = resident_bytes()
            yield besieged
            calls, lists = besieged.calls, besieged.lists
            await until(lambda: besieged.calls > calls + 3 and besieged.lists > lists + 1, 20)
            nursery.cancel_scope.cancel()
    assert besieged.worst_call < WORST_CALL_SECONDS
    assert besieged.worst_list < WORST_LIST_SECONDS
    assert resident_bytes() - before < MOST_GROWTH_BYTES
    faults = [
        record for record in caplog.records if record.message in ("handler failed", "connection failed", "service crashed")
    ]
    assert faults == []


def resident_bytes() -> int:
    """How much memory this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
