"""`mgctl ping`: whether the daemon answers, how fast, and which version it is."""

import trio

from mortalgpu.mgctl import dump, screen
from mortalgpu.mgctl.arguments import Options
from mortalgpu.mgctl.client import Daemon, Failure, daemon, tell_skew
from mortalgpu.mgctl.codes import DONE
from mortalgpu.mgctl.text import harmless
from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb


async def ping(options: Options) -> int:
    """Ping once and return the exit code. Raises Failure."""
    async with daemon(options) as connected:
        began = trio.current_time()
        await connected.call("PingServer", pb.PingServerRequest(), pb.PingServerResponse)
        took = round((trio.current_time() - began) * 1000, 1)
        version = await _version(connected)
        data = {"address": connected.address, "milliseconds": took, "server_version": version}
    if options.output == "table":
        tail = f"; its version is {harmless(version)}" if version else ""
        screen.show([f"the daemon at {harmless(connected.address)} answered in {took:g} ms{tail}"])
    else:
        screen.show([dump.written(data, options.output, pretty=options.pretty)])
    tell_skew(version)
    return DONE


async def _version(connected: Daemon) -> str:
    """Return the daemon's version; empty for a caller that it tells nothing but that it lives."""
    try:
        return (await connected.devices()).server_version
    except Failure:
        return ""
