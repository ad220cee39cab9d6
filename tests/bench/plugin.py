"""The device plugin under kubelet's calls: list, preference, allocation, made and timed by a grpcio client in a thread."""

from pathlib import Path

import trio

from tests.bench.client import PluginClient
from tests.bench.effort import Effort
from tests.bench.full_node import FullNode
from tests.bench.timing import Samples, timed

WANTED = 40
"""Shares of one preference, and of one allocation."""
MANY = 10_000
"""Above this many meta-devices a tenth of the calls must do."""


async def measure(node: FullNode, effort: Effort) -> Samples:
    """Time the calls on a node where every share is free."""
    (socket,) = node.machine.socket_dir.glob("mortalgpu-*.sock")
    times = effort.calls // 10 if node.meta_devices > MANY else effort.calls
    return await trio.to_thread.run_sync(_timed_calls, socket, node.meta_devices, times)


def _timed_calls(socket: Path, count: int, times: int) -> Samples:
    with PluginClient(socket) as client:
        available = [device.ID for device in client.first_list().devices]
        chosen = client.prefer(available, WANTED)
        client.allocate(chosen)
        return {
            f"list_{count}": timed(max(times // 4, 10), client.first_list),
            f"preferred_{count}": timed(times, lambda: client.prefer(available, WANTED)),
            f"allocate_{count}": timed(times, lambda: client.allocate(chosen)),
        }
