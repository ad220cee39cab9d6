"""`mgctl get processes` and `mgctl get devices`: once, or again at each change."""

from mortalgpu.mgctl import dump, render, screen
from mortalgpu.mgctl.arguments import Options
from mortalgpu.mgctl.client import Daemon, daemon, tell_skew
from mortalgpu.mgctl.codes import DONE
from mortalgpu.mgctl.follow import follow
from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb

_PARTINGS = {"yaml": ["---"], "table": [""], "json": []}
"""What stands between snapshots that follow each other."""


async def get(options: Options) -> int:
    """Run the command and return its exit code. Raises Failure."""
    if options.watch:
        await follow(options, Watch(options).show)
        return DONE
    async with daemon(options) as connected:
        if options.kind == "devices":
            devices = await connected.devices()
            screen.show(_devices(devices, options))
            tell_skew(devices.server_version)
        else:
            containers = await connected.containers()
            screen.show(_processes(containers, options))
            tell_skew(containers.server_version)
    return DONE


class Watch:
    """Shows snapshots one over the other on a terminal, one after the other elsewhere."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._live = screen.is_terminal() and options.output == "table"
        self._shown = 0

    async def show(self, _daemon: Daemon, snapshot: pb.GetGpuContainersResponse) -> bool:
        """Show one; true when it was the last one wanted."""
        lines = _processes(snapshot, self._options)
        if self._live:
            screen.redraw(lines, first=not self._shown)
        else:
            screen.show([*_PARTINGS[self._options.output], *lines] if self._shown else lines)
        self._shown += 1
        return self._shown == self._options.count


def _processes(response: pb.GetGpuContainersResponse, options: Options) -> list[str]:
    if options.output == "table":
        return render.processes(response, screen.paint(), width=screen.width(), ruled=options.pretty)
    return [dump.written(dump.as_data(response), options.output, pretty=options.pretty)]


def _devices(response: pb.GetDevicesResponse, options: Options) -> list[str]:
    if options.output == "table":
        return render.devices(response, screen.paint(), width=screen.width(), ruled=options.pretty)
    return [dump.written(dump.as_data(response), options.output, pretty=options.pretty)]
