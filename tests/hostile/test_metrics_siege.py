"""The metrics endpoints, which anybody who reaches them may ask: clients that begin a request and never end it."""

from contextlib import AsyncExitStack

import pytest
import trio

from mortalgpu.exporter.http import HttpLimits, HttpServer
from tests.campaign import Tally
from tests.unit.exporter.test_http import PAGE, ROUTES, Client

pytestmark = pytest.mark.hostile


@pytest.mark.parametrize("beginning", ["", "G", "GET /metrics HTTP/1.1\r\nHost: h\r\nX: ", "\r\n\r\n"])
async def test_half_a_request_on_every_connection_keeps_no_scrape_out(tally: Tally, beginning: str) -> None:
    limits = HttpLimits(max_connections=8)
    server = HttpServer(ROUTES, limits)
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(server.serve, listeners)
        port = listeners[0].socket.getsockname()[1]
        for _ in range(3 * limits.max_connections):
            stream = await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
            await stream.send_all(beginning.encode())
        with trio.fail_after(limits.head_seconds / 2):
            async with await trio.open_tcp_stream("127.0.0.1", port) as scrape:
                assert (await Client(scrape).get("/metrics")).body == PAGE
        assert server.connections <= limits.max_connections
        nursery.cancel_scope.cancel()
    tally.add("attacks")
