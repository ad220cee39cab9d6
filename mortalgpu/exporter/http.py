"""A small HTTP/1.1 server for pages that are read: GET and HEAD, keep-alive, gzip. The only doorkeeper of h11.

Rules:
1. Nothing a client does raises, takes more than `HttpLimits` grant, or holds anybody else up.
2. When all places are taken, a new connection takes that of the one that idles longest; when none idles it is closed.
3. Requests have no body: one that announces a body is refused, and its connection closed unread.
"""

import gzip
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate

import h11
import trio

from mortalgpu import threads
from mortalgpu.errors import HostError
from mortalgpu.rpc.listener import UnhurriedListener

log = logging.getLogger(__name__)

PLAIN = "text/plain; charset=utf-8"
_CHUNK_BYTES = 8192
_FASTEST = 1
_TOO_LONG_FOR_THE_LOOP_BYTES = 2**19
"""Two or three milliseconds of compression are shorter than the way to a thread and back beside a busy loop."""
_METHODS = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What one listener's clients are granted; times in seconds."""

    max_connections: int = 64
    max_head_bytes: int = 8192
    head_seconds: float = 10.0
    """From the first byte of a request to the last of its head."""
    idle_seconds: float = 180.0
    """How long a connection may stay without a request; longer than the usual pause between two scrapes."""
    send_seconds: float = 20.0
    """How long a client may take to receive one answer."""
    linger_seconds: float = 1.0
    """How long a client that was refused may take to hear it."""
    gzip_above_bytes: int = 1024


@dataclass(frozen=True, slots=True)
class Request:
    """What a route may know of a request."""

    path: str
    accept: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a route says."""

    body: bytes
    content_type: str = PLAIN
    status: int = 200


Route = Callable[[Request], Awaitable[Answer]]


class HttpServer:
    """Serves fixed paths on any number of listeners."""

    def __init__(self, routes: Mapping[str, Route], limits: HttpLimits | None = None) -> None:
        self._routes = routes
        self._limits = limits or HttpLimits()
        self._sessions: set[_Session] = set()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._sessions)

    async def serve(
        self,
        listeners: Sequence[trio.abc.Listener[trio.abc.HalfCloseableStream]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and answer until cancelled, then close the listeners. Started means that clients can connect."""
        async with trio.open_nursery() as nursery:
            unhurried = [UnhurriedListener(listener) for listener in listeners]
            await nursery.start(trio.serve_listeners, self._accept, unhurried)
            task_status.started()

    async def _accept(self, stream: trio.abc.HalfCloseableStream) -> None:
        try:
            if self._has_room():
                await self.serve_connection(stream)
        finally:
            await trio.aclose_forcefully(stream)

    def _has_room(self) -> bool:
        if len(self._sessions) < self._limits.max_connections:
            return True
        idle = [session for session in self._sessions if session.idle_since is not None]
        if idle:
            min(idle, key=lambda session: session.idle_since or 0.0).retire()
        return bool(idle)

    async def serve_connection(self, stream: trio.abc.HalfCloseableStream) -> None:
        """Serve one connection to its end. Raises nothing for what the client does."""
        session = _Session(stream, self._routes, self._limits)
        self._sessions.add(session)
        try:
            await session.run()
        finally:
            self._sessions.discard(session)


