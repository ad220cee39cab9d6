"""Tells the log why callers were refused, and no more often than a reader can bear: anybody on the network can make these."""

import logging

import trio

from mortalgpu.errors import AccessError
from mortalgpu.rpc.status import Refusal

log = logging.getLogger(__name__)

LINES = 20
PER_SECONDS = 60.0


class Refusals:
    """Writes a refusal to the log, up to LINES within PER_SECONDS; of the rest it tells the number."""

    def __init__(self) -> None:
        self._period_ends = 0.0
        self._written = 0
        self._kept_back = 0

    def note(self, method: str, peer: str, error: AccessError | Refusal) -> None:
        """Tell of one refusal; never blocks. The error's text never holds a part of a token."""
        now = trio.current_time()
        if now >= self._period_ends:
            if self._kept_back:
                log.warning("more callers refused", extra={"count": self._kept_back})
            self._period_ends, self._written, self._kept_back = now + PER_SECONDS, 0, 0
        if self._written >= LINES:
            self._kept_back += 1
            return
        self._written += 1
        log.warning("caller refused", extra={"method": method, "peer": peer, "reason": str(error)})
