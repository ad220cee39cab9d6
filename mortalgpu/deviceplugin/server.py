"""The life of one resource's plugin: serve on a fresh socket, register, watch, and begin again when kubelet drops us.

Rules (kubelet's side of them was seen on real kubelets, 1.20 to 1.36):
1. Serve first, then register: kubelet dials our socket inside the Register call.
2. Every registration has a socket name of its own, and the one before has ended on both sides before the next begins:
   kubelet (seen in 1.30 and 1.36) takes the end of an old connection for the end of the new registration.
3. The end of the last ListAndWatch stream is the only sign that kubelet dropped us. A new kubelet.sock, or our own socket's
   disappearance, means that kubelet swept its directory. None of these is an error.
4. Sockets are bound only once kubelet listens, so that its sweep cannot take them.
"""

import errno
import hashlib
import logging
import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

import trio

from mortalgpu.deviceplugin.servicer import Offer, Servicer
from mortalgpu.errors import HostError, KubeletError
from mortalgpu.kubelet.base import Registrar
from mortalgpu.rpc.limits import KUBELET_LIMITS
from mortalgpu.rpc.listener import UnixListener
from mortalgpu.rpc.server import Server

log = logging.getLogger(__name__)

_PREFIX = "mortalgpu"
DRAIN_LOOK_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Times in seconds; tests shorten them."""

    look_seconds: float = 0.3
    """How often kubelet's socket and ours are looked at."""
    register_seconds: float = 30.0
    """How long kubelet may take to accept a registration; the adapter has a deadline of its own, which is shorter."""
    first_list_seconds: float = 15.0
    """How long kubelet may take to ask for the list after it accepted the registration (1.20 dials only then)."""
    drain_seconds: float = 2.0
    """How long kubelet may take to close its end of an ended registration."""
    settle_seconds: float = 0.2
    """Between the end of one registration and the next with the same kubelet: it tidies up after it has closed."""
    longest_pause_seconds: float = 1.0
    """Between registrations that fail or end at once; short enough that the node's count is right again within two seconds."""
    steady_seconds: float = 5.0
    """A registration that lasted this long was a good one: the next pause starts short again."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """How one registration went: why it ended, and whether the same kubelet still has to forget it."""

    reason: str
    same_kubelet: bool
    lasted_seconds: float


class Plugin:
    """Keeps one resource registered with kubelet for as long as `serve` runs."""

    def __init__(self, offer: Offer, registrar: Registrar, directory: Path, rhythm: Rhythm | None = None) -> None:
        self._offer = offer
        self._registrar = registrar
        self._directory = directory
        self._rhythm = rhythm or Rhythm()

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve and stay registered until cancelled. Started once kubelet listens to the list for the first time.

        Waits without end for a kubelet that is absent. Raises HostError when no socket can be made in the directory at the
        start; later that is tried again, for the machine's trouble must not end what else the daemon does.
        """
        remove_dead_sockets(self._directory, self._offer.resource)
        pause = self._rhythm.settle_seconds / 2
        while True:
            turn = await self._one_registration(task_status)
            task_status = task_status if not self._offer.counts.registrations else trio.TASK_STATUS_IGNORED
            steady = turn.lasted_seconds >= self._rhythm.steady_seconds
            pause = (
                self._rhythm.settle_seconds
                if steady or not turn.same_kubelet
                else min(pause * 2, self._rhythm.longest_pause_seconds)
            )
            log.info("registering again", extra={"resource": self._offer.resource, "reason": turn.reason})
            if turn.same_kubelet:
                await self._pause(pause)

    async def _pause(self, seconds: float) -> None:
        """Wait before the same kubelet is bothered again; a new kubelet ends the wait."""
        before = self._registrar.socket_identity()
        with trio.move_on_after(seconds):
            while self._registrar.socket_identity() == before:  # noqa: ASYNC110 - nobody signals a file
                await trio.sleep(DRAIN_LOOK_SECONDS)

    async def _one_registration(self, task_status: trio.TaskStatus[None]) -> _Turn:
        kubelet = await self._registrar.wait_for_kubelet()
        registration = _Registration(self._offer, self._registrar, self._rhythm, kubelet)
        begun = trio.current_time()
        try:
            listener = await UnixListener.bind(self._directory / fresh_socket_name(self._offer.resource), mode=0o600)
        except HostError as error:
            if not self._offer.counts.registrations and self._is_still(kubelet):
                raise
            log.error("no socket for kubelet can be made", extra={"resource": self._offer.resource, "error": str(error)})
            return _Turn("no socket could be made", self._is_still(kubelet), 0.0)
        async with trio.open_nursery() as nursery:
            await nursery.start(registration.server.serve, [listener])
            reason = await registration.run(listener, task_status)
            await registration.drain()
            nursery.cancel_scope.cancel()
        return _Turn(reason, self._is_still(kubelet), trio.current_time() - begun)

    def _is_still(self, kubelet: tuple[int, ...]) -> bool:
        return self._registrar.socket_identity() == kubelet


