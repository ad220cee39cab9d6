"""A plugin stays registered, whatever kubelet does, and never twice at a time. Real sockets, real time."""

import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from mortalgpu.deviceplugin.server import Plugin, Rhythm, fresh_socket_name, remove_dead_sockets
from mortalgpu.errors import HostError
from mortalgpu.simulation.kubelet import running
from tests.folders import short_folder
from tests.unit.deviceplugin.rig import FIRST, QUICK, DeafKubelet, Node, R, shared
from tests.waiting import until

DEFAULT = Rhythm()


@pytest.fixture
def node() -> Iterator[Node]:
    with short_folder() as folder:
        yield Node(folder)


async def test_a_started_plugin_is_registered_and_its_list_arrives(node: Node) -> None:
    async with running(node.kubelet), trio.open_nursery() as nursery:
        await nursery.start(node.plugin().serve)
        assert [resource for resource, _ in node.kubelet.registrations] == [R]
        assert node.counts[R].registered
        await until(lambda: node.kubelet.capacity(R) == (8, 8), 1)
        nursery.cancel_scope.cancel()


async def test_a_restarted_kubelet_is_registered_with_within_a_second_on_a_fresh_socket(node: Node) -> None:
    async with running(node.kubelet), trio.open_nursery() as nursery:
        await nursery.start(node.plugin(rhythm=DEFAULT).serve)
        for turn in range(3):
            await node.kubelet.restart()
            assert await until(lambda: node.kubelet.capacity(R) == (8, 8)) < 1, turn
        endpoints = [endpoint for _, endpoint in node.kubelet.registrations]
        assert len(set(endpoints)) == len(endpoints) == 4
        assert node.ours() == {endpoints[-1]}
        assert node.kubelet.overlaps == []
        await until(lambda: node.counts[R].registrations == 4, 1)
        nursery.cancel_scope.cancel()


async def test_a_removed_socket_is_replaced_within_a_second(node: Node) -> None:
    async with running(node.kubelet), trio.open_nursery() as nursery:
        await nursery.start(node.plugin(rhythm=DEFAULT).serve)
        (name,) = node.ours()
        (node.sockets / name).unlink()
        assert await until(lambda: len(node.kubelet.registrations) == 2) < 1
        await until(lambda: node.kubelet.capacity(R) == (8, 8))
        assert node.kubelet.overlaps == []
        nursery.cancel_scope.cancel()


async def test_a_wiped_directory_is_waited_out_and_registered_in_again_within_a_second(node: Node) -> None:
    async with running(node.kubelet), trio.open_nursery() as nursery:
        await nursery.start(node.plugin(rhythm=DEFAULT).serve)
        for path in node.sockets.iterdir():
            path.unlink()
        await trio.sleep(0.3)
        assert len(node.kubelet.registrations) == 1
        assert node.kubelet.capacity(R) == (8, 8)
        await node.kubelet.restart()
        assert await until(lambda: node.kubelet.capacity(R) == (8, 8)) < 1
        assert node.kubelet.overlaps == []
        nursery.cancel_scope.cancel()


async def test_a_dropped_list_alone_brings_a_new_registration_within_a_second(node: Node) -> None:
    async with running(node.kubelet), trio.open_nursery() as nursery:
        await nursery.start(node.plugin(rhythm=DEFAULT).serve)
        await until(lambda: node.kubelet.capacity(R) == (8, 8))
        node.kubelet.drop(R)
        await until(lambda: node.kubelet.capacity(R) == (8, 0))
        assert await until(lambda: node.kubelet.capacity(R) == (8, 8)) < 1
        assert node.kubelet.overlaps == []
        nursery.cancel_scope.cancel()


