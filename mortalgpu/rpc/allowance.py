"""How fast one peer may begin calls, over all of its connections: who is faster waits, and nobody else does.

A call costs a good part of a millisecond before it is known to be worth anything, refused ones too. Without a bound one peer
could keep the only thread busy, on which the others, kubelet and the enforcer depend as well.
"""

from collections import OrderedDict

import trio

MOST_PEERS = 1024


class Allowance:
    """A purse of `per_second` calls, which fills again in one second. An infinite one never makes anybody wait."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._left = per_second
        self._at = trio.current_time()

    async def pay(self, calls: int) -> None:
        """Pay for calls that were begun, and wait until they are paid for. A checkpoint only if it waits."""
        now = trio.current_time()
        self._left = min(self._per_second, self._left + self._per_second * (now - self._at)) - calls
        self._at = now
        if self._left < 0:
            await trio.sleep(-self._left / self._per_second)


class Allowances:
    """The purse of each peer, by its address; that of the peer heard of longest ago is forgotten when there are too many."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._purses: OrderedDict[str, Allowance] = OrderedDict()

    def of(self, address: str) -> Allowance:
        """Return the purse that all connections from an address share."""
        if address not in self._purses:
            self._purses[address] = Allowance(self._per_second)
        self._purses.move_to_end(address)
        if len(self._purses) > MOST_PEERS:
            self._purses.popitem(last=False)
        return self._purses[address]
