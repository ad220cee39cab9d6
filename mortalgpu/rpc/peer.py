"""Who is at the other end of a connection, as the kernel tells it. Judges nobody."""

import os
import socket
import struct
from dataclasses import dataclass

import trio

_SO_PEERPIDFD = 77
"""linux/socket.h, since 6.5: a pidfd of the process that connected, which cannot have been reused."""

_UCRED = struct.Struct("iII")


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end. On a Unix socket, pid, uid and gid are those at connect; pid None: not visible from here.

    `pidfd` belongs to the connection, which closes it: duplicate it to keep it beyond a handler. It is from SO_PEERPIDFD
    where the kernel knows that; on older kernels it was opened by number at accept, so check identity after opening.
    """

    kind: str
    """unix, tcp or other (a stream that is no socket)."""
    address: str
    """For logs and for counting: host of a TCP peer, `uid N` of a Unix one."""
    pid: int | None = None
    uid: int | None = None
    gid: int | None = None
    pidfd: int | None = None

    def close(self) -> None:
        """Give the pidfd back; once."""
        if self.pidfd is not None:
            os.close(self.pidfd)


STRANGER = Peer("other", "")
"""A peer over something that is no socket."""


def peer_of(stream: trio.abc.Stream) -> Peer:
    """Ask the kernel who is at the other end of an accepted stream (TLS is looked through). Opens a descriptor; see `Peer`."""
    transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    if not isinstance(transport, trio.SocketStream):
        return STRANGER
    sock = transport.socket
    if sock.family == socket.AF_UNIX:
        return _unix_peer(sock)
    try:
        return Peer("tcp", str(sock.getpeername()[0]))
    except OSError:
        return Peer("tcp", "gone")


def _unix_peer(sock: trio.socket.SocketType) -> Peer:
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Peer("unix", f"uid {uid}", pid or None, uid, gid, _peer_pidfd(sock, pid))


def _peer_pidfd(sock: trio.socket.SocketType, pid: int) -> int | None:
    try:
        return sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:
        pass
    try:
        return os.pidfd_open(pid) if pid else None
    except OSError:
        return None