async def test_a_kubelet_that_drops_every_list_at_once_is_not_bothered_without_end(node: Node) -> None:
    async with running(node.kubelet), trio.open_nursery() as nursery:
        nursery.start_soon(node.plugin().serve)
        with trio.move_on_after(2):
            while True:
                if node.kubelet.capacity(R)[1]:
                    node.kubelet.drop(R)
                await trio.sleep(0.002)
        assert 3 <= len(node.kubelet.registrations) <= 10
        assert node.kubelet.overlaps == []
        nursery.cancel_scope.cancel()


async def test_a_refused_registration_is_tried_again_ever_more_slowly_until_it_is_accepted(node: Node) -> None:
    node.kubelet.refusal = "not today"
    async with running(node.kubelet), trio.open_nursery() as nursery:
        nursery.start_soon(node.plugin().serve)
        await trio.sleep(1.5)
        assert 3 <= node.counts[R].failed_registrations <= 7
        assert node.counts[R].registrations == 0
        assert len(node.ours()) <= 1
        node.kubelet.refusal = ""
        await until(lambda: node.kubelet.capacity(R) == (8, 8), 1)
        nursery.cancel_scope.cancel()


async def test_a_registered_plugin_outlives_a_directory_that_takes_no_sockets_for_a_while(node: Node) -> None:
    way_in = node.folder / "way-in"
    way_in.symlink_to(node.sockets)
    async with running(node.kubelet), trio.open_nursery() as nursery:
        await nursery.start(Plugin(node.offer(), node.registrar, way_in, QUICK).serve)
        way_in.unlink()
        node.kubelet.drop(R)
        await until(lambda: node.kubelet.capacity(R) == (8, 0))
        await trio.sleep(0.2)
        assert len(node.kubelet.registrations) == 1
        way_in.symlink_to(node.sockets)
        await until(lambda: node.kubelet.capacity(R) == (8, 8))
        nursery.cancel_scope.cancel()


async def test_a_new_kubelet_ends_the_pause_after_a_refusal(node: Node) -> None:
    slow = Rhythm(settle_seconds=30, longest_pause_seconds=30)
    node.kubelet.refusal = "not today"
    async with running(node.kubelet), trio.open_nursery() as nursery:
        nursery.start_soon(node.plugin(rhythm=slow).serve)
        await until(lambda: node.counts[R].failed_registrations == 1)
        node.kubelet.refusal = ""
        await node.kubelet.restart()
        assert await until(lambda: node.kubelet.capacity(R) == (8, 8)) < 1
        nursery.cancel_scope.cancel()


async def test_an_absent_kubelet_is_waited_for_without_any_socket_of_ours(node: Node) -> None:
    node.sockets.mkdir(parents=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.plugin().serve)
        await trio.sleep(0.3)
        assert node.ours() == set()
        await nursery.start(node.kubelet.serve)
        assert await until(lambda: node.kubelet.capacity(R) == (8, 8)) < 1
        nursery.cancel_scope.cancel()


async def test_a_dead_kubelet_socket_is_not_a_kubelet(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    node.sockets.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(node.sockets / "kubelet.sock"))
        dead.listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.plugin().serve)
        await trio.sleep(0.4)
        assert node.counts[R].failed_registrations == 0
        assert [record.message for record in caplog.records].count("waiting for kubelet") == 1
        await nursery.start(node.kubelet.serve)
        await until(lambda: node.kubelet.capacity(R) == (8, 8), 1)
        nursery.cancel_scope.cancel()


async def test_a_kubelet_that_never_asks_for_the_list_is_registered_with_again(node: Node) -> None:
    deaf = DeafKubelet()
    node.registrar = deaf
    node.sockets.mkdir(parents=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.plugin(rhythm=Rhythm(0.02, 0.1, 0.1, 0.05, 0.1)).serve)
        await until(lambda: len(deaf.endpoints) == 4)
        assert node.counts[R].registrations == 0
        assert node.counts[R].failed_registrations == 1
        nursery.cancel_scope.cancel()


