"""`mgctl top`: the live view. On a terminal it takes the screen and gives it back; elsewhere it prints plain text."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from mortalgpu.mgctl import screen
from mortalgpu.mgctl.arguments import Options
from mortalgpu.mgctl.client import Daemon, Failure
from mortalgpu.mgctl.codes import DONE, UNREACHABLE
from mortalgpu.mgctl.follow import follow
from mortalgpu.mgctl.get import Watch
from mortalgpu.mgctl.text import PLAIN
from mortalgpu.mgctl.topview import ASCII, BLOCKS, View
from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb

LIVE_GAP_SECONDS = 0.25
PLAIN_GAP_SECONDS = 0.9
"""Pictures come no oftener than this, however fast the facts change."""

PLAIN_WIDTH = 80

_TAKE_SCREEN = "\x1b[?1049h\x1b[?25l\x1b[2J"
_GIVE_BACK = "\x1b[?25h\x1b[?1049l"
_LOST = "the daemon is not reachable; trying again"


async def top(options: Options) -> int:
    """Show pictures until `q`, or until `--count` were shown. Raises Failure."""
    if options.output != "table":
        await follow(options, Watch(options).show)
        return DONE
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    pictures = _Pictures(options, View(BLOCKS if encoding.startswith("utf") else ASCII), live=screen.is_terminal())
    if not pictures.live:
        await follow(options, pictures.show)
        return DONE
    with _screen_taken():
        await _until_q(pictures, options)
    return DONE


async def _until_q(pictures: "_Pictures", options: Options) -> None:
    failure: Failure | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_wait_for_q, nursery.cancel_scope)
        try:
            await follow(options, pictures.show, pictures.lost)
        except Failure as error:
            # Told when the screen is given back, and without the group that a nursery makes of it.
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


class _Pictures:
    """Draws snapshots on the terminal, or prints them."""

    def __init__(self, options: Options, view: View, *, live: bool) -> None:
        self.live = live
        self._options = options
        self._view = view
        self._shown = 0
        self._last = float("-inf")
        self._drawn: tuple[pb.GetGpuContainersResponse, list[pb.Device]] | None = None

    async def show(self, daemon: Daemon, snapshot: pb.GetGpuContainersResponse) -> bool:
        """Draw one picture, unless the last one is too fresh."""
        gap = LIVE_GAP_SECONDS if self.live else PLAIN_GAP_SECONDS
        if trio.current_time() - self._last < gap:
            return False
        self._last = trio.current_time()
        self._drawn = snapshot, await _devices(daemon, snapshot)
        self._draw("")
        self._shown += 1
        return self._shown == self._options.count

    def lost(self) -> None:
        """Say over the last picture that there is no newer one."""
        self._draw(_LOST)

    def _draw(self, remark: str) -> None:
        if self._drawn is None:
            return
        columns = screen.size()[0] if self.live else PLAIN_WIDTH
        paint = screen.paint() if self.live else PLAIN
        now, clock = trio.current_time(), time.strftime("%H:%M:%S")
        lines = self._view.draw(*self._drawn, paint, now=now, clock=clock, width=columns, remark=remark)
        if self.live:
            screen.redraw(lines)
        else:
            screen.show(["", *lines] if self._shown else lines)


async def _devices(daemon: Daemon, snapshot: pb.GetGpuContainersResponse) -> list[pb.Device]:
    """Return the devices in sight; for a caller that may not ask for them, those that its containers hold."""
    try:
        return list((await daemon.devices()).device.values())
    except Failure as failure:
        if failure.code == UNREACHABLE:
            raise
    held = (device.device for container in snapshot.gpu_containers for device in container.container_devices)
    return list({device.uuid: device for device in held}.values())


async def _wait_for_q(scope: trio.CancelScope) -> None:
    """Cancel when `q` is typed; for ever if nobody can type."""
    if not sys.stdin.isatty():
        return
    while True:
        await trio.lowlevel.wait_readable(sys.stdin.fileno())
        typed = os.read(sys.stdin.fileno(), 64)
        if not typed or b"q" in typed.lower():
            scope.cancel()
            return


@contextmanager
def _screen_taken() -> Iterator[None]:
    """Take the terminal's other screen, and read keys at once; give everything back at the end."""
    import termios
    import tty

    keyboard = sys.stdin.fileno() if sys.stdin.isatty() else None
    before = termios.tcgetattr(keyboard) if keyboard is not None else None
    try:
        if keyboard is not None:
            tty.setcbreak(keyboard)
        sys.stdout.write(_TAKE_SCREEN)
        yield
    finally:
        sys.stdout.write(_GIVE_BACK)
        sys.stdout.flush()
        if keyboard is not None and before is not None:
            termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
