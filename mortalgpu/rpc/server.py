"""A gRPC server on any number of listeners. What it serves is a table (`service`); one connection's life is in `session`.

Handlers run as tasks of their connection, connections as tasks of `serve`: cancelling it ends everything at once.
"""

import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence

import trio

from mortalgpu.rpc.allowance import Allowances
from mortalgpu.rpc.limits import KUBELET_LIMITS, CallRecord, Limits, Observer
from mortalgpu.rpc.listener import UnhurriedListener
from mortalgpu.rpc.peer import STRANGER, Peer, peer_of
from mortalgpu.rpc.service import Call, Method, Receive, Send, Service, bidirectional, methods_by_path, streaming, unary
from mortalgpu.rpc.session import Session
from mortalgpu.rpc.status import Code, Refusal

__all__ = [
    "KUBELET_LIMITS",
    "Call",
    "CallRecord",
    "Code",
    "Limits",
    "Method",
    "Peer",
    "Receive",
    "Refusal",
    "Send",
    "Server",
    "Service",
    "bidirectional",
    "streaming",
    "unary",
]

log = logging.getLogger(__name__)

TELL_REFUSED_SECONDS = 10.0
RECOGNISING_AT_ONCE = 16
"""More clients wait in their listener's queue: a crowd that comes faster than it can be told apart turns nobody away."""

Recognise = Callable[[Peer], Awaitable[Peer]]


class Server:
    """Serves a fixed set of services, each connection within `limits`.

    `observer` is told of each finished call. `recognise` may give a peer a better address than the kernel's, to be counted
    and logged by; it must raise nothing. One server may serve several groups of listeners at a time; its limits on
    connections hold for all of them together.
    """

    def __init__(
        self,
        services: Iterable[Service],
        limits: Limits | None = None,
        observer: Observer | None = None,
        recognise: Recognise | None = None,
    ) -> None:
        self._methods = methods_by_path(services)
        self._limits = limits or Limits()
        self._observer = observer
        self._recognise = recognise
        self._turns = trio.Semaphore(RECOGNISING_AT_ONCE) if recognise else None
        self._refused = 0
        self._tell_refused_at = -math.inf
        self._last_connection_id = 0
        self._sessions: set[Session] = set()
        self._allowances = Allowances(self._limits.calls_per_second)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._sessions)

    async def serve(
        self,
        listeners: Sequence[trio.abc.Listener[trio.abc.Stream]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and serve until cancelled; then close the listeners (a Unix socket's file goes with its listener).

        Started means that clients can connect. Raises OSError when a listener breaks.
        """
        async with trio.open_nursery() as nursery:
            unhurried = [UnhurriedListener(listener, self._turns) for listener in listeners]
            await nursery.start(trio.serve_listeners, self._accept, unhurried)
            task_status.started()

    async def _accept(self, transport: trio.abc.Stream) -> None:
        """Serve one accepted stream, unless there are too many. Trio's server, which calls this, closes it."""
        try:
            peer = peer_of(transport)
        except OSError:
            self._give_turn_back()
            return
        try:
            known = await self._recognised(peer)
            if self._has_room_for(known):
                await self.serve_connection(transport, known)
            else:
                self._note_refused(known)
        finally:
            peer.close()

    async def _recognised(self, peer: Peer) -> Peer:
        """Return the peer with the address to count it by."""
        try:
            return peer if self._recognise is None else await self._recognise(peer)
        finally:
            self._give_turn_back()

    def _give_turn_back(self) -> None:
        if self._turns is not None:
            self._turns.release()

    def _note_refused(self, peer: Peer) -> None:
        """Tell the log, and not for each one of a flood."""
        self._refused += 1
        if trio.current_time() >= self._tell_refused_at:
            log.warning("connection refused, too many are open", extra={"peer": peer.address, "count": self._refused})
            self._tell_refused_at, self._refused = trio.current_time() + TELL_REFUSED_SECONDS, 0

    def _has_room_for(self, peer: Peer) -> bool:
        """Whether one more connection of this peer can be served, if need be in place of another.

        That is the one that idles longest, or else the oldest of the peer with the most: who has many is not to keep out who
        has few, however busy it keeps them.
        """
        sessions = [session for session in self._sessions if not session.retiring]
        of_peer = [session for session in sessions if session.peer.address == peer.address]
        if len(of_peer) >= self._limits.max_connections_per_peer:
            return _retire_one(of_peer)
        if len(sessions) < self._limits.max_connections or _retire_one(sessions):
            return True
        ((largest, count),) = Counter(session.peer.address for session in sessions).most_common(1)
        if count <= len(of_peer) + 1:
            return False
        min((session for session in sessions if session.peer.address == largest), key=lambda each: each.begun_at).retire()
        return True

    async def serve_connection(self, transport: trio.abc.Stream, peer: Peer = STRANGER) -> None:
        """Serve one connection over any stream until its end, and close it. Raises nothing for what the client does."""
        self._last_connection_id += 1
        allowance = self._allowances.of(peer.address)
        session = Session(transport, peer, self._methods, self._limits, allowance, self._last_connection_id, self._observer)
        self._sessions.add(session)
        try:
            await session.run()
        except Exception:
            # A fault of ours; the other connections must not pay for it.
            log.exception("connection failed", extra={"peer": peer.address})
        finally:
            self._sessions.discard(session)
            await trio.aclose_forcefully(transport)


def _retire_one(sessions: Iterable[Session]) -> bool:
    """End the session that has been idle longest; False when all are busy."""
    idle = [(session.idle_since, session) for session in sessions if session.idle_since is not None]
    if not idle:
        return False
    min(idle, key=lambda pair: pair[0])[1].retire()
    return True
