"""Tokens of the device API: what they claim, how they are signed, and how one is judged.

Rules:
1. HMAC with SHA-2 only; the key decides, never what a token says of itself.
2. Two keys are valid at once: new tokens are signed with the first, old ones may carry the second (rotation).
3. A container's token names the meta-device ids of one Allocate and has no end: it dies with the container's grant. Its time
   tells no more than which of two is the later one: it may be of the future where the clock was set back since.
4. Why a token is refused goes to our log; the error text here is for that log only and never holds a part of the token.
5. Keys and tokens that the ancestors published are refused, whoever configures them.

Time is an argument. This module knows no files and no callers; whom the ids belong to is decided in identity.
"""

import hmac
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jwt.algorithms import HMACAlgorithm
from jwt.api_jws import PyJWS
from jwt.exceptions import PyJWTError

from mortalgpu.deviceapi import idlist
from mortalgpu.errors import ConfigError, Unauthenticated

NODE_LEVEL = "l0"
CONTAINER_LEVEL = "l1"
LEVELS = (NODE_LEVEL, CONTAINER_LEVEL)

LEEWAY_SECONDS = 10.0
"""How far the minting machine's clock may be ahead of ours. The end of a token has no leeway: it ends when it says."""
MIN_SECRET_BYTES = 16
LONGEST_TOKEN = 15 * 1024
"""Characters; with the other headers of a call it must stay below 16 KiB. A token for 100 ids has about 6,500."""

_SPELLING = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
"""Three parts in base64url, without padding (RFC 7515); the library would pass over whatever else stands in the signature."""
_LATEST_SECONDS = 1e12
"""Beyond any date that is meant; also stops infinities and what is no number."""
_SIGNING = "HS256"
_ACCEPTED = ("HS256", "HS384", "HS512")
_PUBLISHED_SECRETS = (b"topSecret",)
CONTAINER_EMAIL = "container@mortalgpu"
"""Who a token says it is for when Allocate made it."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a genuine token says. Times are seconds since the epoch."""

    level: str
    email: str = ""
    meta_devices: tuple[str, ...] = ()
    issued_at: float | None = None
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys tokens are signed with: the one in use, and the one before it, empty when there is none."""

    current: bytes = field(repr=False)
    previous: bytes = field(default=b"", repr=False)

    @property
    def valid(self) -> tuple[bytes, ...]:
        """The keys a token may be signed with."""
        return (self.current, self.previous) if self.previous else (self.current,)


def check_secret(name: str, secret: bytes) -> None:
    """Refuse a key that anybody can know or guess. Raises ConfigError naming the configuration key `name`."""
    if secret.strip() in _PUBLISHED_SECRETS:
        raise ConfigError(name, "is the key that MetaGPU published as its default; everybody knows it: make a random one")
    if len(secret) < MIN_SECRET_BYTES:
        raise ConfigError(
            name, f"has {len(secret)} bytes, which can be guessed; give at least {MIN_SECRET_BYTES} random ones, better 32"
        )
    try:
        _JWS.get_algorithm_by_name(_SIGNING).prepare_key(secret)
    except PyJWTError:
        raise ConfigError(name, "is a key pair or certificate, not a shared secret; give random bytes") from None


def check_static_token(name: str, token: str) -> None:
    """Refuse a static token that the ancestors published or that is too short. Raises ConfigError naming `name`."""
    if len(token) < MIN_SECRET_BYTES:
        raise ConfigError(name, f"has {len(token)} characters, which can be guessed; give at least {MIN_SECRET_BYTES}")
    if any(_payload(token, secret) is not None for secret in _PUBLISHED_SECRETS):
        raise ConfigError(name, "is signed with the key that MetaGPU published as its default; mint one with mortalgpu token")


def mint(
    keyring: Keyring,
    level: str,
    *,
    now: float,
    email: str = "",
    meta_devices: Sequence[str] = (),
    lifetime_seconds: float | None = None,
) -> str:
    """Return a signed token. `lifetime_seconds` None: it does not expire by itself. Never blocks."""
    claims: dict[str, object] = {"email": email, "visibilityLevel": level, "iat": round(now, 3)}
    if meta_devices:
        claims["metaDevices"] = idlist.pack(meta_devices)
    if lifetime_seconds is not None:
        claims["exp"] = math.ceil(now + lifetime_seconds)
    return _JWS.encode(json.dumps(claims, separators=(",", ":")).encode(), keyring.current, algorithm=_SIGNING)


def mint_container_token(keyring: Keyring, meta_devices: Sequence[str], *, now: float) -> str:
    """Return the token of the container that is granted these ids. Called within Allocate: well below a millisecond."""
    return mint(keyring, CONTAINER_LEVEL, now=now, email=CONTAINER_EMAIL, meta_devices=meta_devices)


def judge(token: str, keyring: Keyring, *, now: float) -> Claims:
    """Return what a genuine, current token claims. Raises Unauthenticated with the reason, for the log only."""
    if len(token) > LONGEST_TOKEN:
        raise Unauthenticated("token is too long")
    if not _SPELLING.fullmatch(token):
        raise Unauthenticated("token is not spelt as tokens are")
    for secret in keyring.valid:
        payload = _payload(token, secret)
        if payload is not None:
            return _claims(payload, now)
    raise Unauthenticated("token is signed with none of our keys")


def is_ours(token: str, keyring: Keyring) -> bool:
    """Whether a token carries a signature of ours, whatever it claims."""
    return len(token) <= LONGEST_TOKEN and any(_payload(token, secret) is not None for secret in keyring.valid)


def same_secret(left: str, right: str) -> bool:
    """Whether two secrets are equal, in a time that does not tell where they differ. Empty ones never are."""
    return bool(left) and hmac.compare_digest(left.encode("utf-8", "replace"), right.encode("utf-8", "replace"))


class _AnyLengthHmac(HMACAlgorithm):
    """The library's HMAC without its warning about short keys: check_secret has judged them at the start."""

    def check_key_length(self, key: Any) -> None:
        """Say nothing."""