class _Registration:
    """One socket, one Register, one ListAndWatch, with one kubelet."""

    def __init__(self, offer: Offer, registrar: Registrar, rhythm: Rhythm, kubelet: tuple[int, ...]) -> None:
        self._offer = offer
        self._registrar = registrar
        self._rhythm = rhythm
        self._kubelet = kubelet
        self._servicer = Servicer(offer)
        self._reason = ""
        self.server = Server([self._servicer.service()], KUBELET_LIMITS)

    async def run(self, listener: UnixListener, task_status: trio.TaskStatus[None]) -> str:
        """Register and stay until the registration has ended; return why it did."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_files, listener, nursery.cancel_scope)
                self._reason = await self._until_dropped(listener.path.name, task_status)
                nursery.cancel_scope.cancel()
        finally:
            self._offer.counts.registered = False
        return self._reason

    async def drain(self) -> None:
        """End what kubelet still listens to, and wait until it has closed its end. Bounded; a dead kubelet has none."""
        self._servicer.end_lists()
        with trio.move_on_after(self._rhythm.drain_seconds):
            while self.server.connections:  # noqa: ASYNC110 - rare, and bounded
                await trio.sleep(DRAIN_LOOK_SECONDS)

    async def _until_dropped(self, endpoint: str, task_status: trio.TaskStatus[None]) -> str:
        try:
            with trio.fail_after(self._rhythm.register_seconds):
                await self._registrar.register(self._offer.resource, endpoint)
        except (KubeletError, trio.TooSlowError) as error:
            self._offer.counts.failed_registrations += 1
            log.warning("registration failed", extra={"resource": self._offer.resource, "error": str(error) or "no answer"})
            return "kubelet did not register us"
        watchers = self._servicer.watchers
        with trio.move_on_after(self._rhythm.first_list_seconds):
            while not watchers.value:
                await watchers.wait_beyond(watchers.version)
        if not watchers.version:
            return "kubelet never asked for the list"
        self._on_registered(endpoint, task_status)
        while watchers.value:
            await watchers.wait_beyond(watchers.version)
        return "kubelet ended ListAndWatch"

    def _on_registered(self, endpoint: str, task_status: trio.TaskStatus[None]) -> None:
        self._offer.counts.registrations += 1
        self._offer.counts.registered = True
        offered = self._offer.inventory.value.of_resource(self._offer.resource)
        log.info(
            "registered with kubelet",
            extra={
                "resource": self._offer.resource,
                "endpoint": endpoint,
                "shares": sum(shared.advertised for shared in offered),
            },
        )
        task_status.started()

    async def _watch_files(self, listener: UnixListener, scope: trio.CancelScope) -> None:
        """End the registration when kubelet swept its directory and listens anew (rule 3)."""
        while True:
            await trio.sleep(self._rhythm.look_seconds)
            identity = self._registrar.socket_identity()
            if identity is None:
                continue  # Swept, and not yet back: what is connected goes on until it is.
            if identity != self._kubelet:
                self._reason = "kubelet was started anew"
            elif not listener.is_in_place():
                self._reason = "our socket was removed"
            else:
                continue
            scope.cancel()


def fresh_socket_name(resource: str) -> str:
    """Return a socket name for a resource that was not used before; short, since a socket's path has 107 bytes at most."""
    return f"{_stem(resource)}-{os.getpid()}-{secrets.token_hex(3)}.sock"


def remove_dead_sockets(directory: Path, resource: str) -> None:
    """Remove what a killed daemon left for this resource: sockets of ours on which nobody listens. Blocks briefly.

    Raises nothing: kubelet is not disturbed by what cannot be removed.
    """
    try:
        for name in os.listdir(directory):  # Path.glob keeps quiet about what it cannot read, from Python 3.13 on
            if name.startswith(f"{_stem(resource)}-") and name.endswith(".sock") and _is_dead(directory / name):
                (directory / name).unlink(missing_ok=True)
    except OSError as error:
        log.warning("sockets of a dead daemon may be left", extra={"path": str(directory), "error": str(error)})


def _is_dead(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        return probe.connect_ex(os.fspath(path)) == errno.ECONNREFUSED


def _stem(resource: str) -> str:
    return f"{_PREFIX}-{hashlib.sha256(resource.encode()).hexdigest()[:8]}"
