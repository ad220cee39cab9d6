"""Targets: the GPU driver's texts and figures, and the files that we keep ourselves."""

import os
from contextlib import suppress
from functools import partial
from types import SimpleNamespace

import trio

from mortalgpu.driver import enumeration
from mortalgpu.driver.events import KINDS, events_of
from mortalgpu.driver.nvml import NvmlSettings, nvml_driver
from mortalgpu.errors import DriverError, HostError
from mortalgpu.model.device import Device, Fault, MigPlacement
from mortalgpu.sharing.layout import dump_layout, load_layout
from mortalgpu.statefile import read_state
from tests.fuzz.target import Target, no_fault_logged, only, scratch
from tests.standin.nvml import build
from tests.standin.nvml.state import STATE_VARIABLE

MOST_SHARES = 10**6
"""Of one device: above any list that fits a message to kubelet."""


def check_layout(data: bytes) -> None:
    """A remembered layout that was damaged is read as far as it makes sense, and what was read is written the same."""
    path = scratch() / "layout.json"
    path.write_bytes(data)
    with only(HostError):
        loaded = load_layout(read_state(path) or "")
        assert loaded.problem.isprintable()
        assert len(loaded.problem) <= 1000
        for entry in loaded.entries.values():
            assert type(entry.shares) is type(entry.reserved) is int
            assert 0 <= entry.reserved <= entry.shares <= MOST_SHARES
            assert entry.shares > 0
        again = load_layout(dump_layout(loaded.entries))
        assert (again.entries, again.problem) == (loaded.entries, "")


MOST_UUIDS = 900
"""In one process: the stand-in has handles for a thousand devices, and crashes after them."""
_UUIDS = {b"1"}

_FIELDS = ("driver", "uuid", "name", "bus", "mig")


async def _ask_driver(library: str) -> None:
    async with nvml_driver(NvmlSettings(library=library, sysfs=scratch(), event_wait_seconds=0.01))() as driver:
        info = await driver.info()
        assert isinstance(info.driver_version, str)
        devices = await driver.devices()
        for device in devices:
            for text in (device.uuid, device.model, device.pci_bus_id, device.mig.profile if device.mig else ""):
                assert text.encode().decode() == text
        uuids = [device.uuid for device in devices]
        assert all(isinstance(found, Fault) or found.total_bytes >= 0 for found in (await driver.memory(uuids)).values())
        assert set(await driver.probe(uuids)) == set(uuids)


def check_driver(data: bytes) -> None:
    """Texts of the driver in any encoding: devices, fewer devices, or a DriverError."""
    parts = [part.translate(None, b"\t\n\0") for part in data.split(b"\xfd")]
    texts = dict(zip(_FIELDS, parts + [b""] * len(_FIELDS), strict=False))
    if len(_UUIDS) < MOST_UUIDS:
        _UUIDS.add(texts["uuid"])
    elif texts["uuid"] not in _UUIDS:
        texts["uuid"] = b"1"
    state = scratch() / "nvml.state"
    draft = state.with_suffix(".new")
    draft.write_bytes(
        b"driver\tversion=%(driver)s\tnvml=12.%(driver)s\tcuda=12080\n" % {b"driver": texts["driver"]}
        + b"gpu\tuuid=GPU-%(uuid)s\tname=%(name)s\tbus=%(bus)s\ttotal=100\tmig=1\n"
        % {name.encode(): text for name, text in texts.items()}
        + b"mig\tgpu=GPU-%(uuid)s\tuuid=MIG-1\tname=%(mig)s\tgi=1\ttotal=10\n"
        % {name.encode(): text for name, text in texts.items()}
    )
    os.replace(draft, state)
    os.environ[STATE_VARIABLE] = str(state)
    with no_fault_logged(), only(DriverError):
        trio.run(partial(_ask_driver, str(build())))


def check_event(data: bytes) -> None:
    """An event's raw figures are about devices that exist, or of no interest; a name's parts are parts of the name."""
    padded = data[:24].ljust(24, b"\xff")
    kinds = (*KINDS, 0, 2**40)
    gi_id, ci_id = int.from_bytes(padded[1:5]), int.from_bytes(padded[5:9])
    event = SimpleNamespace(
        eventType=kinds[padded[0] % len(kinds)],
        eventData=int.from_bytes(padded[9:17]),
        gpuInstanceId=gi_id,
        computeInstanceId=ci_id,
    )
    devices = [Device("GPU-0", 0, "m", 1), Device("MIG-1", 0, "m", 1, mig=MigPlacement("GPU-0", 1, 0))]
    for gpu in ("GPU-0", None):
        for found in events_of(event, gpu, devices):
            assert found.uuid in ("GPU-0", "MIG-1", None)
            assert found.uuid != "MIG-1" or gi_id == 1
    text = data.decode("utf-8", "replace")
    assert enumeration.profile_in(text) in text
    with suppress(ValueError):
        assert isinstance(enumeration.sysfs_name(text), str)


_LAYOUT = b'{"version": 1, "devices": {"GPU-0": {"resource": "a/b", "shares": 320, "reserved": 2}, "GPU-1": 5}}'

TARGETS = (
    Target(
        "layout-file",
        check_layout,
        (_LAYOUT, b"{}", b"", _LAYOUT[:40]),
        (
            b"\x7f",
            b"true",
            b"false",
            b"null",
            b"1e3",
            b"-1",
            b"NaN",
            b"9" * 200,
            b'"\\ud800"',
            b'"\\n"',
            b"[" * 2000,
            b'"shares":',
            b"\xff",
        ),
        inputs=2000,
    ),
    Target(
        "driver-texts",
        check_driver,
        (
            b"570.86.15\xfd1\xfdTesla V100\xfd00000000:3B:00.0\xfdA100 MIG 3g.40gb",
            b"\xfd2\xfd\xfdx:y:z\xfd MIG ",
        ),
        (b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"x" * 200, b" MIG ", b"\xfd", b"\x1b[2J", b"..", b"/"),
        inputs=120,
    ),
    Target("driver-events", check_event, (bytes(24), b"\x00\x00\x00\x00\x01" + bytes(8)), (b":", b" MIG 1g"), inputs=2000),
)
