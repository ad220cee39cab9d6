"""The HTTP server against clients of every kind: ordinary, odd, slow, many, and hostile."""

import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from mortalgpu.exporter.http import Answer, HttpLimits, HttpServer, Request

LIMITS = HttpLimits(head_seconds=0.3, idle_seconds=30, send_seconds=0.5, linger_seconds=0.2, max_connections=4)
PAGE = b"figure 1.0\n" * 1000


async def _page(request: Request) -> Answer:
    return Answer(PAGE, "text/x-page")


async def _echo(request: Request) -> Answer:
    return Answer(request.accept.encode())


async def _fail(_request: Request) -> Answer:
    raise ZeroDivisionError("on purpose")


ROUTES = {"/metrics": _page, "/echo": _echo, "/fail": _fail}


@dataclass
class Reply:
    """One answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """A client that says what it is told to, byte for byte."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self._unread = bytearray()

    async def say(self, text: str | bytes) -> None:
        """Send bytes."""
        await self.stream.send_all(text.encode() if isinstance(text, str) else text)

    async def get(self, path: str, *headers: str, method: str = "GET") -> Reply:
        """Send one request and read its answer."""
        await self.say("\r\n".join([f"{method} {path} HTTP/1.1", "Host: here", *headers, "", ""]))
        return await self.reply(has_body=method != "HEAD")

    async def reply(self, *, has_body: bool = True) -> Reply:
        """Read one answer; raises EOFError when there is none."""
        head = (await self._until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        size = int(headers.get("content-length", "0")) if has_body else 0
        while len(self._unread) < size:
            await self._more()
        body, self._unread = bytes(self._unread[:size]), self._unread[size:]
        return Reply(int(head[0].split()[1]), headers, body)

    async def is_closed(self) -> bool:
        """Wait for the server to hang up, whatever it still has to say; False when it does not."""
        with trio.move_on_after(5):
            with suppress(trio.BrokenResourceError):
                while await self.stream.receive_some(4096):
                    pass
            return True
        return False

    async def _until(self, mark: bytes) -> bytes:
        while mark not in self._unread:
            await self._more()
        end = self._unread.index(mark) + len(mark)
        head, self._unread = bytes(self._unread[:end]), self._unread[end:]
        return head

    async def _more(self) -> None:
        received = await self.stream.receive_some(65536)
        if not received:
            raise EOFError("the server hung up")
        self._unread += received


Connect = Callable[[], Awaitable[Client]]


@asynccontextmanager
async def serving(limits: HttpLimits = LIMITS) -> AsyncIterator[tuple[HttpServer, Connect]]:
    """A server on a loopback port, and what connects to it."""
    server = HttpServer(ROUTES, limits)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]

    async with AsyncExitStack() as stack:

        async def connect() -> Client:
            return Client(await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port)))

        nursery = await stack.enter_async_context(trio.open_nursery())
        await nursery.start(server.serve, listeners)
        yield server, connect
        nursery.cancel_scope.cancel()


async def test_a_page_is_served_with_its_type_and_length() -> None:
    async with serving() as (_, connect):
        reply = await (await connect()).get("/metrics")
    assert (reply.status, reply.body) == (200, PAGE)
    assert reply.headers["content-type"] == "text/x-page"
    assert reply.headers["date"].endswith("GMT")


async def test_head_answers_with_the_length_and_without_the_body() -> None:
    async with serving() as (_, connect):
        client = await connect()
        reply = await client.get("/metrics", method="HEAD")
        assert (reply.status, reply.headers["content-length"]) == (200, str(len(PAGE)))
        assert (await client.get("/echo", "Accept: b")).body == b"b"


async def test_a_query_is_no_part_of_the_path() -> None:
    async with serving() as (_, connect):
        assert (await (await connect()).get("/metrics?x=/../y")).status == 200


@pytest.mark.parametrize(("header", "is_zipped"), [
    ("gzip", True), ("deflate, gzip;q=0.5", True), ("GZIP", True), ("br", False), ("gzip;q=0", False),
    ("gzip; q=0.000", False), ("identity", False), ("", False), (";;,,", False),
])  # fmt: skip
async def test_a_page_is_compressed_for_those_who_accept_it(header: str, is_zipped: bool) -> None:
    async with serving() as (_, connect):
        reply = await (await connect()).get("/metrics", f"Accept-Encoding: {header}")
    assert ("content-encoding" in reply.headers) == is_zipped
    assert (gzip.decompress(reply.body) if is_zipped else reply.body) == PAGE


async def test_one_connection_serves_many_requests_also_when_they_come_at_once() -> None:
    async with serving() as (_, connect):
        client = await connect()
        await client.say("GET /echo HTTP/1.1\r\nHost: h\r\nAccept: 1\r\n\r\nGET /echo HTTP/1.1\r\nHost: h\r\nAccept: 2\r\n\r\n")
        assert [(await client.reply()).body for _ in range(2)] == [b"1", b"2"]
        assert (await client.get("/echo", "Accept: 3")).body == b"3"


