"""The device API on real sockets, for clients of every kind."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
import trio

from mortalgpu.deviceapi.server import ADMIN_SOCKET_NAME, SOCKET_NAME, DeviceApi, DeviceApiFacts, DeviceApiSettings
from mortalgpu.host.base import ProcessTable
from mortalgpu.model.pod import ContainerRef
from tests.unit.deviceapi.rig import NOW, Rig

T = TypeVar("T")


class Served(Rig):
    """A device API that serves on loopback and on two Unix sockets."""

    network = ""
    container_socket = ""
    admin_socket = ""

    def call_from(self, ref: ContainerRef | None) -> None:
        """Let the kernel say that this test's process runs in a container."""
        if self.host.running(os.getpid()):
            self.host.move(os.getpid(), ref)
        else:
            self.host.start(ref, pid=os.getpid())


@asynccontextmanager
async def served(directory: Path, *, processes: ProcessTable | None = None, **options: Any) -> AsyncIterator[Served]:
    """Serve until the block ends. Options are those of DeviceApiSettings, and `container_token`."""
    made = Served(directory, container_token=options.pop("container_token", ""))
    facts = DeviceApiFacts(made.inventory, made.usage, made.enforcement, processes or made.host, made._driver_info)
    sockets = {"container_socket": directory / "sockets" / SOCKET_NAME, "admin_socket": directory / ADMIN_SOCKET_NAME}
    settings = DeviceApiSettings("node-1", **{"host": "127.0.0.1", "port": 0, **sockets, **options})
    made.api = DeviceApi(settings, facts, made.keys, made.succession, now=lambda: NOW)
    async with trio.open_nursery() as nursery:
        await nursery.start(made.api.serve)
        made.network, made.container_socket, made.admin_socket = made.api.addresses
        yield made
        nursery.cancel_scope.cancel()


async def in_thread(address: str, client: Callable[[grpc.Channel], T], credentials: Any = None) -> T:
    """Run a blocking grpcio client."""

    def run() -> T:
        target = address.replace("unix://", "unix:")
        channel = grpc.secure_channel(target, credentials) if credentials else grpc.insecure_channel(target)
        with channel:
            return client(channel)

    with trio.fail_after(20):
        return await trio.to_thread.run_sync(run, abandon_on_cancel=True)
