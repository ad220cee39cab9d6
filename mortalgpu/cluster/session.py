"""HTTP with the Kubernetes API: one connection pool, deadlines, size limits, and every failure turned into a ClusterError.

The only file of the cluster port that knows httpx. It knows paths and bytes, not pods.
"""

import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

import httpx
import trio

from mortalgpu import threads
from mortalgpu.cluster.access import ApiAccess, read_token
from mortalgpu.cluster.podwire import Unreadable, one_line, read_status
from mortalgpu.errors import ClusterError, HostError

_KEEPALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]
"""A watch may be silent for minutes, so the kernel asks whether the other side still lives: dead after 30 seconds."""


_TROUBLE = (
    *(httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, trio.BrokenResourceError, OSError),
    *(UnicodeError, OverflowError),
)
"""What asking raises. The last two are for an address that is none: no text, or a port beyond all numbers."""


@dataclass(frozen=True, slots=True)
class ApiPace:
    """How patient the adapter is, and how much it takes in."""

    request_seconds: float = 30.0
    """For a whole request and its answer, and for the first byte of a watch."""
    idle_seconds: float = 150.0
    """Without a byte on a watch. The API server sends a bookmark about every minute."""
    watch_seconds: float = 300.0
    """A watch is asked to end after this, up to twice as long, so that nodes do not return all at once."""
    first_retry_seconds: float = 0.5
    last_retry_seconds: float = 30.0
    """Between them the wait after a failure doubles."""
    longest_unseen_seconds: float = 8.0
    """The longest such wait for pods: until they are named, containers that are new are held to no limit."""
    page_pods: int = 250
    most_pods: int = 10_000
    answer_bytes: int = 64 * 1024 * 1024
    line_bytes: int = 16 * 1024 * 1024
    """An object in etcd is at most 1.5 MiB in its binary form; its JSON is larger, but not ten times."""


class ApiRefusal(ClusterError):
    """The API server answered, and the answer is no: `status` is the HTTP (or Status object's) code."""

    def __init__(self, text: str, status: int, retry_after_seconds: float = 0.0) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after_seconds = retry_after_seconds


class ApiSession:
    """An open pool of connections. Each method raises ClusterError for everything that goes wrong, ApiRefusal for a no."""

    def __init__(self, client: httpx.AsyncClient, access: ApiAccess, pace: ApiPace) -> None:
        self._client = client
        self._access = access
        self._pace = pace

    async def get(self, path: str, params: Mapping[str, str]) -> bytes:
        """Return the body of a successful GET."""
        return await self._exchange("GET", path, dict(params), b"")

    async def post(self, path: str, body: bytes) -> None:
        """POST a JSON object; the answer's body is not looked at unless it is a refusal."""
        await self._exchange("POST", path, {}, body)

    @asynccontextmanager
    async def lines(self, path: str, params: Mapping[str, str]) -> AsyncIterator[AsyncIterator[list[bytes]]]:
        """Open a watch and give its lines, as many at a time as arrived together; ends when the server ends it."""
        with _translated(self._access):
            request = self._client.build_request("GET", path, params=dict(params), headers=await self._headers())
            with _deadline(self._pace.request_seconds, "answer a watch"):
                response = await self._client.send(request, stream=True)
            try:
                with _deadline(self._pace.request_seconds, "explain its refusal"):
                    await self._accept(response)
                async with aclosing(self._split(response)) as lines:
                    yield lines
            finally:
                with trio.CancelScope(deadline=trio.current_time() + 1, shield=True):
                    await response.aclose()

    async def _exchange(self, method: str, path: str, params: dict[str, str], body: bytes) -> bytes:
        with _translated(self._access), _deadline(self._pace.request_seconds, f"answer a {method}"):
            headers = await self._headers()
            async with self._client.stream(method, path, params=params, content=body, headers=headers) as response:
                await self._accept(response)
                return await self._body(response)

    async def _headers(self) -> dict[str, str]:
        token = await read_token(self._access)
        return {"authorization": f"Bearer {token}"} if token else {}

    async def _accept(self, response: httpx.Response) -> None:
        if response.status_code in (200, 201):
            return
        said = read_status(await self._body(response)).message or response.reason_phrase
        raise ApiRefusal(
            _refusal_text(response.status_code, said, self._access),
            response.status_code,
            _seconds(response.headers.get("retry-after", "")),
        )

    async def _body(self, response: httpx.Response) -> bytes:
        body = bytearray()
        async with _chunks(response) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > self._pace.answer_bytes:
                    raise Unreadable(f"the API server's answer is larger than {self._pace.answer_bytes} bytes")
        return bytes(body)

    async def _split(self, response: httpx.Response) -> AsyncGenerator[list[bytes], None]:
        rest = bytearray()
        async with _chunks(response) as chunks:
            while True:
                with _deadline(self._pace.idle_seconds, "send anything on a watch"):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    return
                searched = len(rest)
                rest += chunk
                end = rest.rfind(b"\n", searched)
                if end >= 0:
                    whole = bytes(rest[:end])
                    del rest[: end + 1]
                    yield [line for line in whole.split(b"\n") if line]
                if len(rest) > self._pace.line_bytes:
                    raise Unreadable(f"the API server's watch sent a line larger than {self._pace.line_bytes} bytes")