class _Session:
    """One connection."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, routes: Mapping[str, Route], limits: HttpLimits) -> None:
        self._stream = stream
        self._routes = routes
        self._limits = limits
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.max_head_bytes)
        self._scope = trio.CancelScope()
        self.idle_since: float | None = None
        """Since when no whole request has come; None while one is answered."""

    def retire(self) -> None:
        """End it for another's sake."""
        self.idle_since = None
        self._scope.cancel()

    async def run(self) -> None:
        """Answer requests until either side has enough."""
        with self._scope:
            try:
                while await self._one_request():
                    self._http.start_next_cycle()
            except h11.RemoteProtocolError as error:
                await self._refuse(error.error_status_hint, "this is no HTTP request that we understand")
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # The client went.

    async def _one_request(self) -> bool:
        """Receive a request and answer it; return whether the connection may go on."""
        head = await self._head()
        if head is None:
            return False
        self.idle_since = None
        headers = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
        if "transfer-encoding" in headers or headers.get("content-length", "0").strip("0"):
            await self._refuse(413, "a request here has no body")
            return False
        await self._next_event()  # The end of the message: without a body it is there already.
        method = head.method.decode("ascii")
        answer = await self._answer(method, Request(_path(head.target), headers.get("accept", "")))
        with trio.move_on_after(self._limits.send_seconds) as sending:
            body, coding = await self._coded(answer.body, headers.get("accept-encoding", ""))
            await self._send(answer, body, coding, is_head=method == "HEAD")
        may_go_on = self._http.our_state is h11.DONE and self._http.their_state is h11.DONE
        return may_go_on and not sending.cancelled_caught

    async def _head(self) -> h11.Request | None:
        """Wait for a request; None when the client went, or took too long."""
        if not self._http.trailing_data[0] and not await self._first_bytes():
            return None
        with trio.move_on_after(self._limits.head_seconds):
            event = await self._next_event()
            return event if isinstance(event, h11.Request) else None
        await self._refuse(408, "the request took too long to arrive")
        return None

    async def _first_bytes(self) -> bool:
        """Wait for the client to begin; False when it does not."""
        self.idle_since = trio.current_time()
        with trio.move_on_after(self._limits.idle_seconds) as waiting:
            await self._receive()
        return not waiting.cancelled_caught

    async def _next_event(self) -> h11.Event | None:
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Event):
                return event
            if event is not h11.NEED_DATA:
                return None
            await self._receive()

    async def _receive(self) -> None:
        self._http.receive_data(bytes(await self._stream.receive_some(_CHUNK_BYTES)))

    async def _answer(self, method: str, request: Request) -> Answer:
        if method not in _METHODS:
            return Answer(b"only GET and HEAD are answered here\n", status=405)
        route = self._routes.get(request.path)
        if route is None:
            return Answer(f"there is only {', '.join(self._routes)}\n".encode(), status=404)
        try:
            return await route(request)
        except Exception:
            log.exception("page cannot be made", extra={"path": request.path})
            return Answer(b"the page cannot be made; the log says why\n", status=500)

    async def _coded(self, body: bytes, accept_encoding: str) -> tuple[bytes, str]:
        """Return the body as it is sent, and its content coding."""
        if len(body) <= self._limits.gzip_above_bytes or not _takes_gzip(accept_encoding):
            return body, ""
        if len(body) > _TOO_LONG_FOR_THE_LOOP_BYTES:
            try:
                return await threads.run(gzip.compress, body, _FASTEST, abandon_on_cancel=True), "gzip"
            except HostError:
                return body, ""
        return gzip.compress(body, _FASTEST), "gzip"

    async def _send(self, answer: Answer, body: bytes, coding: str = "", *, is_head: bool = False, close: bool = False) -> None:
        headers = [
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(body))),
            ("Date", formatdate(usegmt=True)),
            ("Vary", "Accept, Accept-Encoding"),
            *([("Content-Encoding", coding)] if coding else []),
            *([("Allow", ", ".join(_METHODS))] if answer.status == 405 else []),
            *([("Connection", "close")] if close else []),
        ]
        data = self._http.send(h11.Response(status_code=answer.status, headers=headers)) or b""
        if not is_head:
            data += self._http.send(h11.Data(data=body)) or b""
        data += self._http.send(h11.EndOfMessage()) or b""
        await self._stream.send_all(data)

    async def _refuse(self, status: int, text: str) -> None:
        """Answer and hang up, in a way that lets the client hear the answer first."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        with trio.move_on_after(self._limits.linger_seconds):
            try:
                await self._send(Answer(b"", status=status), f"{text}\n".encode(), close=True)
                await self._stream.send_eof()
                while await self._stream.receive_some(_CHUNK_BYTES):
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # It did not want to hear.


def _path(target: bytes) -> str:
    return target.decode("latin-1").partition("?")[0]


def _takes_gzip(accept_encoding: str) -> bool:
    for entry in accept_encoding.lower().split(","):
        coding, *parameters = (part.replace(" ", "") for part in entry.split(";"))
        if coding == "gzip":
            return not any(re.fullmatch(r"q=0(\.0*)?", parameter) for parameter in parameters)
    return False
