"""A node daemon's scanner and enforcer alone, in a process of their own, so that what they cost can be measured.

Started by reaction.py with one argument, a JSON file that says what there is: the stand-in's library, devices, containers.
Prints `ready`; answers each line on standard input with one JSON line of figures; ends with its input.
"""

import json
import logging
import sys
from pathlib import Path

import trio

from mortalgpu.driver.nvml import NvmlSettings, nvml_driver
from mortalgpu.host.clock import MachineClock
from mortalgpu.host.table import ProcfsTable
from mortalgpu.latest import Latest
from mortalgpu.model.device import Device
from mortalgpu.model.kill import Enforcement
from mortalgpu.model.pod import Assignment, Container, Pod
from mortalgpu.model.share import Inventory, SharedDevice
from mortalgpu.model.usage import Usage
from mortalgpu.scan.scanner import Neighbours
from mortalgpu.units import from_mib
from tests.unit.scan.making import RESOURCE, ids, view
from tests.unit.scan.node import Cells, RecordingCluster, ScriptedKubelet, start_both


async def live(plan: dict[str, list[dict[str, str]]], library: str) -> None:
    """Scan and enforce until the input ends."""
    inventory = Latest(Inventory(tuple(_device(each) for each in plan["devices"])))
    cells = Cells(inventory, Latest(view(*map(_pod, plan["containers"]))))
    kubelet = ScriptedKubelet()
    kubelet.books = tuple(map(_assignment, plan["containers"]))
    with ProcfsTable() as table:
        async with nvml_driver(NvmlSettings(library=library))() as driver, trio.open_nursery() as nursery:
            await driver.devices()
            neighbours = Neighbours(driver, table, kubelet, RecordingCluster(), MachineClock())
            await start_both(nursery, neighbours, cells)
            print("ready", flush=True)
            while await trio.to_thread.run_sync(sys.stdin.readline):
                print(json.dumps(_figures(cells.usage.value, cells.enforcement.value)), flush=True)
            nursery.cancel_scope.cancel()


def _figures(usage: Usage, enforcement: Enforcement) -> dict[str, object]:
    counts = usage.counts
    return {
        "looks": counts.looks,
        "scans": counts.scans,
        "scan_seconds": counts.scan_seconds,
        "last_scan_seconds": usage.duration_seconds,
        "overruns": counts.overruns,
        "processes": sum(device.process_count for device in usage.devices),
        "strangers": sum(device.stranger_count for device in usage.devices),
        "outcomes": dict(enforcement.outcomes),
        "troubles": list(usage.troubles),
    }


def _device(each: dict[str, str]) -> SharedDevice:
    device = Device(each["uuid"], int(each["index"]), "Tesla V100", from_mib(int(each["mib"])))
    return SharedDevice(device, RESOURCE, int(each["shares"]))


def _pod(each: dict[str, str]) -> Pod:
    return Pod(each["pod"], each["name"], "ns", (Container("main", each["container"]),), {}, each["pod"])


def _assignment(each: dict[str, str]) -> Assignment:
    first, shares = int(each["first"]), int(each["shares"])
    return Assignment(each["name"], "ns", "main", {RESOURCE: ids(each["uuid"], *range(first, first + shares))})


def main() -> None:
    """Read the plan and live."""
    logging.basicConfig(level=logging.ERROR)
    plan = json.loads(Path(sys.argv[1]).read_text())
    trio.run(live, plan, sys.argv[2])


if __name__ == "__main__":
    main()
