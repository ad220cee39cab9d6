"""Golden pages of mgctl, and the answers that they show."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from mortalgpu.deviceapi.views import Caller, sight
from mortalgpu.deviceapi.wire import WireFacts
from mortalgpu.mgctl.text import Paint
from mortalgpu.model.kill import NO_ENFORCEMENT, Enforcement
from mortalgpu.model.usage import Usage
from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb
from tests.unit.deviceapi import node

DIRECTORY = Path(__file__).parents[2] / "golden" / "mgctl"

PLAIN, COLOURED = Paint(False), Paint(True)
OPERATOR, TRAIN = Caller("l0"), Caller("l1", container=node.TRAIN_MAIN)


def check(name: str, lines: Sequence[str]) -> None:
    """Compare lines with a golden page; MORTALGPU_REWRITE_GOLDEN=1 writes the page instead."""
    path, text = DIRECTORY / name, "".join(f"{line}\n" for line in lines)
    if os.environ.get("MORTALGPU_REWRITE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), f"{name} has changed; read it, then `just golden`"


def facts(usage: Usage | None = None, enforcement: Enforcement = NO_ENFORCEMENT) -> WireFacts:
    """What the daemon tells of the example node."""
    return WireFacts("node-1", node.INVENTORY, usage or node.usage(), enforcement)


def containers(caller: Caller = OPERATOR, found: WireFacts | None = None) -> pb.GetGpuContainersResponse:
    """The answer to GetGpuContainers."""
    told = found or facts()
    return told.response(sight(caller, told.usage))


def devices(caller: Caller = OPERATOR) -> pb.GetDevicesResponse:
    """The answer to GetDevices."""
    told = facts()
    return pb.GetDevicesResponse(device=told.devices(sight(caller, told.usage)))


def long_ago(year: int = 2024) -> float:
    """A moment in local time, so that its clock reads the same everywhere."""
    return time.mktime((year, 2, 3, 4, 5, 6, 0, 0, -1))


def kills() -> Enforcement:
    """Three kills: in a living container, one that does not end, and one in a pod that is gone."""
    from dataclasses import replace

    reason = (
        "The container used 510 MiB of GPU memory on device 0 and its limit is 500 MiB. The process with the most memory there "
        "was killed. Ask for more shares, or use less memory."
    )
    first = replace(node.kill(node.TRAIN_MAIN, at=long_ago()), message=reason)
    stuck = replace(node.kill(node.TRAIN_MAIN, outcome="still_there", at=long_ago() + 60), message=reason, pid_inside=None)
    gone = replace(node.kill(node.TRAIN_MAIN, name="gone", at=long_ago() + 120, outcome="dry_run"), pod_uid=node.uid(77))
    return node.enforcement(first, stuck, gone)
