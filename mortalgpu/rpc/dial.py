"""Connecting to a server by its address: a Unix socket or a place on the network. Knows nothing of gRPC."""

import socket

import trio

from mortalgpu.rpc.status import Unavailable

CONNECT_SECONDS = 10.0
QUEUE_FULL_SECONDS = 0.005
"""How soon to knock again where a Unix socket's queue is full."""


async def connect(address: str) -> trio.abc.Stream:
    """Connect to `unix:///path`, `unix:/path`, `/path` or `host:port`. Raises `Unavailable`, also after CONNECT_SECONDS."""
    try:
        with trio.fail_after(CONNECT_SECONDS):
            if path := socket_path(address):
                return await _open_socket(path)
            host, port = _host_and_port(address)
            return await trio.open_tcp_stream(host, port)
    except trio.TooSlowError:
        raise Unavailable(address, f"no connection within {CONNECT_SECONDS:g} s") from None
    except (OSError, ValueError) as error:
        # A ValueError tells of a name that cannot be one (a host beyond IDNA, a path with a zero byte).
        raise Unavailable(address, f"cannot connect: {_reason(error)}") from error


async def _open_socket(path: str) -> trio.SocketStream:
    """Connect to a Unix socket, and wait while its server's queue is full: somebody may be filling it without end.

    The kernel says so at once (EAGAIN of connect(2)), and Trio would take that for a connection under way.
    """
    await trio.lowlevel.checkpoint()
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.connect(path)
            return trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        except BlockingIOError:
            sock.close()
        except BaseException:
            sock.close()
            raise
        await trio.sleep(QUEUE_FULL_SECONDS)


def _reason(error: Exception) -> str:
    """The system's words; Trio hides them in a group with one error for each address it tried."""
    tried = error.__cause__.exceptions if isinstance(error.__cause__, ExceptionGroup) else [error]
    return ", ".join(sorted({getattr(one, "strerror", None) or str(one) for one in tried}))


def socket_path(address: str) -> str | None:
    """Return the path in an address of a Unix socket; None in one of the network."""
    if address.startswith("/"):
        return address
    return "/" + address.removeprefix("unix:").lstrip("/") if address.startswith("unix:") else None


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        raise Unavailable(address, "the address must be unix:///path, /path or host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)