async def test_a_stopped_plugin_leaves_no_socket_and_kubelet_knows(node: Node) -> None:
    async with running(node.kubelet):
        async with trio.open_nursery() as nursery:
            await nursery.start(node.plugin().serve)
            await until(lambda: node.kubelet.capacity(R) == (8, 8))
            nursery.cancel_scope.cancel()
        assert node.ours() == set()
        assert not node.counts[R].registered
        assert await until(lambda: node.kubelet.capacity(R) == (8, 0)) < 1


async def test_every_change_is_pushed(node: Node) -> None:
    async with node.registered():
        node.sicken(FIRST)
        assert await until(lambda: node.kubelet.capacity(R) == (8, 4)) < 0.5
        node.share(shared(0, shares=4))
        assert await until(lambda: node.kubelet.capacity(R) == (4, 0)) < 0.5
        node.sicken()
        node.share(shared(0), shared(1), shared(2))
        assert await until(lambda: node.kubelet.capacity(R) == (12, 12)) < 0.5
        assert len(node.kubelet.registrations) == 1


async def test_changes_while_kubelet_was_away_are_in_the_first_list(node: Node) -> None:
    async with running(node.kubelet), trio.open_nursery() as nursery:
        await nursery.start(node.plugin().serve)
        node.kubelet.drop(R)
        node.share(shared(5, shares=3))
        await until(lambda: node.kubelet.capacity(R) == (3, 3))
        nursery.cancel_scope.cancel()


async def test_sixty_thousand_shares_reach_kubelet_in_one_list(node: Node) -> None:
    node.share(*(shared(number, shares=7500) for number in range(8)))
    async with node.registered():
        await until(lambda: node.kubelet.capacity(R) == (60000, 60000))
        node.sicken(*(device.uuid for device in node.inventory.value.devices))
        await until(lambda: node.kubelet.capacity(R) == (60000, 0))


async def test_a_path_too_long_for_a_socket_is_refused_in_plain_words(node: Node) -> None:
    node.folder = node.folder / ("x" * 60)
    deep = Node(node.folder)
    deep.registrar = DeafKubelet()
    deep.sockets.mkdir(parents=True)
    with pytest.raises(HostError, match="107 bytes"):
        await deep.plugin().serve()


def dead_socket(path: Path) -> Path:
    """Leave a socket behind as a killed daemon does."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    return path


def test_dead_sockets_of_the_resource_are_removed_and_nothing_else(node: Node) -> None:
    folder = node.folder
    ours, other = dead_socket(folder / fresh_socket_name(R)), dead_socket(folder / fresh_socket_name("mortalgpu/other"))
    foreign = dead_socket(folder / "nvidia.sock")
    plain = folder / fresh_socket_name(R)
    plain.write_text("no socket")
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(folder / "living.sock"))
        living.listen()
        alive = folder / fresh_socket_name(R)
        os.link(folder / "living.sock", alive)
        remove_dead_sockets(folder, R)
        assert alive.exists()
    assert not ours.exists()
    assert other.exists()
    assert foreign.exists()


def test_dead_sockets_that_cannot_be_looked_at_or_removed_are_left(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    left = dead_socket(node.folder / fresh_socket_name(R))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        remove_dead_sockets(node.folder, R)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert left.exists()
    assert "sockets of a dead daemon may be left" in caplog.text


def test_socket_names_are_short_and_never_the_same() -> None:
    names = {fresh_socket_name("a" * 200 + "/b") for _ in range(100)}
    assert len(names) == 100
    assert max(map(len, names)) <= 45


@pytest.mark.parametrize("after_seconds", [0, 0.01, 0.03, 0.1])
async def test_a_plugin_can_be_cancelled_wherever_it_is(node: Node, after_seconds: float) -> None:
    async with running(node.kubelet):
        with trio.move_on_after(after_seconds) as scope:
            await node.plugin(rhythm=QUICK).serve()
        assert scope.cancelled_caught
        assert node.ours() == set()
