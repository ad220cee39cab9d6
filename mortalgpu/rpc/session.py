"""One client's connection to a server: its calls as tasks, each with a deadline, each cancelled when its client leaves.

Rules:
1. A call ends in exactly one of: a status sent, or silence because the client is gone. Its handler is not running afterwards.
2. Nothing a call does or suffers is felt by another call of the connection.
3. Nothing that happens here is felt outside: errors end the call, or at worst the connection, and are logged.
"""

import logging
import math
import time
from collections.abc import Mapping

import trio
from h2.errors import ErrorCodes

from mortalgpu.errors import HostError
from mortalgpu.rpc.allowance import Allowance
from mortalgpu.rpc.connection import Connection, ConnectionLost, GrpcStream, StreamGone
from mortalgpu.rpc.limits import Budget, CallRecord, Limits, Observer
from mortalgpu.rpc.peer import Peer
from mortalgpu.rpc.service import Call, Method
from mortalgpu.rpc.status import INTERNAL_TEXT, Code, Refusal, status_of
from mortalgpu.rpc.wire import (
    Event,
    GoingAway,
    Greeted,
    PeerEnded,
    Received,
    Requested,
    Reset,
    RoomToSend,
    Unreadable,
    Wire,
    WireError,
)

log = logging.getLogger(__name__)

GOODBYE_SECONDS = 1.0
"""How long the last words of a connection may take."""

Outcome = tuple[Code, str]


class RunningCall:
    """One call under way: the `Exchange` its handler's method is given."""

    def __init__(self, session: "Session", stream: GrpcStream, call: Call, scope: trio.CancelScope) -> None:
        self.call = call
        self.stream = stream
        self.scope = scope
        self.response_began = False
        self._session = session

    async def receive(self) -> bytes | None:
        """Wait for the client's next message; None at its end."""
        return await self.stream.receive()

    async def receive_only(self) -> bytes:
        """Wait for exactly one message and the client's end. Raises `Refusal`."""
        with trio.move_on_after(self._session.limits.unary_seconds):
            message = await self.stream.receive()
            if message is None:
                raise Refusal(Code.INVALID_ARGUMENT, "the request has no message")
            if await self.stream.receive() is not None:
                raise Refusal(Code.INVALID_ARGUMENT, "this method takes one message")
            return message
        raise Refusal(Code.DEADLINE_EXCEEDED, "the request did not arrive in time")

    async def send(self, message: bytes) -> None:
        """Send one message, waiting for the client. Raises `StreamGone`."""
        if not self.response_began:
            if self.stream.gone:
                raise StreamGone
            self._session.connection.wire.start_response(self.stream.stream_id)
            self.response_began = True
        try:
            await self.stream.send(message)
        except ConnectionLost as error:
            self._session.drop(error)
            raise StreamGone from error

    def abandon(self) -> None:
        """The client is gone: cancel the handler."""
        self.stream.break_off()
        self.scope.cancel()


