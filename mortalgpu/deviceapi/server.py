"""The device API as a service: its doors, and what listens at each.

Three doors, each with a server of its own, so that a crowd at one leaves the others free: the network; the socket that
containers get; the socket for root of this node, which lies in the state directory and is mounted nowhere.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio

from mortalgpu.deviceapi.board import Board
from mortalgpu.deviceapi.identity import Door, Identity
from mortalgpu.deviceapi.keys import Keys
from mortalgpu.deviceapi.refusals import Refusals
from mortalgpu.deviceapi.servicer import NAME, Backing, Servicer, Streams
from mortalgpu.deviceapi.succession import Succession
from mortalgpu.deviceapi.tls import Certificate
from mortalgpu.errors import HostError
from mortalgpu.host.base import ProcessTable
from mortalgpu.latest import Latest
from mortalgpu.model.device import DriverInfo
from mortalgpu.model.kill import Enforcement
from mortalgpu.model.share import Inventory
from mortalgpu.model.usage import Usage
from mortalgpu.rpc.health import Health
from mortalgpu.rpc.limits import Observer
from mortalgpu.rpc.listener import UnixListener, address_of, listen_tcp
from mortalgpu.rpc.reflection import reflection_services
from mortalgpu.rpc.server import Limits, Server

log = logging.getLogger(__name__)

SOCKET_NAME = "device.sock"
ADMIN_SOCKET_NAME = "admin.sock"
CONTAINER_SOCKET_MODE = 0o666
"""Any user in a container may connect: what it sees is decided by who it is."""
ADMIN_SOCKET_MODE = 0o600

IN_PLACE_SECONDS = 1.0
"""How often it is checked that the sockets' files are still there."""


@dataclass(frozen=True, slots=True)
class DeviceApiSettings:
    """Where the API listens, and how. Empty paths and an empty host close the door."""

    node: str
    host: str = ""
    port: int = 50052
    container_socket: Path | None = None
    admin_socket: Path | None = None
    cert_file: str = ""
    key_file: str = ""
    kill_grace_seconds: float = 0.0
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class DeviceApiFacts:
    """The cells it reads and the ports it uses."""

    inventory: Latest[Inventory]
    usage: Latest[Usage]
    enforcement: Latest[Enforcement]
    processes: ProcessTable
    driver_info: Callable[[], Awaitable[DriverInfo]]


class DeviceApi:
    """One device API. `addresses` tells where it is reached once it has started, in the form clients take.

    `board` is what it tells; `serve` keeps it awake.
    """

    def __init__(
        self,
        settings: DeviceApiSettings,
        facts: DeviceApiFacts,
        keys: Keys,
        succession: Succession,
        *,
        observer: Observer | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._facts = facts
        self._keys = keys
        self._succession = succession
        self._observer = observer
        self._now = now
        self.board = Board(settings.node, facts.inventory, facts.usage, facts.enforcement)
        self._health = Health()
        self._health.set(NAME, serving=True)
        self._backing = Backing(
            settings.node,
            self.board,
            facts.processes,
            facts.driver_info,
            Refusals(),
            Streams(),
            settings.kill_grace_seconds,
        )
        self.addresses: list[str] = []

    def server(self, door: Door) -> Server:
        """Return a server for the callers of one door, listening nowhere yet."""
        identity = Identity(
            door,
            secrets=lambda: self._keys.secrets,
            succession=self._succession,
            processes=self._facts.processes,
            now=self._now,
        )
        services = [Servicer(identity, self._backing).service(), self._health.service(), *reflection_services([NAME])]
        recognise = identity.recognise if door is Door.CONTAINER_SOCKET else None
        return Server(services, self._settings.limits, self._observer, recognise)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled. Started means that clients can connect at every door.

        Raises HostError when a door cannot be opened or a socket's file is taken away, ConfigError for unusable TLS files.
        """
        self.addresses = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.board.watch)
            nursery.start_soon(self._note_running)
            await self._open_network(nursery)
            await self._open_socket(nursery, self._settings.container_socket, Door.CONTAINER_SOCKET, CONTAINER_SOCKET_MODE)
            await self._open_socket(nursery, self._settings.admin_socket, Door.ADMIN_SOCKET, ADMIN_SOCKET_MODE)
            log.info("device API serves", extra={"address": self.addresses})
            task_status.started()

    async def _note_running(self) -> None:
        """Let the succession know which containers run, for ever."""
        async for usage in self._facts.usage.changes():
            self._succession.running(usage.containers)

    async def _open_network(self, nursery: trio.Nursery) -> None:
        settings = self._settings
        if not settings.host:
            return
        certificate = Certificate(settings.cert_file, settings.key_file) if settings.cert_file else None
        listeners = await listen_tcp(settings.host, settings.port)
        self.addresses += [address_of(listener) for listener in listeners]
        if certificate is None:
            await nursery.start(self.server(Door.NETWORK).serve, listeners)
            return
        nursery.start_soon(certificate.follow)
        guarded = [trio.SSLListener(listener, certificate.context) for listener in listeners]
        await nursery.start(self.server(Door.NETWORK).serve, guarded)

    async def _open_socket(self, nursery: trio.Nursery, path: Path | None, door: Door, mode: int) -> None:
        if path is None:
            return
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            raise HostError(f"{path.parent}: cannot be made: {error.strerror or error}") from error
        listener = await UnixListener.bind(path, mode=mode)
        self.addresses.append(f"unix://{path}")
        await nursery.start(self.server(door).serve, [listener])
        nursery.start_soon(_watch_file, listener)


async def _watch_file(listener: UnixListener) -> None:
    """Raise HostError when the socket's file is gone: nobody can connect any more until it is made again."""
    while True:
        await trio.sleep(IN_PLACE_SECONDS)
        if not listener.is_in_place():
            raise HostError(f"{listener.path}: the socket's file was taken away")
