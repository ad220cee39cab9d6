"""The device plugin under kubelet's calls: start, list, preference, allocation, memory, idle CPU.

The daemon is a process of its own on the driver stand-in; the twin kubelet lives in the bench's process, and a grpcio client
beside it makes the timed calls.
"""

from dataclasses import replace
from functools import partial

import trio

from mortalgpu.model.device import Device
from mortalgpu.simulation.driver import v100_uuid, worked_example
from mortalgpu.simulation.kubelet import TwinKubelet, running
from tests.bench.client import PluginClient, timed
from tests.bench.process import cpu_seconds, resident_mib
from tests.bench.row import Row, percentile
from tests.scenario.machine import Daemon, Machine, daemon, machine

RESOURCE = "mortalgpu/bench"
SIZES = ((320, 1), (6400, 8), (60_000, 8))
"""Meta-devices in all, and on how many devices."""
AIMED_AT = 6400
WANTED = 40
STARTS = 5
IDLE_SECONDS = 10.0

CONFIG = """
deviceSharing: [{{resourceName: {resource}, metagpusPerGpu: {each}}}]
nodeName: bench
podSource: cri
criSocket: /nowhere.sock
exporter: {{address: "127.0.0.1:0", daemonAddress: "127.0.0.1:0"}}
deviceApi: {{address: "127.0.0.1:0"}}
mgctl: {{hostMount: {{enabled: false}}}}
"""


async def measure() -> list[Row]:
    """Return all rows of this part; takes about a minute."""
    rows: list[Row] = []
    for count, devices in SIZES:
        with machine(_devices(devices)) as node:
            node.config_path.write_text(CONFIG.format(resource=RESOURCE, each=count // devices))
            rows += await _start_rows(node, count)
            rows += await _call_rows(node, count)
    return rows


def _devices(count: int) -> list[Device]:
    """Return GPUs without a NUMA node, so that 60,000 shares fit into what kubelet reads."""
    first = worked_example(1)[0]
    return [replace(first, uuid=v100_uuid(number), index=number, minor=number, numa_node=None) for number in range(count)]


async def _start_rows(node: Machine, count: int) -> list[Row]:
    taken = []
    for number in range(STARTS if count == AIMED_AT else 1):
        async with running(TwinKubelet(node.kubelet_root)) as kubelet:
            begun = trio.current_time()
            async with daemon(node, number=number) as ours:
                await ours.until(lambda: kubelet.registrations, "registered")
                taken.append(trio.current_time() - begun)
                await ours.stop()
    return [Row(f"{count}: process start to registered", percentile(taken, 0.5), "s", 1.0 if count == AIMED_AT else None)]


async def _call_rows(node: Machine, count: int) -> list[Row]:
    async with running(TwinKubelet(node.kubelet_root)) as kubelet, daemon(node, number=99) as ours:
        await ours.until(lambda: kubelet.capacity(RESOURCE) == (count, count), "the whole list", 30)
        rows = await _idle_rows(ours, count)
        (socket,) = node.socket_dir.glob("mortalgpu-*.sock")
        client = await trio.to_thread.run_sync(PluginClient, socket)
        try:
            rows += await trio.to_thread.run_sync(partial(_timed_rows, client, count))
        finally:
            await trio.to_thread.run_sync(client.__exit__)
        rows.append(Row(f"{count}: resident memory after the calls", resident_mib(ours.child.pid), "MiB"))
        await ours.stop()
    return rows


async def _idle_rows(ours: Daemon, count: int) -> list[Row]:
    await trio.sleep(1)
    pid = ours.child.pid
    aimed = count == AIMED_AT
    rows = [Row(f"{count}: resident memory", resident_mib(pid), "MiB", 45.0 if aimed else None)]
    if aimed:
        before = cpu_seconds(pid)
        await trio.sleep(IDLE_SECONDS)
        rows.append(Row(f"{count}: idle CPU", (cpu_seconds(pid) - before) / IDLE_SECONDS * 100, "% of a core", 0.5))
    return rows


def _timed_rows(client: PluginClient, count: int) -> list[Row]:
    available = [device.ID for device in client.first_list().devices]
    times = 200 if count <= AIMED_AT else 30
    chosen = client.prefer(available, WANTED)
    figures = {
        "first ListAndWatch": (timed(times // 4, client.first_list), 50.0, 0.5),
        "GetPreferredAllocation": (timed(times, lambda: client.prefer(available, WANTED)), 10.0, 0.99),
        "Allocate": (timed(times, lambda: client.allocate(chosen)), 5.0, 0.99),
    }
    rows = []
    for name, (taken, aim, judged) in figures.items():
        for share in (0.5, 0.99):
            is_aimed = count == AIMED_AT and share == judged
            rows.append(Row(f"{count}: {name} p{share * 100:.0f}", percentile(taken, share), "ms", aim if is_aimed else None))
    return rows
