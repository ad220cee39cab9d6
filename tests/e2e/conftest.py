"""Fixtures that start real partners, and skip with the reason where they cannot."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import build
from tests.e2e.device_manager import DeviceManager


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder with a path short enough for the sockets in it (107 bytes in all)."""
    folder = Path(tempfile.mkdtemp(prefix="mg-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=[build.DEVICE_MANAGER, build.OLD_DEVICE_MANAGER], ids=["current", "1.30"])
def device_manager(request: pytest.FixtureRequest, short_path: Path) -> Iterator[DeviceManager]:
    """A started device manager of the current and of an old kubelet."""
    target: build.Target = request.param
    try:
        build.locate(target)
    except build.Missing as missing:
        pytest.skip(str(missing))
    manager = DeviceManager(target.path, short_path)
    manager.start()
    yield manager
    manager.stop()
