"""One tenant's crowd at the doors of the device API: other containers, the operator and the network are served all the same."""

import socket
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from mortalgpu.model.pod import ContainerRef
from mortalgpu.rpc.channel import open_channel
from mortalgpu.rpc.framing import frame
from mortalgpu.rpc.server import Limits
from tests.campaign import Tally
from tests.hostile.crowd import attacking, refused, served_fresh
from tests.scenario.device_api import Served, served
from tests.unit.deviceapi import node
from tests.unit.rpc.trial import RawClient

pytestmark = pytest.mark.hostile

WATCH = "/grpc.health.v1.Health/Watch"
"""Public and endless: a call that anybody may make, and that keeps its connection busy."""
ADDRESSES = tuple(f"127.0.0.{number}" for number in range(11, 15))
TENANTS = tuple(ContainerRef(node.uid(90 + number), node.cid(90 + number)) for number in range(4))
MOST = Limits().max_connections_per_peer


@pytest.mark.parametrize("attack", ["knock", "rapid-reset", "deaf"])
async def test_a_container_at_full_speed_keeps_no_door_shut(tmp_path: Path, tally: Tally, attack: str) -> None:
    """All attacks at all doors are tried on a daemon of its own, in tests/e2e/hostile."""
    async with served(tmp_path) as made:
        made.call_from(node.INFER)
        with attacking(made, node.TRAIN_MAIN, attack, made.container_socket):
            for _ in range(2):
                for address in (made.container_socket, made.network, made.admin_socket):
                    await served_fresh(made, address, seconds=30)
                    tally.add("neighbours served meanwhile")
    tally.add("attacks")


async def watching(stack: AsyncExitStack, stream: trio.abc.Stream) -> None:
    """Make an endless public call on a connection, until the stack is left."""
    client = RawClient(await stack.enter_async_context(stream))
    await client.greet()
    await client.send(client.headers(1, WATCH), client.data(1, frame(b"")))
    assert await client.next_frame() is not None


async def fill_network(stack: AsyncExitStack, made: Served) -> None:
    """Take all the connections that a few addresses can have, and keep them busy."""
    host, port = made.network.split(":")
    for address in ADDRESSES:
        for _ in range(MOST):
            sock = trio.socket.socket(socket.AF_INET)
            await sock.bind((address, 0))
            await sock.connect((host, int(port)))
            await watching(stack, trio.SocketStream(sock))


async def fill_socket(stack: AsyncExitStack, made: Served) -> None:
    """Take all the connections that a few containers can have, and keep them busy."""
    for ref in TENANTS:
        made.call_from(ref)
        for _ in range(MOST):
            await watching(stack, await trio.open_unix_socket(made.container_socket.removeprefix("unix://")))
    made.call_from(node.INFER)


@pytest.mark.parametrize("door", ["network", "container_socket"])
async def test_busy_connections_of_a_few_peers_make_room_for_another_peers(tmp_path: Path, tally: Tally, door: str) -> None:
    async with served(tmp_path) as made, AsyncExitStack() as stack:
        await (fill_network if door == "network" else fill_socket)(stack, made)
        for _ in range(5):
            await served_fresh(made, getattr(made, door))
            tally.add("neighbours served meanwhile")
        async with AsyncExitStack() as others:
            # Room for more than one, and they keep it.
            for _ in range(5):
                await others.enter_async_context(open_channel(getattr(made, door)))
                await served_fresh(made, getattr(made, door))
    tally.add("attacks")


async def test_one_peer_gets_no_more_than_its_share_however_busy(tmp_path: Path, tally: Tally) -> None:
    async with served(tmp_path) as made, AsyncExitStack() as stack:
        made.call_from(node.INFER)
        for _ in range(MOST):
            await watching(stack, await trio.open_unix_socket(made.container_socket.removeprefix("unix://")))
        assert await refused(made, made.container_socket)
        assert not await refused(made, made.network)
    tally.add("attacks")


async def test_a_client_waits_where_the_queue_of_a_socket_is_full(tmp_path: Path, tally: Tally) -> None:
    """The kernel says EAGAIN at once; a client that takes this for a connection is broken off."""
    async with served(tmp_path) as made:
        path = tmp_path / "full.sock"
        with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as first:
            listening.bind(str(path))
            listening.listen(0)
            first.connect(str(path))
            async with trio.open_nursery() as nursery:
                connected = trio.Event()

                async def connect() -> None:
                    async with open_channel(str(path)):
                        connected.set()

                nursery.start_soon(connect)
                await trio.sleep(0.1)
                assert not connected.is_set()
                listening.accept()[0].close()
                with trio.fail_after(5):
                    await connected.wait()
        assert not await refused(made, made.network)
    tally.add("attacks")
