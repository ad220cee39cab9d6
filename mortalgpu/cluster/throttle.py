"""Which notes are worth an Event: a pod that is killed again and again must not flood the API server.

Rules, all pure (the time is an argument):
1. Each (object, reason) has a purse of `burst` Events that refills by one every `refill_seconds`.
2. The same text again within `fold_seconds` is folded: counted, and told with the next Event that passes.
3. What an empty purse refuses is folded in the same way; nothing is forgotten but the least recently used keys.
4. A purse that is full again and has nothing to tell is as good as a new one, and is dropped: pods come and go.
"""

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(slots=True)
class _Purse:
    left: float
    filled_at: float
    text: str = ""
    told_at: float = 0.0
    folded: int = 0


class Throttle:
    """Remembers what was told about at most `keys` objects. Times are seconds of any clock that does not run backwards."""

    def __init__(self, burst: int = 5, refill_seconds: float = 10.0, fold_seconds: float = 60.0, keys: int = 1024) -> None:
        self._burst = burst
        self._refill_seconds = refill_seconds
        self._fold_seconds = fold_seconds
        self._keys = keys
        self._full_seconds = max(burst * refill_seconds, fold_seconds)
        self._purses: OrderedDict[tuple[str, str], _Purse] = OrderedDict()

    def __len__(self) -> int:
        """How many objects, each with a reason, are remembered."""
        return len(self._purses)

    def admit(self, about: str, reason: str, text: str, now: float) -> int | None:
        """Return how often this has happened since the last Event (1 or more) if one may go out now, else None."""
        purse = self._purse(about, reason, now)
        repeats = purse.text == text and now - purse.told_at < self._fold_seconds
        if repeats or purse.left < 1:
            purse.folded += 1
            return None
        count = purse.folded + 1
        purse.left, purse.text, purse.told_at, purse.folded = purse.left - 1, text, now, 0
        return count

    def _purse(self, about: str, reason: str, now: float) -> _Purse:
        self._drop_full(now)
        purse = self._purses.setdefault((about, reason), _Purse(float(self._burst), now))
        purse.left = min(float(self._burst), purse.left + (now - purse.filled_at) / self._refill_seconds)
        purse.filled_at = now
        self._purses.move_to_end((about, reason))
        if len(self._purses) > self._keys:
            self._purses.popitem(last=False)
        return purse

    def _drop_full(self, now: float) -> None:
        """Drop the purses that are as good as new (rule 4), the least recently used first."""
        while self._purses:
            purse = next(iter(self._purses.values()))
            if purse.folded or now - purse.filled_at < self._full_seconds:
                return
            self._purses.popitem(last=False)
