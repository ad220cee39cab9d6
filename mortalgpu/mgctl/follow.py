"""Following the daemon's snapshots for as long as somebody looks, also across a restart of the daemon."""

from collections.abc import Awaitable, Callable

import trio

from mortalgpu.mgctl.arguments import Options
from mortalgpu.mgctl.client import Daemon, Failure, daemon
from mortalgpu.mgctl.codes import UNREACHABLE
from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb

AGAIN_SECONDS = 1.0
PATIENCE_SECONDS = 30.0
"""How long one that has begun waits for a daemon that has gone: it may be starting anew."""

Show = Callable[[Daemon, pb.GetGpuContainersResponse], Awaitable[bool]]
"""Shows a snapshot; true when it was the last one wanted."""


async def follow(options: Options, show: Show, lost: Callable[[], None] = lambda: None) -> None:
    """Show snapshots until `show` has enough; `lost` is called when the daemon has gone. Raises Failure."""
    began = False
    lost_at: float | None = None

    async def show_one(connected: Daemon, snapshot: pb.GetGpuContainersResponse) -> bool:
        nonlocal began, lost_at
        began, lost_at = True, None
        return await show(connected, snapshot)

    while True:
        try:
            if await _follow_one(options, show_one):
                return
        except Failure as failure:
            lost_at = trio.current_time() if lost_at is None else lost_at
            if not began or failure.code != UNREACHABLE or trio.current_time() - lost_at > PATIENCE_SECONDS:
                raise
            lost()
        await trio.sleep(AGAIN_SECONDS)


async def _follow_one(options: Options, show: Show) -> bool:
    """Follow one daemon to its end; true when enough was shown."""
    async with daemon(options) as connected, connected.watch() as answers:
        async for snapshot in answers:
            if await show(connected, snapshot):
                return True
    return False
