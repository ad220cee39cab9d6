"""The service manager's side: systemd's notification protocol (sd_notify(3), sd_watchdog_enabled(3)), without its library.

The protocol is one datagram of `KEY=value` lines to the Unix socket that the environment names. The socket is opened for
each message: that costs nothing at our rate, survives a manager that made its socket anew, and a connected socket is the
only kind on which the kernel tells when a full queue has room again.

This file reads no environment by itself: the composition root passes it in.
"""

import logging
import os
import socket
from collections.abc import Collection, Mapping

import trio

from mortalgpu.errors import HostError
from mortalgpu.host.base import ServiceManager

_TEXT_LIMIT = 1000
_LONGEST_INTERVAL = 20
"""Digits of the largest number that systemd writes; a longer one is not its."""

_log = logging.getLogger(__name__)


class Unwatched:
    """A `ServiceManager` for a daemon that nobody watches (in a shell, in a container): tells the log instead."""

    @property
    def watchdog_seconds(self) -> float | None:
        """None: nobody watches."""
        return None

    async def ready(self, status: str) -> None:
        """Log it."""
        _log.info("ready", extra={"status": status})
        await trio.lowlevel.checkpoint()

    async def status(self, text: str) -> None:
        """Log it, for those who debug."""
        _log.debug("status", extra={"status": text})
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

    def __init__(self, address: bytes, watchdog_seconds: float | None, patience_seconds: float = 1.0) -> None:
        self._address = address
        self._patience_seconds = patience_seconds
        self._watchdog_seconds = watchdog_seconds
        self._listens = True

    @property
    def watchdog_seconds(self) -> float | None:
        """How long silence may last before systemd restarts us; None: it does not watch."""
        return self._watchdog_seconds

    async def ready(self, status: str) -> None:
        """Send READY=1 and the status."""
        await self._send("READY=1", f"STATUS={_one_line(status)}")

    async def status(self, text: str) -> None:
        """Send the status."""
        await self._send(f"STATUS={_one_line(text)}")

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


def service_manager(environment: Mapping[str, str], pids: Collection[int] | None = None) -> ServiceManager:
    """Return the service manager that the environment names, `Unwatched` when it names none.

    `pids` are the process ids that count as ours in WATCHDOG_PID: by default this process and its parent, since a
    one-file binary runs as the child of its own loader. Raises HostError when the address is not one we can reach.
    """
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return Unwatched()
    if address[0] not in "@/":
        raise HostError(f"NOTIFY_SOCKET: {address!r} is no Unix socket; it must start with / or @ (use Type=exec without it)")
    name = os.fsencode(address)
    return Systemd(
        b"\0" + name[1:] if address[0] == "@" else name,
        _watchdog_seconds(environment, (os.getpid(), os.getppid()) if pids is None else pids),
    )


def _watchdog_seconds(environment: Mapping[str, str], pids: Collection[int]) -> float | None:
    interval, watched = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if watched and watched not in {str(pid) for pid in pids}:
        return None
    is_number = interval.isascii() and interval.isdecimal() and len(interval) <= _LONGEST_INTERVAL
    return int(interval) / 1e6 if is_number and int(interval) > 0 else None


def _one_line(text: str) -> str:
    """A newline would start another field."""
    return " ".join(text[:_TEXT_LIMIT].split())
