"""Fixtures that start real partners, and skip with the reason where they cannot."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import build
from tests.e2e.daemon import EXAMPLE_COUNTS, Daemon, program
from tests.e2e.device_manager import DeviceManager
from tests.e2e.node import Node
from tests.e2e.waiting import until
from tests.folders import short_folder
from tests.needs import skipped_where_missing


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder with a path short enough for the sockets in it (107 bytes in all)."""
    with short_folder() as folder:
        yield folder


@pytest.fixture(params=[build.DEVICE_MANAGER, build.OLD_DEVICE_MANAGER], ids=["current", "1.30"])
def device_manager(request: pytest.FixtureRequest, short_path: Path) -> Iterator[DeviceManager]:
    """A started device manager of the current and of an old kubelet."""
    target: build.Target = request.param
    with skipped_where_missing():
        build.locate(target)
    manager = DeviceManager(target.path, short_path)
    manager.start()
    yield manager
    manager.stop()


@pytest.fixture
def daemon(device_manager: DeviceManager) -> Iterator[Daemon]:
    """The daemon on the worked example's devices, registered with the device manager."""
    _need_daemon()
    with Daemon(device_manager.directory / "daemon", device_manager.socket_dir) as daemon:
        device_manager.wait_allocatable(EXAMPLE_COUNTS, 10)
        yield daemon


@pytest.fixture
def node() -> Iterator[Node]:
    """A started node: containerd and kubelet, without pods."""
    with skipped_where_missing():
        build.locate_node()
    with Node() as node:
        yield node


@pytest.fixture
def node_daemon(node: Node) -> Iterator[Daemon]:
    """The daemon on the worked example's devices, registered with the node's kubelet."""
    _need_daemon()
    with Daemon(node.folder / "daemon", node.socket_dir) as daemon:
        until("the worked example's counts", node.allocatable, EXAMPLE_COUNTS.__eq__, seconds=10)
        yield daemon


def _need_daemon() -> None:
    with skipped_where_missing():
        program()
