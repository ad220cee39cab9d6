"""Announcing a plugin to kubelet, and every way in which kubelet is not there. Real sockets."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from mortalgpu.errors import KubeletError
from mortalgpu.kubelet import registration
from mortalgpu.kubelet.registration import KubeletRegistrar
from mortalgpu.rpc.pb.deviceplugin.v1beta1 import deviceplugin_pb2 as pb
from mortalgpu.simulation.kubelet import SimulatedKubelet, running
from tests.folders import short_folder

R = "mortalgpu/a"
OPTIONS = pb.DevicePluginOptions(get_preferred_allocation_available=True)


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as made:
        yield made


def registrar(folder: Path) -> KubeletRegistrar:
    """Return the adapter on kubelet's directory in `folder`."""
    return KubeletRegistrar(folder / "device-plugins", OPTIONS)


async def test_a_refusal_carries_kubelets_own_words(folder: Path) -> None:
    twin = SimulatedKubelet(folder)
    twin.refusal = "the plugin is too old"
    async with running(twin):
        with pytest.raises(KubeletError, match=r"did not register mortalgpu/a: .*the plugin is too old"):
            await registrar(folder).register(R, "x.sock")


async def test_a_socket_that_kubelet_cannot_dial_is_a_refusal(folder: Path) -> None:
    async with running(SimulatedKubelet(folder)):
        with pytest.raises(KubeletError, match="failed to dial device plugin"):
            await registrar(folder).register(R, "nobody.sock")


async def test_an_absent_kubelet_is_an_error_that_passes(folder: Path) -> None:
    with pytest.raises(KubeletError, match=r"kubelet\.sock"):
        await registrar(folder).register(R, "x.sock")


def silent_socket(path: Path) -> socket.socket:
    """Listen without ever answering."""
    path.parent.mkdir(exist_ok=True)
    silent = socket.socket(socket.AF_UNIX)
    silent.bind(str(path))
    silent.listen()
    return silent


async def test_a_kubelet_that_never_answers_is_given_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "REGISTER_SECONDS", 0.2)
    with silent_socket(folder / "device-plugins/kubelet.sock"), trio.fail_after(5), pytest.raises(KubeletError):
        await registrar(folder).register(R, "x.sock")


async def test_waiting_ends_when_kubelet_listens_and_gives_its_identity(folder: Path) -> None:
    ours = registrar(folder)
    assert ours.socket_identity() is None
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0.2) as scope:
            await ours.wait_for_kubelet()
        assert scope.cancelled_caught
        await nursery.start(SimulatedKubelet(folder).serve)
        with trio.fail_after(1):
            assert await ours.wait_for_kubelet() == ours.socket_identity()
        nursery.cancel_scope.cancel()


async def test_a_dead_socket_is_waited_on_until_it_is_replaced(folder: Path) -> None:
    silent_socket(folder / "device-plugins/kubelet.sock").close()
    ours = registrar(folder)
    dead = ours.socket_identity()
    assert dead is not None
    with trio.move_on_after(0.3) as scope:
        await ours.wait_for_kubelet()
    assert scope.cancelled_caught
    async with running(SimulatedKubelet(folder)):
        with trio.fail_after(1):
            assert await ours.wait_for_kubelet() != dead


async def test_each_creation_of_the_socket_has_an_identity_of_its_own(folder: Path) -> None:
    ours, seen = registrar(folder), set[tuple[int, ...] | None]()
    for _ in range(20):
        silent_socket(folder / "device-plugins/kubelet.sock").close()
        seen.add(ours.socket_identity())
        os.unlink(folder / "device-plugins/kubelet.sock")
        await trio.sleep(0.005)
    assert len(seen) == 20
    assert None not in seen
