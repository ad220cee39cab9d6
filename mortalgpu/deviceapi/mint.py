"""Makes tokens: for containers within Allocate, and for operators on the command line."""

import time
from collections.abc import Callable, Iterable, Sequence

from mortalgpu.deviceapi import tokens
from mortalgpu.deviceapi.keys import Keys
from mortalgpu.deviceapi.succession import Succession
from mortalgpu.errors import ConfigError, Unauthenticated


class Mint:
    """Makes the token of each container that is granted shares, always with the newest key.

    Its clock is the wall clock `now`, which it does not follow back: the time in a token tells which of two is the later one.
    """

    def __init__(
        self,
        keys: Keys,
        succession: Succession,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self._succession = succession
        self._now = now
        self._monotonic = monotonic
        self._latest, self._latest_at = float("-inf"), 0.0
        """The latest moment that a token of ours tells, and when that was by the monotonic clock."""

    def mint_container_token(self, meta_devices: Sequence[str]) -> str:
        """Return the token for the container that is granted these ids. Takes well below a millisecond; never blocks."""
        now = self._moment()
        self._succession.minted(meta_devices, now)
        return tokens.mint_container_token(self._keys.secrets.keyring, meta_devices, now=now)

    def _moment(self) -> float:
        """Return the time, which goes on from where it was when the wall clock was set back."""
        monotonic = self._monotonic()
        moment = max(self._now(), self._latest + monotonic - self._latest_at)
        self._latest, self._latest_at = moment, monotonic
        return moment

    def recall(self, remembered: Iterable[str]) -> None:
        """Learn, after a start, which tokens kubelet remembers having passed to containers: older ones for their ids are dead.

        Texts that are no tokens of ours are passed over.
        """
        keyring, now = self._keys.secrets.keyring, self._now()
        for token in remembered:
            try:
                claims = tokens.judge(token, keyring, now=now)
            except Unauthenticated:
                continue
            if claims.email == tokens.CONTAINER_EMAIL and claims.issued_at is not None:
                self._succession.met(claims.meta_devices, claims.issued_at)
                self._latest, self._latest_at = max(self._latest, claims.issued_at), self._monotonic()


def mint_for_operator(
    keys: Keys,
    level: str,
    *,
    email: str = "",
    meta_devices: Sequence[str] = (),
    lifetime_seconds: float | None = None,
    now: Callable[[], float] = time.time,
) -> str:
    """Return a token that an operator asked for.

    `level` is l0 or l1; an l1 token opens the container that holds `meta_devices`. Raises ConfigError, named after the option
    of `mortalgpu token`, for what cannot be.
    """
    if level not in tokens.LEVELS:
        raise ConfigError("--level", f"{level!r} is no visibility level; give l0 (the node) or l1 (one container)")
    if level == tokens.CONTAINER_LEVEL and not meta_devices:
        raise ConfigError("--meta-device", "is needed for an l1 token: the ids that its container holds, as kubelet lists them")
    if level == tokens.NODE_LEVEL and meta_devices:
        raise ConfigError("--meta-device", "has no meaning for an l0 token, which sees the whole node; leave it out")
    if lifetime_seconds is not None and lifetime_seconds <= 0:
        raise ConfigError("--lifetime", f"{lifetime_seconds:g} s is no lifetime; give more than 0")
    keyring = keys.secrets.keyring
    return tokens.mint(keyring, level, now=now(), email=email, meta_devices=meta_devices, lifetime_seconds=lifetime_seconds)
