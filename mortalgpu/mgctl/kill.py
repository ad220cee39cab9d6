"""`mgctl kill`: ends GPU processes by their number on the host, and helps who gave the number inside the container."""

import sys

from mortalgpu.mgctl import dump, screen
from mortalgpu.mgctl.arguments import Options
from mortalgpu.mgctl.client import Daemon, Failure, daemon
from mortalgpu.mgctl.codes import DONE
from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb


async def kill(options: Options) -> int:
    """End each process; the exit code is that of the first that failed. Raises Failure when the daemon is not reachable."""
    code = DONE
    ended = []
    async with daemon(options) as connected:
        for pid in options.pids:
            try:
                await connected.call("KillGpuProcess", pb.KillGpuProcessRequest(pid=pid), pb.KillGpuProcessResponse)
            except Failure as failure:
                print(f"mgctl: {failure}{await _hint(connected, pid)}", file=sys.stderr)
                code = code or failure.code
                continue
            ended.append(pid)
    _tell(ended, options)
    return code


def _tell(ended: list[int], options: Options) -> None:
    if options.output == "table":
        screen.show([f"killed {pid}" for pid in ended])
    else:
        screen.show([dump.written({"killed": ended}, options.output, pretty=options.pretty)])


async def _hint(connected: Daemon, pid: int) -> str:
    """Say which number was meant, when exactly one process in sight has the given one inside its container."""
    try:
        seen = await connected.containers()
    except Failure:
        return ""
    processes = [process for container in seen.gpu_containers for process in container.device_processes]
    meant = {process.pid for process in processes if process.container_pid == pid} - {
        process.pid for process in processes if process.pid == pid
    }
    if len(meant) != 1:
        return ""
    return f"\n{pid} is its number inside the container; on the host it is {meant.pop()}: give that one."
