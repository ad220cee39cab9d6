"""The service manager's side: systemd's notification protocol (sd_notify(3)), without its library.

The protocol is one datagram of `KEY=value` lines to the Unix socket that the environment names. The socket is opened for
each message: that costs nothing at our rate, survives a manager that made its socket anew, and a connected socket is the
only kind on which the kernel tells when a full queue has room again.

This file reads no environment by itself: the composition root passes it in.
"""

import logging
import os
import socket
from collections.abc import Mapping

import trio

from mortalgpu.errors import HostError
from mortalgpu.host.base import ServiceManager

_TEXT_LIMIT = 1000

_log = logging.getLogger(__name__)


class Unwatched:
    """A `ServiceManager` for a daemon that nobody watches (in a shell, in a container): tells the log instead."""

    async def ready(self, status: str) -> None:
        """Log it."""
        _log.info("ready", extra={"status": status})
        await trio.lowlevel.checkpoint()

    async def alive(self) -> None:
        """Pass a checkpoint."""
        await trio.lowlevel.checkpoint()

    async def stopping(self, reason: str) -> None:
        """Log it."""
        _log.info("stopping", extra={"reason": reason})
        await trio.lowlevel.checkpoint()


class Systemd:
    """A `ServiceManager` on systemd's notification socket. A message that cannot be delivered is logged and dropped."""

    def __init__(self, address: bytes, patience_seconds: float = 1.0) -> None:
        self._address = address
        self._patience_seconds = patience_seconds
        self._listens = True

    async def ready(self, status: str) -> None:
        """Send READY=1 and the status."""
        await self._send("READY=1", f"STATUS={_one_line(status)}")

    async def alive(self) -> None:
        """Send WATCHDOG=1."""
        await self._send("WATCHDOG=1")

    async def stopping(self, reason: str) -> None:
        """Send STOPPING=1 and the reason as status."""
        await self._send("STOPPING=1", f"STATUS={_one_line(reason)}")

    async def _send(self, *lines: str) -> None:
        problem = "its queue is full"
        with trio.move_on_after(self._patience_seconds):
            try:
                with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
                    await notify.connect(self._address)
                    await notify.send("\n".join(lines).encode(errors="replace"))
                self._listens = True
                return
            except OSError as error:
                problem = str(error)
        if self._listens:
            # Once, not at every watchdog ping: a manager that is deaf stays so for a while.
            _log.warning("service manager cannot be told", extra={"cause": problem})
        self._listens = False


def service_manager(environment: Mapping[str, str]) -> ServiceManager:
    """Return the service manager that the environment names, `Unwatched` when it names none.

    It is given signs of life whether it watches or not: that costs nothing, and it ignores them. Raises HostError when the
    address is not one we can reach.
    """
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return Unwatched()
    if address[0] not in "@/":
        raise HostError(f"NOTIFY_SOCKET: {address!r} is no Unix socket; it must start with / or @ (use Type=exec without it)")
    name = os.fsencode(address)
    return Systemd(b"\0" + name[1:] if address[0] == "@" else name)


def _one_line(text: str) -> str:
    """A newline would start another field."""
    return " ".join(text[:_TEXT_LIMIT].split())