@asynccontextmanager
async def open_session(access: ApiAccess, pace: ApiPace) -> AsyncIterator[ApiSession]:
    """Read the CA and make a pool of connections; connects only when asked something. Raises ClusterError for a bad CA file."""
    try:
        context = await threads.run(_trust, access)
    except HostError as error:
        raise ClusterError(f"the Kubernetes API cannot be asked: {error}") from error
    transport = httpx.AsyncHTTPTransport(verify=context, socket_options=_KEEPALIVE)
    headers = {"user-agent": "mortalgpu", "accept": "application/json", "content-type": "application/json"}
    # As it is: a packed answer can unfold to a thousand times what came, before its size can be looked at.
    headers["accept-encoding"] = "identity"
    with _translated(access):
        client = httpx.AsyncClient(base_url=access.url, transport=transport, headers=headers, timeout=None)
    async with client:
        yield ApiSession(client, access, pace)


@asynccontextmanager
async def _chunks(response: httpx.Response) -> AsyncIterator[AsyncIterator[bytes]]:
    """Give the body as it arrives, and end it in good order when the reader stops half-way.

    Below this lie generators inside generators, which closing the outermost does not close: only a cancellation that strikes
    while they wait for the network ends them all. So one is made.
    """
    chunks = response.aiter_raw()
    try:
        yield chunks
    finally:
        with trio.CancelScope() as scope, suppress(httpx.HTTPError, httpx.StreamError):
            scope.cancel()
            async for _ in chunks:
                pass


def _trust(access: ApiAccess) -> ssl.SSLContext:
    if access.url.startswith("http:"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # Trusts nobody; a redirection to https would not be followed anyway.
    if access.ca_file is None:
        return ssl.create_default_context()
    try:
        return ssl.create_default_context(cafile=str(access.ca_file))
    except (OSError, ssl.SSLError) as broken:
        raise ClusterError(f"the Kubernetes API's CA cannot be read from {access.ca_file}: {broken}") from broken


@contextmanager
def _translated(access: ApiAccess) -> Iterator[None]:
    """Turn what httpx, TLS and sockets raise into a ClusterError that says whom we asked."""
    try:
        yield
    except _TROUBLE as broken:
        cause = one_line(_cause(broken))
        if "CERTIFICATE_VERIFY_FAILED" in cause:
            cause += f" (trusted CA: {access.ca_file or 'the system store'})"
        raise ClusterError(f"no answer from the Kubernetes API at {one_line(access.url)}: {cause}") from broken
    except RuntimeError as broken:
        if not threads.is_refusal(broken):
            raise
        # Looking a name up takes a thread of the resolver's.
        raise ClusterError(f"the Kubernetes API cannot be asked: {broken}") from broken


def _cause(error: BaseException) -> str:
    """Return the first text on the way down to what really happened: the outer errors are often empty."""
    seen: BaseException | None = error
    while seen is not None:
        if str(seen):
            return str(seen)
        seen = seen.__cause__ or seen.__context__
    return type(error).__name__


@contextmanager
def _deadline(seconds: float, what: str) -> Iterator[None]:
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        raise ClusterError(f"the Kubernetes API did not {what} within {seconds:g} s") from None


def _refusal_text(status: int, said: str, access: ApiAccess) -> str:
    """Say what was refused, in the API's words, and what the operator can do about it where that is known."""
    text = f"the Kubernetes API at {access.url} answered {status}: {one_line(said)}"
    if status == 401:
        return f"{text} (token file: {access.token_file or 'none configured'})"
    if status == 403:
        return f"{text} (mortalgpu needs a role that may get, list and watch pods, and create events)"
    return text


def _seconds(retry_after: str) -> float:
    """Read a Retry-After header; its date form, which the API server does not use, counts as absent."""
    return float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0.0
