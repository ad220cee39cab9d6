"""The stand-in server: a raw HTTP/1.1 peer on loopback that keeps pods with versions and answers list, watch and POST.

`next(...)` puts scripted answers in front of the true ones; each is used for one request. It refuses a list or watch without
a `spec.nodeName` selector, so a client that asked for the whole cluster would fail every test.
"""

import json
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import trio

from tests.standin.apiserver.objects import JsonObject


@dataclass(frozen=True)
class Request:
    """One request as it came in."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def is_watch(self) -> bool:
        return self.query.get("watch") == "1"


Answer = Callable[[trio.abc.Stream, Request], Awaitable[None]]


@dataclass
class ApiPeer:
    """State and script of the server. Whatever is changed here is what clients see next."""

    url: str = ""
    pods: dict[str, JsonObject] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    events: list[JsonObject] = field(default_factory=list)
    version: int = 10
    oldest: int = 0
    """Versions below this are compacted away: 410."""
    page: int = 1000
    down: bool = False
    token: str | None = None
    """The only token accepted, or None for no check."""
    watching: int = 0
    _history: list[tuple[int, int, str, JsonObject]] = field(default_factory=list)
    _snapshots: dict[str, tuple[int, list[JsonObject]]] = field(default_factory=dict)
    _serial: int = 0
    _script: deque[Answer] = field(default_factory=deque)
    _moved: trio.Event = field(default_factory=trio.Event)
    _cut: trio.Event = field(default_factory=trio.Event)

    def next(self, *answers: Answer) -> None:
        """Answer the next requests so, one each."""
        self._script.extend(answers)

    def put(self, pod: JsonObject) -> None:
        """Create or replace a pod."""
        key = pod["metadata"]["uid"]
        self._record("MODIFIED" if key in self.pods else "ADDED", pod)
        self.pods[key] = pod

    def delete(self, uid: str) -> None:
        self._record("DELETED", self.pods.pop(uid))

    def bookmark(self, versions_later: int = 1) -> None:
        """Tell watchers a newer version without any pod."""
        self.version += versions_later - 1
        self._record("BOOKMARK", {"kind": "Pod", "apiVersion": "v1", "metadata": {}})

    def say(self, kind: str, found: JsonObject) -> None:
        """Send a line to the watchers that changes no pod."""
        self._serial += 1
        self._history.append((self._serial, self.version, kind, json.loads(json.dumps(found))))
        self._moved.set()
        self._moved = trio.Event()

    def compact(self) -> None:
        """Disown all history: whoever resumes from before gets 410. Watches that stand go on."""
        self.oldest = self.version + 1
        self.version += 1

    def cut(self) -> None:
        """Break every connection in the middle of whatever it carries."""
        self._cut.set()
        self._cut = trio.Event()

    def of(self, *, watch: bool) -> list[Request]:
        """Return the watch requests, or the lists, so far."""
        return [each for each in self.requests if each.method == "GET" and each.is_watch == watch]

    def _record(self, kind: str, found: JsonObject) -> None:
        self.version += 1
        found["metadata"]["resourceVersion"] = str(self.version)
        self.say(kind, found)

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Answer one connection: one request each, so that each request is a new choice of token, CA and address."""
        try:
            async with stream:
                request = await _read(stream)
                if request is None or self.down:
                    return
                self.requests.append(request)
                cut = self._cut
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_cancel_when, cut, nursery.cancel_scope)
                    await self._answer(stream, request)
                    nursery.cancel_scope.cancel()
                if cut.is_set():
                    await trio.aclose_forcefully(stream)
        except* (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError):
            pass

    async def _answer(self, stream: trio.abc.Stream, request: Request) -> None:
        if self._script:
            await self._script.popleft()(stream, request)
        elif self.token is not None and request.headers.get("authorization") != f"Bearer {self.token}":
            await refuse(401, "Unauthorized")(stream, request)
        elif request.method == "POST":
            self.events.append(json.loads(request.body))
            await send(stream, 201, b"{}")
        elif not request.query.get("fieldSelector", "").startswith("spec.nodeName="):
            await refuse(400, "this peer does not give out the whole cluster")(stream, request)
        elif request.is_watch:
            await self._watch(stream, request)
        else:
            await self._list(stream, request)

    async def _list(self, stream: trio.abc.Stream, request: Request) -> None:
        """Answer from one snapshot, all pages of it, whatever happens between them."""
        node = request.query["fieldSelector"].removeprefix("spec.nodeName=")
        if "continue" in request.query:
            version, rest = self._snapshots.pop(request.query["continue"])
        else:
            version, rest = self.version, [pod for pod in self.pods.values() if pod["spec"]["nodeName"] == node]
        count = min(self.page, int(request.query["limit"]))
        metadata: dict[str, Any] = {"resourceVersion": str(version)}
        if count < len(rest):
            metadata["continue"] = f"{version}-{len(rest) - count}"
            self._snapshots[metadata["continue"]] = (version, rest[count:])
        body = {"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": rest[:count]}
        await send(stream, 200, json.dumps(body).encode())

    async def _watch(self, stream: trio.abc.Stream, request: Request) -> None:
        seen = int(request.query["resourceVersion"])
        if seen < self.oldest:
            await refuse(410, "too old resource version", reason="Expired")(stream, request)
            return
        node = request.query["fieldSelector"].removeprefix("spec.nodeName=")
        await start_chunks(stream)
        self.watching += 1
        try:
            told = next((serial - 1 for serial, version, _, _ in self._history if version > seen), self._serial)
            while True:
                moved = self._moved
                for serial, _, kind, found in [entry for entry in self._history if entry[0] > told]:
                    told = serial
                    if found.get("spec", {"nodeName": node})["nodeName"] == node:
                        await send_chunk(stream, json.dumps({"type": kind, "object": found}).encode() + b"\n")
                await moved.wait()
        finally:
            self.watching -= 1


