"""Listening: Unix sockets with a file mode and without stealing anybody's path, and TCP. Yields plain Trio listeners."""

import errno
import logging
import math
import os
import socket
import stat
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import trio

from mortalgpu import threads
from mortalgpu.errors import HostError

log = logging.getLogger(__name__)

BACKLOG = 128
MAX_PATH_BYTES = 107
"""sun_path of unix(7), without its final zero."""

NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
"""What accept(2) says when we, or the machine, have no room for another connection."""
NO_ROOM_PAUSE_SECONDS = 0.5
TELL_NO_ROOM_SECONDS = 30.0


class UnhurriedListener(trio.abc.Listener[trio.abc.Stream]):
    """A listener that sits out the times without room for another connection: they pass, and must not fill the log.

    Trio's own server would log a traceback ten times a second for each listener. With `turns`, each client costs one of them,
    which whoever serves it gives back; without a turn nobody is accepted, and clients wait in the kernel's queue.
    """

    def __init__(self, inner: trio.abc.Listener[trio.abc.Stream], turns: trio.Semaphore | None = None) -> None:
        self._inner = inner
        self._turns = turns
        self._tell_at = -math.inf

    async def accept(self) -> trio.abc.Stream:
        """Wait for a client. Raises OSError when the listener is broken."""
        if self._turns is None:
            return await self._accept()
        await self._turns.acquire()
        try:
            return await self._accept()
        except BaseException:
            self._turns.release()
            raise

    async def _accept(self) -> trio.abc.Stream:
        while True:
            try:
                return await self._inner.accept()
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
                self._tell(error)
            await trio.sleep(NO_ROOM_PAUSE_SECONDS)

    def _tell(self, error: OSError) -> None:
        if trio.current_time() >= self._tell_at:
            self._tell_at = trio.current_time() + TELL_NO_ROOM_SECONDS
            log.error("no room for another connection; clients wait", extra={"error": error.strerror})

    async def aclose(self) -> None:
        """Close the listener within."""
        await self._inner.aclose()


class UnixListener(trio.abc.Listener[trio.SocketStream]):
    """A listening Unix socket that knows its file. Closing removes the file, if it still is this socket's."""

    def __init__(self, inner: trio.SocketListener, path: Path, identity: tuple[int, int]) -> None:
        self.path = path
        self._inner = inner
        self._identity = identity

    @classmethod
    async def bind(cls, path: str | Path, *, mode: int = 0o600) -> "UnixListener":
        """Bind and listen at `path`; its file is never more open than `mode`.

        A dead socket's file is replaced. Raises `HostError` when a living server answers there, when something else than a
        socket is there, when the path is longer than 107 bytes, or when the system refuses.
        """
        path = Path(path)
        if len(os.fsencode(path)) > MAX_PATH_BYTES:
            raise HostError(
                f"{path}: a Unix socket's path may have {MAX_PATH_BYTES} bytes, this one has {len(os.fsencode(path))}"
            )
        try:
            await _clear_the_way(path)
            return cls(*_bound(path, mode))
        except OSError as error:
            raise HostError(f"{path}: cannot listen there: {error.strerror or error}") from error

    def is_in_place(self) -> bool:
        """Whether the path still leads to this socket (kubelet sweeps its directory at start). One lstat; may block briefly."""
        return _identity(self.path) == self._identity

    async def accept(self) -> trio.SocketStream:
        """Wait for a client."""
        return await self._inner.accept()

    async def aclose(self) -> None:
        """Close, and remove the file if it is this socket's. Never raises: kubelet may sweep the file away meanwhile."""
        if self.is_in_place():
            with suppress(OSError):
                os.unlink(self.path)
        await self._inner.aclose()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _bound(path: Path, mode: int) -> tuple[trio.SocketListener, Path, tuple[int, int]]:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Linux gives the file the socket's mode, less the umask: it is closed to others from its first moment.
        os.fchmod(sock.fileno(), mode)
        sock.bind(os.fspath(path))
        path.chmod(mode)
        sock.listen(BACKLOG)
        found = path.lstat()
        return trio.SocketListener(trio.socket.from_stdlib_socket(sock)), path, (found.st_dev, found.st_ino)
    except BaseException:
        sock.close()
        raise


async def _clear_the_way(path: Path) -> None:
    """Remove a socket file that nobody answers at. Raises OSError when there is something else."""
    if not _is_socket(path):
        return
    if await _answers(path):
        raise OSError(errno.EADDRINUSE, "another server is listening there", os.fspath(path))
    os.unlink(path)


def _is_socket(path: Path) -> bool:
    """Whether a socket is there; False when nothing is. Raises FileExistsError for anything else."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(found.st_mode):
        raise FileExistsError(errno.EEXIST, "there is a file that is not a socket", os.fspath(path))
    return True


async def _answers(path: Path) -> bool:
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, trio.move_on_after(1):
        try:
            await probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            return False
    # A server that is too busy to answer is alive.
    return True


async def listen_tcp(host: str, port: int) -> Sequence[trio.SocketListener]:
    """Listen on a TCP address; port 0 lets the system choose. Dead clients are noticed by TCP keepalive. Raises `HostError`."""
    try:
        listeners = await threads.patiently(partial(trio.open_tcp_listeners, port, host=host, backlog=BACKLOG))
    except OSError as error:
        raise HostError(f"{host}:{port}: cannot listen there: {error.strerror or error}") from error
    for listener in listeners:
        _keep_alive(listener.socket)
    return listeners


def address_of(listener: trio.SocketListener) -> str:
    """Return where a TCP listener is, in the form that clients take: `host:port`, with an IPv6 host in brackets."""
    host, port = listener.socket.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _keep_alive(sock: trio.socket.SocketType) -> None:
    """Accepted sockets inherit these: a client that vanished is noticed after about two minutes."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