async def test_a_client_that_wants_the_connection_closed_gets_it_closed() -> None:
    async with serving() as (_, connect):
        client = await connect()
        assert (await client.get("/echo", "Connection: close")).status == 200
        assert await client.is_closed()


@pytest.mark.parametrize(("method", "path", "status"), [
    ("POST", "/metrics", 405), ("DELETE", "/nothing", 405), ("OPTIONS", "*", 405), ("GET", "/", 404), ("GET", "/metrics/", 404),
    ("GET", "//metrics", 404), ("GET", "/%6detrics", 404), ("GET", "http://elsewhere/metrics", 404), ("GET", "/fail", 500),
])  # fmt: skip
async def test_what_is_not_served_is_refused_and_the_connection_goes_on(method: str, path: str, status: int) -> None:
    async with serving() as (_, connect):
        client = await connect()
        reply = await client.get(path, method=method)
        assert reply.status == status
        assert ("allow" in reply.headers) == (status == 405)
        assert (await client.get("/metrics")).status == 200


async def test_a_page_that_cannot_be_made_tells_the_client_nothing_of_the_cause(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as (_, connect):
        reply = await (await connect()).get("/fail")
    assert b"purpose" not in reply.body
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("announcement", ["Content-Length: 5", "Content-Length: 99999999999", "Transfer-Encoding: chunked"])
async def test_a_request_with_a_body_is_refused_without_reading_it(announcement: str) -> None:
    async with serving() as (_, connect):
        client = await connect()
        assert (await client.get("/metrics", announcement)).status == 413
        assert await client.is_closed()


@pytest.mark.parametrize("nonsense", [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /metrics\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: h\r\nbad header\x00: x\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: h\r\nX: " + b"y" * 20000 + b"\r\n\r\n",
    b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
])  # fmt: skip
async def test_nonsense_is_refused_and_others_are_served(nonsense: bytes) -> None:
    async with serving() as (_, connect):
        bad, good = await connect(), await connect()
        await bad.say(nonsense)
        assert 400 <= (await bad.reply()).status < 500
        assert await bad.is_closed()
        assert (await good.get("/metrics")).status == 200


async def test_a_head_that_trickles_in_is_given_up_on() -> None:
    async with serving() as (_, connect):
        client = await connect()
        begun = trio.current_time()
        await client.say("GET /metrics HT")
        assert (await client.reply()).status == 408
        assert await client.is_closed()
        assert trio.current_time() - begun < 5


async def test_a_silent_connection_is_closed_after_a_while() -> None:
    async with serving(replace(LIMITS, idle_seconds=0.1)) as (server, connect):
        assert await (await connect()).is_closed()
        used = await connect()
        await used.get("/metrics")
        assert await used.is_closed()
        assert server.connections == 0


async def test_a_client_that_does_not_read_is_given_up_on() -> None:
    with trio.fail_after(10):
        ours, theirs = trio.testing.lockstep_stream_pair()  # Its sender waits until the other side reads.
        server = HttpServer(ROUTES, LIMITS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve_connection, ours)
            await theirs.send_all(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n")
    assert server.connections == 0


async def test_a_new_connection_takes_the_place_of_the_one_that_idles_longest() -> None:
    async with serving() as (server, connect):
        clients = [await connect() for _ in range(LIMITS.max_connections)]
        for client in clients:
            assert (await client.get("/echo")).status == 200
        newest = await connect()
        assert (await newest.get("/metrics")).status == 200
        assert await clients[0].is_closed()
        assert (await clients[1].get("/metrics")).status == 200
        assert server.connections <= LIMITS.max_connections


async def test_hundreds_of_silent_connections_do_not_keep_a_scrape_out() -> None:
    async with serving(replace(LIMITS, max_connections=64)) as (server, connect):
        silent = [await connect() for _ in range(300)]
        assert (await (await connect()).get("/metrics")).body == PAGE
        assert server.connections <= 64
        assert len(silent) == 300


async def test_a_client_that_hangs_up_midway_costs_nothing() -> None:
    async with serving() as (server, connect):
        for text in ("", "GET /met", "GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n"):
            client = await connect()
            await client.say(text)
            await client.stream.aclose()
        assert (await (await connect()).get("/metrics")).status == 200
        while server.connections > 1:
            await trio.sleep(0.01)


async def test_cancelling_the_server_ends_requests_under_way() -> None:
    async with serving() as (server, connect):
        await (await connect()).say("GET /metr")
        await (await connect()).get("/metrics")
        assert server.connections == 2
    assert server.connections == 0


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8))
def test_no_bytes_make_the_server_raise(chunks: list[bytes]) -> None:
    async def talk() -> None:
        server = HttpServer(ROUTES, replace(LIMITS, linger_seconds=0.01, head_seconds=0.01, idle_seconds=0.01))
        ours, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve_connection, ours)
            for chunk in chunks:
                await theirs.send_all(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n" if chunk == b"G" else chunk)
            await theirs.send_eof()
        assert server.connections == 0

    trio.run(talk, clock=trio.testing.MockClock(autojump_threshold=0))