@asynccontextmanager
async def open_peer(tls: ssl.SSLContext | None = None) -> AsyncIterator[ApiPeer]:
    """Serve on a free port of 127.0.0.1 until the context is left."""
    peer = ApiPeer()
    async with trio.open_nursery() as nursery:
        plain = await trio.open_tcp_listeners(0, host="127.0.0.1")
        peer.url = f"http{'s' if tls else ''}://127.0.0.1:{plain[0].socket.getsockname()[1]}"
        listeners: list[Any] = [trio.SSLListener(each, tls) for each in plain] if tls else list(plain)
        nursery.start_soon(trio.serve_listeners, peer.serve, listeners)
        yield peer
        nursery.cancel_scope.cancel()


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _read(stream: trio.abc.Stream) -> Request | None:
    received = b""
    while b"\r\n\r\n" not in received:
        more = await stream.receive_some()
        if not more:
            return None
        received += more
    head, _, body = received.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in rest)}
    while len(body) < int(headers.get("content-length", "0")):
        body += await stream.receive_some()
    parts = urlsplit(target)
    return Request(method, parts.path, dict(parse_qsl(parts.query)), headers, bytes(body))


async def send(stream: trio.abc.Stream, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    """Send a whole answer and announce that the connection ends with it."""
    extra = "".join(f"{name}: {text}\r\n" for name, text in (headers or {}).items())
    head = f"HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{extra}"
    await stream.send_all(head.encode() + b"Connection: close\r\n\r\n" + body)


async def start_chunks(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")


async def send_chunk(stream: trio.abc.Stream, body: bytes) -> None:
    await stream.send_all(b"%x\r\n%s\r\n" % (len(body), body))


def refuse(status: int, message: str, *, reason: str = "", headers: dict[str, str] | None = None) -> Answer:
    """Return an answer that is a Status object."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": status}

    async def answer(stream: trio.abc.Stream, request: Request) -> None:
        await send(stream, status, json.dumps(body).encode(), headers)

    return answer


def reply(body: bytes, status: int = 200) -> Answer:
    """Return an answer with this body, whatever it is."""

    async def answer(stream: trio.abc.Stream, request: Request) -> None:
        await send(stream, status, body)

    return answer


def stream_of(*lines: bytes, then_end: bool = True) -> Answer:
    """Return a watch that says these lines; without its proper end the connection breaks."""

    async def answer(stream: trio.abc.Stream, request: Request) -> None:
        await start_chunks(stream)
        for line in lines:
            await send_chunk(stream, line)
        if then_end:
            await send_chunk(stream, b"")

    return answer


async def hang(stream: trio.abc.Stream, request: Request) -> None:
    """Never answer."""
    await trio.sleep_forever()


async def drip(stream: trio.abc.Stream, request: Request) -> None:
    """Answer for ever, a byte at a time."""
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        await stream.send_all(b" ")
        await trio.sleep(0.01)


async def slam(stream: trio.abc.Stream, request: Request) -> None:
    """Close without a word."""
    await trio.aclose_forcefully(stream)
