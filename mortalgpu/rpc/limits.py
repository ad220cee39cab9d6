"""How much a server grants: sizes, counts and times; and the budget that ends connections which only make work."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from mortalgpu.rpc.status import Code


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server grants. The defaults suit a listener on the network; kubelet's sockets need more room and no impatience.

    The most memory one connection can make us hold: for each of its max_streams the larger of 64 KiB and twice
    max_message_bytes, and a quarter of a MiB of answers not yet taken; with the defaults 1.3 MiB, 160 MiB for all.
    """

    max_message_bytes: int = 2**14
    """Of one request. kubelet's GetPreferredAllocation carries all free ids: give its socket 16 MiB."""
    max_streams: int = 16
    """Calls at a time on one connection; more are refused."""
    max_connections: int = 128
    """At a time on all listeners. One more takes the place of the one that idles longest, or, when all are busy, of one of the
    peer that has the most; it is closed when its own peer has as many."""
    max_connections_per_peer: int = 32
    """The same, among those from one address, or of one user on a Unix socket."""
    calls_per_second: float = 500.0
    """That one address may begin, refused ones included, on all of its connections together; who is faster waits."""
    piece_bytes: int = 1024
    """Read at a time, before other connections have their turn; kubelet's long lists are read faster by large pieces."""
    max_header_bytes: int = 16384
    """Of a request's metadata, as HTTP/2 counts it; four times as much ends the connection."""
    unary_seconds: float = 5.0
    """Until a unary call is answered, and until a stream's request has arrived."""
    handshake_seconds: float | None = 10.0
    """Until a new connection has spoken HTTP/2."""
    idle_seconds: float | None = 300.0
    """How long a connection may stay without a call."""
    stall_seconds: float | None = 30.0
    """How long a client may refuse to take what waits for it."""


KUBELET_LIMITS = Limits(
    max_message_bytes=2**24,
    max_streams=100,
    calls_per_second=math.inf,
    piece_bytes=2**15,
    idle_seconds=None,
    stall_seconds=None,
)
"""For sockets that only kubelet (root) can reach: it may pause as long as it likes and must find us when it wakes."""


@dataclass(frozen=True, slots=True)
class CallRecord:
    """How one call went, for metrics."""

    method: str
    code: Code
    seconds: float


Observer = Callable[[CallRecord], None]
"""Called once for each call that ended; must not block or raise."""


class Budget:
    """Pays for frames that carry nothing: a start sum, so much a second, more for each finished call. Resets cost extra."""

    START = 5000.0
    PER_SECOND = 500.0
    PER_CALL = 20.0
    RESET_COST = 10.0

    def __init__(self) -> None:
        self._left = self.START
        self._frames = 0
        self._time: float | None = None

    def note_call(self) -> None:
        """A call was carried out."""
        self._left = min(self.START, self._left + self.PER_CALL)

    def note_reset(self) -> None:
        """A call was broken off by the client."""
        self._left -= self.RESET_COST + self.PER_CALL

    def covers(self, small_frames: int, now: float) -> bool:
        """Pay for all frames up to the `small_frames`th at time `now`; False when the budget is used up."""
        earned = self.PER_SECOND * (now - self._time) if self._time is not None else 0.0
        self._left = min(self.START, self._left + earned) - (small_frames - self._frames)
        self._frames, self._time = small_frames, now
        return self._left >= 0
