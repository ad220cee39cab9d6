"""The face `mortalgpu discover`: what devices there are and how the configuration would share them. Touches no kubelet."""

import json
from dataclasses import dataclass

import trio

from mortalgpu import wiring
from mortalgpu.config import Config
from mortalgpu.driver.base import OpenDriver
from mortalgpu.driver.nvml import NvmlSettings, nvml_driver
from mortalgpu.errors import DriverTimeout
from mortalgpu.model.device import Device, DriverInfo
from mortalgpu.model.share import Inventory, SharedDevice
from mortalgpu.sharing.partition import share
from mortalgpu.sharing.rules import ShareRule, first_match
from mortalgpu.units import quantity

OPEN_SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found: the driver, every device as it would be shared, and the entries it was matched against."""

    info: DriverInfo
    inventory: Inventory
    rules: tuple[ShareRule, ...]


async def find(config: Config, open_driver: OpenDriver | None = None) -> Findings:
    """Ask the driver once. Raises DriverError when there is none, ConfigError when its devices cannot be shared so."""
    rules = wiring.share_rules(config)
    opener = open_driver or nvml_driver(NvmlSettings(config.driver.library, call_seconds=config.driver.call_timeout_seconds))
    try:
        with trio.fail_after(OPEN_SECONDS):
            async with opener() as driver:
                info, devices = await driver.info(), await driver.devices()
    except trio.TooSlowError:
        raise DriverTimeout(f"the driver did not tell its devices within {OPEN_SECONDS:.0f} s") from None
    return Findings(info, share(devices, rules), rules)


def as_json(findings: Findings) -> str:
    """Return the findings as a JSON document; sizes in bytes."""
    inventory = findings.inventory
    shared = [_shared_entry(device, findings.rules) for device in inventory.devices]
    document = {
        "driver": {
            "driverVersion": findings.info.driver_version,
            "nvmlVersion": findings.info.nvml_version,
            "cudaVersion": findings.info.cuda_version,
        },
        "resources": {name: sum(entry.advertised for entry in inventory.of_resource(name)) for name in inventory.resources},
        "devices": [*shared, *({**_device_entry(device), "entry": None} for device in inventory.left_alone)],
    }
    return json.dumps(document, indent=2)


def _shared_entry(shared: SharedDevice, rules: tuple[ShareRule, ...]) -> dict[str, object]:
    rule = first_match(rules, shared.device)
    return {
        **_device_entry(shared.device),
        "entry": rule.field if rule else None,
        "resourceName": shared.resource,
        "shares": shared.shares,
        "reserved": shared.reserved,
        "advertised": shared.advertised,
        "shareBytes": shared.share_bytes,
    }


def _device_entry(device: Device) -> dict[str, object]:
    return {
        "uuid": device.uuid,
        "index": device.index,
        "model": device.model,
        "memoryBytes": device.memory_bytes,
        "numaNode": device.numa_node,
        "minor": device.minor,
        "migGpuInstance": device.mig.gi_id if device.mig else None,
        "migProfile": device.mig.profile if device.mig else None,
        "parentUuid": device.mig.parent_uuid if device.mig else None,
    }


def as_table(findings: Findings) -> str:
    """Return the findings for people: one row a device, then the sum of each resource."""
    inventory = findings.inventory
    rows: list[tuple[str, ...]] = [("IDX", "GI", "UUID", "MODEL", "MEMORY", "SHARES", "SHARE SIZE", "RESOURCE", "ENTRY")]
    rows += [_shared_row(shared, findings.rules) for shared in inventory.devices]
    rows += [(*_device_cells(device), "-", "-", "left alone", "-") for device in inventory.left_alone]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [""] + [
        f"{name}: {sum(entry.advertised for entry in inventory.of_resource(name))} meta-devices" for name in inventory.resources
    ]
    return "\n".join(lines)


def _shared_row(shared: SharedDevice, rules: tuple[ShareRule, ...]) -> tuple[str, ...]:
    rule = first_match(rules, shared.device)
    shares = str(shared.shares) if not shared.reserved else f"{shared.advertised} (+{shared.reserved} reserved)"
    return (*_device_cells(shared.device), shares, quantity(shared.share_bytes), shared.resource, rule.field if rule else "-")


def _device_cells(device: Device) -> tuple[str, ...]:
    instance = str(device.mig.gi_id) if device.mig else "-"
    return str(device.index), instance, device.uuid, device.model, quantity(device.memory_bytes)
