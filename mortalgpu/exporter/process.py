"""Collector: each process of a container on each device; behind exporter.perProcess. From the last scan only.

What a tenant writes into a command line stands in one series of a process, so that changing it all the time does not
multiply the others.
"""

from collections.abc import Iterator

from mortalgpu.exporter import names
from mortalgpu.exporter.family import Family, family, ratio
from mortalgpu.model.share import Inventory
from mortalgpu.model.usage import ProcessUsage, Usage

COMMAND_LENGTH = 80
USER_LENGTH = 32


def collect(inventory: Inventory, usage: Usage) -> Iterator[Family]:
    """Yield three metrics with a row for each process on each device of the inventory."""
    found = _processes(inventory, usage)
    info = (((*labels, text(one.user, USER_LENGTH), text(one.command, COMMAND_LENGTH)), 1) for labels, one in found)
    yield family(names.PROCESS_INFO, info)
    yield family(names.PROCESS_MEMORY_USED, ((labels, one.used_bytes) for labels, one in found))
    yield family(names.PROCESS_UTILIZATION, ((labels, ratio(one.gpu_percent)) for labels, one in found))


def _processes(inventory: Inventory, usage: Usage) -> list[tuple[tuple[str, ...], ProcessUsage]]:
    present = inventory.by_uuid()
    return [
        ((holder.pod_namespace, holder.pod_name, holder.container_name, claim.uuid, claim.resource, str(one.pid)), one)
        for holder in usage.containers
        for claim in holder.devices
        if claim.uuid in present
        for one in claim.processes
    ]


def text(written: str, length: int) -> str:
    """Return what a tenant wrote, cut, with question marks for what could fool a terminal or is half a character.

    The ends of lines stay: the format escapes them.
    """
    kept = written[:length]
    return kept if kept.isprintable() else "".join(char if char.isprintable() or char == "\n" else "?" for char in kept)
