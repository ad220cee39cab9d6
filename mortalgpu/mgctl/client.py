"""mgctl's side of the device API: finds the daemon, calls it, and says in plain words what went wrong and what to do.

Importing this costs what Trio and gRPC cost; nothing that needs no daemon may import it.
"""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import trio
from google.protobuf.message import Message

from mortalgpu import __version__
from mortalgpu.mgctl.arguments import Options
from mortalgpu.mgctl.codes import FAILED, UNREACHABLE
from mortalgpu.mgctl.text import harmless
from mortalgpu.rpc.channel import Answers, Channel, channel_over, open_channel
from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb
from mortalgpu.rpc.status import Code, RpcError, Unavailable

SERVICE = "/device.v1.DeviceService"
CALL_SECONDS = 10.0

CONTAINER_SOCKET = "/run/mortalgpu/device.sock"
ADMIN_SOCKET = "/var/lib/mortalgpu/admin.sock"
NODE_ADDRESS = "localhost:50052"

Response = TypeVar("Response", bound=Message)


class Failure(Exception):
    """A command failed: `code` is mgctl's exit code, the text is for people."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def carry_out(options: Options) -> int:
    """Run a command that needs the daemon and return its exit code."""
    try:
        return trio.run(_command, options)
    except BaseException as error:  # noqa: BLE001  # raised again, unless it is a Failure
        cause = _only(error)
        if not isinstance(cause, Failure):
            raise cause from None
        print(f"mgctl: {cause}", file=sys.stderr)
        return cause.code


def _only(error: BaseException) -> BaseException:
    """Return what a nursery has put groups around: an interrupt, or a reader that has gone."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _command(options: Options) -> int:
    match options.command:
        case "get":
            from mortalgpu.mgctl.get import get

            return await get(options)
        case "kill":
            from mortalgpu.mgctl.kill import kill

            return await kill(options)
        case "ping":
            from mortalgpu.mgctl.ping import ping

            return await ping(options)
        case _:
            from mortalgpu.mgctl.top import top

            return await top(options)


class Daemon:
    """An open connection to the daemon."""

    def __init__(self, channel: Channel, token: str, pod: str = "") -> None:
        self.address = channel.address
        self.pod = pod
        self._channel = channel
        self._token = token
        self._metadata = [("authorization", token)] if token else []

    async def call(self, method: str, request: Message, response_class: type[Response]) -> Response:
        """Call a method. Raises Failure."""
        try:
            return await self._channel.unary(
                f"{SERVICE}/{method}", request, response_class, metadata=self._metadata, deadline_seconds=CALL_SECONDS
            )
        except RpcError as error:
            raise explained(error, self.address, has_token=bool(self._token)) from None

    async def containers(self) -> pb.GetGpuContainersResponse:
        """Return the containers in sight. Raises Failure."""
        return await self.call("GetGpuContainers", pb.GetGpuContainersRequest(pod_id=self.pod), pb.GetGpuContainersResponse)

    async def devices(self) -> pb.GetDevicesResponse:
        """Return the devices in sight. Raises Failure."""
        return await self.call("GetDevices", pb.GetDevicesRequest(), pb.GetDevicesResponse)

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[Answers[pb.GetGpuContainersResponse]]:
        """Open the stream of snapshots; both responses are the same on the wire. Raises Failure."""
        request, response = pb.StreamGpuContainersRequest(pod_id=self.pod), pb.GetGpuContainersResponse
        try:
            async with self._channel.stream(
                f"{SERVICE}/StreamGpuContainers", request, response, metadata=self._metadata
            ) as answers:
                yield answers
        except RpcError as error:
            raise explained(error, self.address, has_token=bool(self._token)) from None


@asynccontextmanager
async def daemon(options: Options) -> AsyncIterator[Daemon]:
    """Connect to the daemon. Raises Failure."""
    address, token = options.addr or found_address(), read_token(options.token)
    try:
        if options.ca_file and not address.startswith(("unix:", "/")):
            async with channel_over(await _tls_stream(address, options.ca_file), address, authority=address) as channel:
                yield Daemon(channel, token, options.pod)
        else:
            async with open_channel(address) as channel:
                yield Daemon(channel, token, options.pod)
    except Unavailable as error:
        raise explained(error, address, has_token=bool(token)) from None


def found_address() -> str:
    """Return where the daemon is when nobody says: a container's socket, the node's socket, the node's port."""
    for path in (CONTAINER_SOCKET, ADMIN_SOCKET):
        if os.access(path, os.W_OK):
            return f"unix://{path}"
    return NODE_ADDRESS


def read_token(given: str) -> str:
    """Return the token, read from its file if it begins with `@`. Raises Failure."""
    if not given.startswith("@"):
        return given.strip()
    try:
        with open(given[1:], encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is not plain text"
        raise Failure(FAILED, f"the token file {harmless(given[1:])} cannot be read: {cause}") from None


async def _tls_stream(address: str, ca_file: str) -> trio.abc.Stream:
    import ssl

    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise Failure(FAILED, f"the authority file {harmless(ca_file)} cannot be used: {error.strerror or error}") from None
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    try:
        with trio.fail_after(CALL_SECONDS):
            stream = await trio.open_ssl_over_tcp_stream(host.strip("[]"), int(port), ssl_context=context)
            await stream.do_handshake()
            return stream
    except (OSError, ValueError, trio.TooSlowError, trio.BrokenResourceError) as error:
        raise Unavailable(address, f"no TLS connection: {error.__cause__ or error}") from error


def explained(error: RpcError, address: str, *, has_token: bool) -> Failure:
    """Turn a call's error into words: what happened, and the way out. Texts of the server are made harmless."""
    details = harmless(error.details)
    match error.code:
        case Code.UNAVAILABLE | Code.DEADLINE_EXCEEDED if isinstance(error, Unavailable) or "no answer in time" in details:
            return Failure(UNREACHABLE, f"the daemon is not reachable at {harmless(details or address)}\n{_WHERE}")
        case Code.UNAUTHENTICATED if has_token:
            return Failure(FAILED, f"the daemon does not accept this token.\n{_BAD_TOKEN}")
        case Code.UNAUTHENTICATED:
            return Failure(FAILED, f"the daemon needs a token, and none was given.\n{_NO_TOKEN}")
        case Code.PERMISSION_DENIED:
            return Failure(FAILED, f"not allowed: {details}")
        case Code.UNIMPLEMENTED:
            return Failure(FAILED, f"the daemon at {address} does not know this call: {details}\n{_SKEW}")
        case _:
            return Failure(FAILED, f"the daemon refused: {details or error.code.name}")


_WHERE = (
    "Is MortalGPU running on this node? In a container, MG_CTL_ADDR says where it is; elsewhere give --addr host:port or "
    "--addr unix:///path."
)
_NO_TOKEN = "In a container MG_CTL_TOKEN holds one; on the node, be root, or mint one with `mortalgpu token --level l0`."
_BAD_TOKEN = "It may have expired, its key may have been replaced, or its container may have gone: get a new one."
_SKEW = f"Its version differs from this mgctl's ({__version__}); use the mgctl that came with the daemon."


def tell_skew(server_version: str) -> None:
    """Say on standard error that the daemon's version is another one, if the difference may matter."""
    if server_version and server_version.split(".")[:2] != __version__.split(".")[:2]:
        print(f"mgctl: the daemon is version {harmless(server_version)}, this is {__version__}", file=sys.stderr)