def _signer() -> PyJWS:
    signer = PyJWS(algorithms=[])
    for name, digest in zip(_ACCEPTED, (HMACAlgorithm.SHA256, HMACAlgorithm.SHA384, HMACAlgorithm.SHA512), strict=True):
        signer.register_algorithm(name, _AnyLengthHmac(digest))
    return signer


_JWS = _signer()


def _payload(token: str, secret: bytes) -> bytes | None:
    """Return what `secret` has signed, or None. The signature is compared in constant time, by the library."""
    try:
        payload = _JWS.decode(token, secret, algorithms=list(_ACCEPTED))
    except (PyJWTError, ValueError):
        return None
    return payload if isinstance(payload, bytes) else None


def _claims(payload: bytes, now: float) -> Claims:
    try:
        fields = json.loads(payload)
    except (ValueError, RecursionError):
        raise Unauthenticated("token's payload is not JSON") from None
    if not isinstance(fields, dict):
        raise Unauthenticated("token's payload is not an object")
    issued_at, expires_at, not_before = (_time(fields, name) for name in ("iat", "exp", "nbf"))
    level, email = fields.get("visibilityLevel"), _email(fields)
    if level not in LEVELS:
        raise Unauthenticated("token names no visibility level that exists")
    if expires_at is not None and now >= expires_at:
        raise Unauthenticated("token has expired")
    begins_at = (
        not_before if level == CONTAINER_LEVEL and email == CONTAINER_EMAIL else max(issued_at or 0.0, not_before or 0.0)
    )
    if (begins_at or 0.0) > now + LEEWAY_SECONDS:
        raise Unauthenticated("token is from the future")
    return Claims(level, email, idlist.unpack(fields.get("metaDevices", ())), issued_at, expires_at)


def _time(fields: Mapping[str, object], name: str) -> float | None:
    if name not in fields:
        return None
    value = fields[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < _LATEST_SECONDS:
        raise Unauthenticated(f"token's {name} is not a time")
    return float(value)


def _email(fields: Mapping[str, object]) -> str:
    """Who the token was made for: shown in our log, so one short printable line."""
    email = fields.get("email", "")
    return "".join(char for char in email[:128] if char.isprintable()) if isinstance(email, str) else ""
