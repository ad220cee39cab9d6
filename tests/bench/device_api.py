"""The device API on a full node, by grpcio in a thread: the whole node in one answer, as a stream, and when something moves."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import grpc
import trio

from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb
from mortalgpu.units import MIB
from tests.bench.effort import Effort
from tests.bench.full_node import USED_MIB, FullNode
from tests.bench.timing import Samples, timed
from tests.standin.nvml import Process

SERVICE = "/device.v1.DeviceService/"
PATIENCE_SECONDS = 10.0
MOVED_MIB = 100


async def measure(node: FullNode, effort: Effort) -> Samples:
    """Ask and follow."""
    found = await ask(node, effort.questions)
    return {**found, "stream_change": [await _change(node, number) for number in range(effort.questions)]}


async def ask(node: FullNode, times: int) -> Samples:
    """Ask for the whole node, and open its stream, so often."""

    def ask_all() -> Samples:
        with _channel(node) as channel:
            assert len(_whole(channel).gpu_containers) == len(node.containers)
            return {
                "containers": timed(times, lambda: _whole(channel)),
                "stream_first": timed(times, lambda: _first_snapshot(channel)),
            }

    return await trio.to_thread.run_sync(ask_all)


@contextmanager
def _channel(node: FullNode) -> Iterator[grpc.Channel]:
    options = [("grpc.max_receive_message_length", 2**24), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"unix:{node.admin_socket}", options=options) as channel:
        yield channel


def _whole(channel: grpc.Channel) -> pb.GetGpuContainersResponse:
    call = channel.unary_unary(
        f"{SERVICE}GetGpuContainers",
        pb.GetGpuContainersRequest.SerializeToString,
        pb.GetGpuContainersResponse.FromString,
    )
    answer: pb.GetGpuContainersResponse = call(pb.GetGpuContainersRequest(), timeout=PATIENCE_SECONDS)
    return answer


def _stream(channel: grpc.Channel) -> grpc.Call:
    call = channel.unary_stream(
        f"{SERVICE}StreamGpuContainers",
        pb.StreamGpuContainersRequest.SerializeToString,
        pb.StreamGpuContainersResponse.FromString,
    )
    return call(pb.StreamGpuContainersRequest(), timeout=PATIENCE_SECONDS)


def _first_snapshot(channel: grpc.Channel) -> None:
    stream = _stream(channel)
    next(stream)
    stream.cancel()


async def _change(node: FullNode, number: int) -> float:
    """Let a process use more memory, and follow until a snapshot shows it; return milliseconds."""
    container = node.containers[number % len(node.containers)]
    expected = MOVED_MIB + number % 7
    pid = container.pids[0]
    is_following = trio.Event()
    saw = trio.Event()
    follow = partial(_follow, node, pid, expected, partial(trio.from_thread.run_sync, is_following.set))
    async with trio.open_nursery() as nursery:

        async def wait_for_it() -> None:
            await trio.to_thread.run_sync(follow)
            saw.set()

        nursery.start_soon(wait_for_it)
        await is_following.wait()
        moved_at = _move_one(node, container.name, pid, expected)
        await saw.wait()
        return (trio.current_time() - moved_at) * 1000


def _move_one(node: FullNode, name: str, pid: int, mib: int) -> float:
    listed = [
        Process(node.given[each.name], pid=one, used=(mib if (each.name, one) == (name, pid) else USED_MIB) * MIB)
        for each in node.containers
        for one in each.pids
    ]
    return node.list_processes(listed)


def _follow(node: FullNode, pid: int, expected_mib: int, began: Callable[[], None]) -> None:
    with _channel(node) as channel:
        stream = _stream(channel)
        next(stream)
        began()
        for snapshot in stream:
            processes = (process for each in snapshot.gpu_containers for process in each.device_processes)
            if any(process.pid == pid and process.memory == expected_mib for process in processes):
                break
        stream.cancel()
