"""The daemon with everything on, beside a device manager: what the campaign disturbs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import build
from tests.e2e.daemon import EXAMPLE_COUNTS, Daemon, example_config, program
from tests.e2e.device_manager import DeviceManager
from tests.e2e.faults.rig import Rig, a_rig
from tests.e2e.waiting import eventually
from tests.needs import skipped_where_missing


def everything_on(manager: DeviceManager, **overrides: Any) -> dict[str, Any]:
    """Return the worked example's configuration with every service on; mgctl is a file of a few bytes."""
    folder = manager.directory / "daemon"
    folder.mkdir(exist_ok=True)
    mgctl = folder / "mgctl.source"
    mgctl.write_bytes(b"#!/bin/true\n")
    mgctl.chmod(0o755)
    services = {
        "mgctl": {"sourcePath": str(mgctl), "hostMount": {"enabled": True, "hostPath": str(folder / "host")}},
        "deviceApi": {"address": "127.0.0.1:0", "socketMount": True},
        "exporter": {"enabled": True, "address": "127.0.0.1:0", "daemonAddress": "127.0.0.1:0"},
    }
    return example_config(folder, **(services | overrides))


@pytest.fixture
def everything(device_manager: DeviceManager) -> Iterator[Daemon]:
    """The daemon with every service on, registered with the device manager."""
    with skipped_where_missing():
        program()
    config = everything_on(device_manager)
    with Daemon(device_manager.directory / "daemon", device_manager.socket_dir, config=config) as daemon:
        device_manager.wait_allocatable(EXAMPLE_COUNTS, 20)
        # The exporters start last.
        eventually("the last service", lambda: daemon.events('"ready"'), seconds=20)
        yield daemon


@pytest.fixture
def kubelet(short_path: Path) -> Iterator[DeviceManager]:
    """A started device manager of the current kubelet."""
    with skipped_where_missing():
        build.locate(build.DEVICE_MANAGER)
    manager = DeviceManager(build.DEVICE_MANAGER.path, short_path)
    manager.start()
    yield manager
    manager.stop()


@pytest.fixture
def idle(kubelet: DeviceManager, long_form: bool) -> Iterator[Rig]:
    """A rig whose daemon is not started yet; killed at the end, if it was."""
    with skipped_where_missing():
        program()
    daemon = Daemon(kubelet.directory / "daemon", kubelet.socket_dir, config=everything_on(kubelet))
    with a_rig(kubelet, daemon, strict=long_form) as rig:
        yield rig
        daemon.kill()


@pytest.fixture
def rig(idle: Rig) -> Rig:
    """A rig whose daemon runs, with its tenants."""
    idle.daemon.start()
    idle.settle()
    return idle
