"""Who calls: from a token, or from what the kernel tells of a process on a Unix socket.

Rules:
1. On the network only a token counts.
2. On a Unix socket the kernel names the process; its cgroup names the container; no token is needed, and another
   container's token changes nothing. A token of the node's level raises a caller to it.
3. The socket in the state directory, which no container gets and only root can reach, makes a root process of the host the
   node's operator. On the socket that containers get, a process outside of containers needs a token: whether a process is
   outside of all containers can be unclear, and what is unclear must not open the node.
4. The process must be alive under the same number after its container was read: a reused pid is never believed.
5. Every refusal is the same to the caller; the reason goes to the log.
"""

import select
from collections.abc import Callable
from dataclasses import replace
from enum import Enum

import trio

from mortalgpu.deviceapi import tokens
from mortalgpu.deviceapi.keys import Secrets
from mortalgpu.deviceapi.succession import Succession
from mortalgpu.deviceapi.views import Caller
from mortalgpu.errors import HostError, Unauthenticated
from mortalgpu.host.base import ProcessTable
from mortalgpu.model.pod import ContainerRef
from mortalgpu.rpc.peer import Peer

ROOT = 0
ASKING_AT_ONCE = 2


class Door(Enum):
    """Where a caller came in."""

    NETWORK = "network"
    CONTAINER_SOCKET = "container socket"
    ADMIN_SOCKET = "admin socket"


class Identity:
    """Finds out who calls through one door."""

    def __init__(
        self,
        door: Door,
        *,
        secrets: Callable[[], Secrets],
        succession: Succession,
        processes: ProcessTable,
        now: Callable[[], float],
    ) -> None:
        self._door = door
        self._secrets = secrets
        self._succession = succession
        self._processes = processes
        self._now = now
        # The process table has a bounded number of hands, and the enforcer needs them: callers may not keep them all.
        self._asking = trio.CapacityLimiter(ASKING_AT_ONCE)

    async def identify(self, peer: Peer, authorization: str | bytes | None) -> Caller:
        """Return who calls, from the peer and the call's `authorization` metadata.

        Raises Unauthenticated with the reason for the log. Waits only for the process table.
        """
        if self._door is Door.NETWORK or peer.pid is None or peer.pidfd is None:
            return self.by_token(authorization)
        container = await self._container_of(peer.pid, peer.pidfd)
        if container is not None:
            return self._raised(authorization) or Caller(tokens.CONTAINER_LEVEL, container=container)
        if self._door is Door.ADMIN_SOCKET and peer.uid == ROOT:
            return Caller(tokens.NODE_LEVEL, email="root")
        return self.by_token(authorization)

    async def recognise(self, peer: Peer) -> Peer:
        """Return a socket's peer with its container as its address, so that containers are counted and not users.

        All containers may run as the same user: one of them shall not use up the connections of the others. Raises nothing.
        """
        if peer.pid is None or peer.pidfd is None:
            return peer
        try:
            container = await self._container_of(peer.pid, peer.pidfd)
        except (Unauthenticated, HostError):
            return peer
        return peer if container is None else replace(peer, address=f"container {container.container_id}")

    def by_token(self, authorization: str | bytes | None) -> Caller:
        """Return who the token stands for. Raises Unauthenticated."""
        token = _bearer(authorization)
        secrets, now = self._secrets(), self._now()
        is_device_token = tokens.same_secret(token, secrets.device_token)
        is_container_token = tokens.same_secret(token, secrets.container_token)
        if (is_device_token or is_container_token) and not tokens.is_ours(token, secrets.keyring):
            return _static_caller(tokens.NODE_LEVEL if is_device_token else tokens.CONTAINER_LEVEL)
        claims = tokens.judge(token, secrets.keyring, now=now)
        if claims.level == tokens.NODE_LEVEL:
            return Caller(tokens.NODE_LEVEL, email=claims.email)
        if is_container_token:
            return _static_caller(tokens.CONTAINER_LEVEL)
        if not claims.meta_devices:
            raise Unauthenticated("token names no meta-devices, and is not the configured container token")
        self._succession.check(claims.meta_devices, claims.issued_at)
        if claims.email == tokens.CONTAINER_EMAIL:
            self._succession.met(claims.meta_devices, claims.issued_at or 0.0)
        ids = frozenset(claims.meta_devices)
        return Caller(tokens.CONTAINER_LEVEL, None, ids, self._succession.granted_at(ids), email=claims.email)

    def _raised(self, authorization: str | bytes | None) -> Caller | None:
        try:
            caller = self.by_token(authorization)
        except Unauthenticated:
            return None
        return caller if caller.level == tokens.NODE_LEVEL else None

    async def _container_of(self, pid: int, pidfd: int) -> ContainerRef | None:
        """Return the container of the process that connected; None when it runs in none that can be told for certain."""
        async with self._asking:
            handle = await self._processes.open(pid)
        if handle is None:
            raise Unauthenticated("the process that connected has ended")
        with handle:
            container = handle.process.container
        if not _is_alive(pidfd):
            raise Unauthenticated("the process that connected has ended")
        return container


def _static_caller(level: str) -> Caller:
    return Caller(level, names_itself=level == tokens.CONTAINER_LEVEL, email=f"static {level} token")


def _bearer(authorization: str | bytes | None) -> str:
    """Return the token in the metadata, with or without the word Bearer. Raises Unauthenticated."""
    value = authorization or ""
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    scheme, _, rest = text.strip().partition(" ")
    token = rest.strip() if scheme.lower() == "bearer" else text.strip()
    if not token:
        raise Unauthenticated("no token")
    return token


def _is_alive(pidfd: int) -> bool:
    """Whether the process has not ended: its descriptor becomes readable when it does (pidfd_open(2))."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return not poll.poll(0)