class Session:
    """Serves one connection until either side ends it."""

    def __init__(
        self,
        transport: trio.abc.Stream,
        peer: Peer,
        methods: Mapping[str, Method],
        limits: Limits,
        allowance: Allowance,
        connection_id: int,
        observer: Observer | None,
    ) -> None:
        wire = Wire(
            client_side=False,
            max_message_bytes=limits.max_message_bytes,
            max_streams=limits.max_streams,
            max_header_bytes=limits.max_header_bytes,
        )
        self.limits = limits
        self.connection = Connection(
            transport,
            wire,
            max_message_bytes=limits.max_message_bytes,
            stall_seconds=_or_never(limits.stall_seconds),
            piece_bytes=limits.piece_bytes,
        )
        self.calls: dict[int, RunningCall] = {}
        self.peer = peer
        self.begun_at = trio.current_time()
        self.idle_since: float | None = None
        self.retiring = False
        self._methods = methods
        self._allowance = allowance
        self._connection_id = connection_id
        self._observer = observer
        self._budget = Budget()
        self._greeted = False
        self._quiet = trio.CancelScope()
        self._nursery: trio.Nursery

    async def run(self) -> None:
        """Serve until the end; raises nothing for what the client did. Cancelled, it drops all calls at once."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._write)
            await self._read_to_the_end()
            self._nursery.cancel_scope.cancel()

    async def _write(self) -> None:
        try:
            await self.connection.write()
        except ConnectionLost as error:
            self.drop(error)

    def drop(self, error: Exception) -> None:
        """End the connection at once."""
        for call in self.calls.values():
            call.abandon()
        log.debug("connection dropped", extra={"peer": self.peer.address, "reason": str(error)})
        self._nursery.cancel_scope.cancel()

    async def _read_to_the_end(self) -> None:
        self.idle_since = trio.current_time()
        self._quiet.deadline = self.idle_since + _or_never(self.limits.handshake_seconds)
        try:
            with self._quiet:
                while (events := await self.connection.read()) is not None:
                    for event in events:
                        self._handle(event)
                    self._charge(len(events))
                    await self._allowance.pay(sum(isinstance(event, Requested | Unreadable) for event in events))
                return
            await self._say_goodbye(ErrorCodes.NO_ERROR)
        except WireError as error:
            log.debug("connection ended for a protocol error", extra={"peer": self.peer.address, "reason": str(error)})
            await self._say_goodbye(ErrorCodes.PROTOCOL_ERROR)
        except ConnectionLost as error:
            self.drop(error)

    async def _say_goodbye(self, error_code: ErrorCodes) -> None:
        for call in self.calls.values():
            call.abandon()
        self.connection.wire.say_goodbye(error_code)
        with trio.move_on_after(GOODBYE_SECONDS):
            await self.connection.drain()

    def _charge(self, events: int) -> None:
        """End a connection that costs much and does nothing."""
        if not self._budget.covers(self.connection.wire.small_frames, trio.current_time()):
            raise WireError(f"too many frames without a message; the last read brought {events} events")

    def _handle(self, event: Event) -> None:
        match event:
            case Received() | RoomToSend():
                self.connection.deliver(event)
            case Requested():
                self._begin(event)
            case PeerEnded() if event.stream_id in self.calls:
                self.calls[event.stream_id].stream.peer_has_ended()
            case Reset():
                self._budget.note_reset()
                if event.stream_id in self.calls:
                    self.calls[event.stream_id].abandon()
            case Unreadable():
                self.connection.wire.finish(event.stream_id, event.code, event.text, response_began=False, peer_ended=False)
            case Greeted() if not self._greeted:
                self._greeted = True
                self._watch_for_quiet()
            case GoingAway() | PeerEnded() | Greeted():
                pass

    def _watch_for_quiet(self) -> None:
        """Let the idle time run exactly while no call is under way."""
        if self._greeted:
            now = trio.current_time()
            self.idle_since = None if self.calls else now
            self._quiet.deadline = math.inf if self.calls else now + _or_never(self.limits.idle_seconds)

    def retire(self) -> None:
        """End the connection, and the calls on it, to make room for another."""
        self.retiring = True
        self._quiet.cancel()

    def _begin(self, request: Requested) -> None:
        refusal = self._refusal(request)
        if refusal is not None:
            self.connection.wire.finish(request.stream_id, *refusal, response_began=False, peer_ended=False)
            self._observe(request.method, refusal[0], 0.0)
            return
        if self._is_full():
            self.connection.wire.cancel(request.stream_id, ErrorCodes.REFUSED_STREAM)
            return
        method = self._methods[request.method]
        deadline = self._deadline(request, method)
        call = Call(
            request.method, deadline, dict(reversed(request.metadata)), request.authority, self.peer, self._connection_id
        )
        running = RunningCall(self, self.connection.add_stream(request.stream_id), call, trio.CancelScope(deadline=deadline))
        self.calls[request.stream_id] = running
        self._watch_for_quiet()
        self._nursery.start_soon(self._run_call, running, method)

    def _is_full(self) -> bool:
        """Whether the client has all the calls it may have. Those it has left count too, when they are slow to end."""
        most = self.limits.max_streams
        return len(self.calls) >= 2 * most or sum(not call.stream.gone for call in self.calls.values()) >= most

    def _refusal(self, request: Requested) -> Outcome | None:
        if request.method not in self._methods:
            return Code.UNIMPLEMENTED, "there is no such method here"
        if request.encoding != "identity":
            return Code.UNIMPLEMENTED, "compressed messages are not accepted; send with encoding identity"
        return None

    def _deadline(self, request: Requested, method: Method) -> float:
        ours = self.limits.unary_seconds if method.bounded else math.inf
        theirs = math.inf if request.timeout_seconds is None else request.timeout_seconds
        return trio.current_time() + min(ours, theirs)

    async def _run_call(self, running: RunningCall, method: Method) -> None:
        began = time.monotonic()
        code, text = Code.CANCELLED, ""
        try:
            with running.scope:
                await method.carry_out(running)
                code, text = Code.OK, ""
            if running.scope.cancelled_caught:
                code, text = Code.DEADLINE_EXCEEDED, "not done in time"
        except Exception as error:  # noqa: BLE001  # the wall between handlers and the wire
            code, text = self._outcome_of(running, error)
        finally:
            self._end(running, code, text, time.monotonic() - began)

    @staticmethod
    def _outcome_of(running: RunningCall, error: Exception) -> Outcome:
        """Say how a failed call ends; what its client may not read goes to the log."""
        if running.stream.gone:
            return Code.CANCELLED, ""
        outcome = status_of(error)
        if outcome is None and isinstance(error, HostError | MemoryError):
            log.error("handler failed", extra={"method": running.call.method, "error": str(error) or "out of memory"})
        elif outcome is None:
            log.error("handler failed", extra={"method": running.call.method}, exc_info=error)
        return outcome or (Code.INTERNAL, INTERNAL_TEXT)

    def _end(self, running: RunningCall, code: Code, text: str, seconds: float) -> None:
        stream = running.stream
        del self.calls[stream.stream_id]
        self.connection.forget_stream(stream.stream_id)
        if stream.gone:
            code = Code.CANCELLED
        else:
            self.connection.wire.finish(
                stream.stream_id, code, text, response_began=running.response_began, peer_ended=stream.peer_ended
            )
            self.connection.flush()
        self._budget.note_call()
        self._watch_for_quiet()
        self._observe(running.call.method, code, seconds)

    def _observe(self, method: str, code: Code, seconds: float) -> None:
        if self._observer is not None:
            self._observer(CallRecord(method, code, seconds))


def _or_never(seconds: float | None) -> float:
    return math.inf if seconds is None else seconds
