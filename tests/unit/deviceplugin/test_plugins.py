"""One plugin per resource, for as long as the resource has devices."""

from collections.abc import Iterator

import pytest
import trio

from mortalgpu.deviceplugin import plugins
from mortalgpu.deviceplugin.plugins import Plugins
from mortalgpu.errors import HostError
from mortalgpu.model.share import SharedDevice
from mortalgpu.simulation.kubelet import SimulatedKubelet, running
from tests.folders import short_folder
from tests.unit.deviceplugin.rig import DeafKubelet, Node, R, S, shared
from tests.waiting import until

BOTH: tuple[SharedDevice, ...] = (shared(0, R), shared(1, S, shares=3))


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.setattr(plugins, "FAREWELL_SECONDS", 0.1)
    with short_folder() as folder:
        yield Node(folder, *BOTH)


async def test_it_is_started_when_every_resource_is_registered(node: Node) -> None:
    async with running(node.kubelet), trio.open_nursery() as nursery:
        await nursery.start(Plugins(node.inventory, node.plugin).serve)
        assert sorted(resource for resource, _ in node.kubelet.registrations) == [R, S]
        await until(lambda: (node.kubelet.capacity(R), node.kubelet.capacity(S)) == ((4, 4), (3, 3)))
        assert len(node.ours()) == 2
        nursery.cancel_scope.cancel()
    assert node.ours() == set()


async def test_a_resource_that_appears_is_registered(node: Node) -> None:
    node.share(BOTH[0])
    async with running(node.kubelet), trio.open_nursery() as nursery:
        await nursery.start(Plugins(node.inventory, node.plugin).serve)
        node.share(*BOTH)
        await until(lambda: node.kubelet.capacity(S) == (3, 3))
        nursery.cancel_scope.cancel()


async def test_a_resource_without_devices_says_so_and_leaves_and_comes_back(node: Node) -> None:
    async with running(node.kubelet), trio.open_nursery() as nursery:
        await nursery.start(Plugins(node.inventory, node.plugin).serve)
        for _ in range(3):
            node.share(BOTH[0])
            await until(lambda: node.kubelet.capacity(S) == (0, 0))
            await until(lambda: len(node.ours()) == 1)
            node.share(*BOTH)
            await until(lambda: node.kubelet.capacity(S) == (3, 3))
        assert node.kubelet.capacity(R) == (4, 4)
        assert [resource for resource, _ in node.kubelet.registrations].count(R) == 1
        assert node.kubelet.overlaps == []
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("pause", [0, 0.05, 0.09, 0.1, 0.11, 0.12, 0.15])
async def test_a_resource_that_comes_back_while_it_leaves_is_served(node: Node, pause: float) -> None:
    async with running(node.kubelet), trio.open_nursery() as nursery:
        await nursery.start(Plugins(node.inventory, node.plugin).serve)
        node.share(BOTH[0])
        await trio.sleep(pause)
        node.share(*BOTH)
        await trio.sleep(0.15)
        await until(lambda: node.kubelet.capacity(S) == (3, 3), 2)
        nursery.cancel_scope.cancel()


async def test_kubelet_has_time_to_forget_a_plugin_that_left(node: Node) -> None:
    async with running(node.kubelet), trio.open_nursery() as nursery:
        await nursery.start(Plugins(node.inventory, node.plugin).serve)
        node.share(BOTH[0])
        await until(lambda: len(node.ours()) == 1)
        node.share(*BOTH)
        left = trio.current_time()
        await until(lambda: node.kubelet.capacity(S) == (3, 3), 5)
        assert trio.current_time() - left > plugins.TIDY_SECONDS / 2
        assert node.kubelet.overlaps == []
        nursery.cancel_scope.cancel()


async def test_no_resource_at_all_is_waited_with(node: Node) -> None:
    node.share()
    async with running(node.kubelet), trio.open_nursery() as nursery:
        await nursery.start(Plugins(node.inventory, node.plugin).serve)
        node.share(*BOTH)
        await until(lambda: node.kubelet.capacity(R) == (4, 4))
        nursery.cancel_scope.cancel()


async def test_what_ends_one_plugin_ends_all(node: Node) -> None:
    node.share(BOTH[0])
    async with running(node.kubelet):
        with pytest.RaisesGroup(HostError, flatten_subgroups=True):
            async with trio.open_nursery() as nursery:
                await nursery.start(Plugins(node.inventory, node.plugin).serve)
                node.registrar = DeafKubelet()
                node.folder, node.kubelet = node.folder / "gone", SimulatedKubelet(node.folder / "gone")
                node.share(*BOTH)
                with trio.fail_after(5):
                    await trio.sleep_forever()
