"""What the daemon keeps and uses, read from /proc and from its page, and how fast it answers a list."""

import os
import re
import statistics
import time
from pathlib import Path

import trio

from mortalgpu.rpc.channel import open_channel
from mortalgpu.rpc.pb.deviceplugin.v1beta1 import deviceplugin_pb2 as pb
from mortalgpu.rpc.status import RpcError
from tests.bench.process import cpu_seconds
from tests.soak.clients import scrape
from tests.soak.node import CAPACITY, Node

LISTED = "mortalgpu/a100-shared"
TASKS = re.compile(r"(?m)^mortalgpu_tasks\S* (\S+)$")
ALLOCATED = re.compile(r"(?m)^mortalgpu_resource_allocated_meta_devices\S* (\S+)$")
LIST_SECONDS = 20.0


async def sample(node: Node, *, quiet: bool = False) -> None:
    """Take a sample, into the node's ledger. `quiet`: nobody is there and nothing is wrong."""
    pid = node.daemon.pid
    page = await scrape(node, "daemon")
    if not node.trouble:
        await _time_list(node)
    rollup = _kib(Path(f"/proc/{pid}/smaps_rollup"))
    node.ledger.sample(
        quiet=quiet,
        trouble=node.trouble,
        rss_kib=rollup["Rss"],
        pss_kib=rollup["Pss"],
        uss_kib=rollup["Private_Clean"] + rollup["Private_Dirty"],
        fds=len(os.listdir(f"/proc/{pid}/fd")),
        threads=len(os.listdir(f"/proc/{pid}/task")),
        children=_children(pid),
        tasks=int(float(TASKS.findall(page)[0])) if TASKS.search(page) else None,
        cpu_seconds=cpu_seconds(pid),
        own_cpu_seconds=time.process_time(),
        log_bytes=node.daemon.log_path.stat().st_size,
        load=os.getloadavg()[0],
        yardstick_ms=_yardstick_ms(),
    )


async def check_rest(node: Node) -> None:
    """Hold a node at rest to its promises: everything on offer, nothing held, ready."""
    if not await node.until(node.whole, 30):
        found = {resource: node.kubelet.capacity(resource) for resource in CAPACITY}
        node.ledger.wrong(f"at rest the node is not whole: {found}")
    with trio.move_on_after(20):
        while any(float(held) for held in ALLOCATED.findall(await scrape(node, "daemon"))):
            await trio.sleep(0.5)
        while re.search(r"(?m)^mortalgpu_container_\w+{", await scrape(node, "gpus")):
            await trio.sleep(0.5)
        return
    node.ledger.wrong("at rest the pages still tell of containers")


async def _time_list(node: Node) -> None:
    """Note how long a fresh connection waits for the whole list."""
    begun = time.perf_counter()
    try:
        with trio.fail_after(LIST_SECONDS):
            async with (
                open_channel(f"unix://{node.kubelet.socket_of(LISTED)}") as channel,
                channel.stream("/v1beta1.DevicePlugin/ListAndWatch", pb.Empty(), pb.ListAndWatchResponse) as answers,
            ):
                answer = await answers.receive()
    except (OSError, RpcError, trio.TooSlowError) as error:
        if not node.trouble:
            node.ledger.wrong(f"no list could be had: {error!r}")
        return
    node.ledger.took("list", time.perf_counter() - begun)
    found = len(answer.devices) if answer else 0
    if found != CAPACITY[LISTED]:
        node.ledger.wrong(f"the list has {found} meta-devices")


def _children(pid: int) -> int:
    """Count the daemon's child processes."""
    return sum(len(path.read_text().split()) for path in Path(f"/proc/{pid}/task").glob("*/children"))


def _kib(path: Path) -> dict[str, int]:
    fields = (line.split() for line in path.read_text().splitlines()[1:])
    return {name.rstrip(":"): int(count) for name, count, *_ in fields}


def _yardstick_ms() -> float:
    """Return how long a fixed piece of work takes here now: the machine's part in every latency."""
    taken = []
    for _ in range(5):
        begun = time.perf_counter()
        sum(number * number for number in range(20_000))
        taken.append((time.perf_counter() - begun) * 1000)
    return round(statistics.median(taken), 3)
