"""Targets: what callers of the device API present, and the small texts that stand for shares."""

import base64
import json

from mortalgpu.deviceapi import idlist, tokens
from mortalgpu.deviceapi.keys import Keys, KeySettings
from mortalgpu.errors import ConfigError, HostError, Unauthenticated, UnknownMetaDevice
from mortalgpu.sharing import evidence, metaid
from tests.fuzz.target import Target, only, scratch

NOW = 1_700_000_000.0
KEYRING = tokens.Keyring(b"the key in use, thirty-two bytes", b"the key before it, also 32 bytes")
_OLD = tokens.Keyring(KEYRING.previous)
_IDS = tuple(f"GPU-{number // 64}::{number % 64}" for number in range(128))
MINTED = {
    tokens.mint(ring, level, now=NOW, email="who@where", meta_devices=ids, lifetime_seconds=lifetime): level
    for ring in (KEYRING, _OLD)
    for level, ids, lifetime in (("l0", (), None), ("l1", _IDS[:3], None), ("l1", _IDS, 60.0))
}
_SIGNED = {token.rpartition(".")[0]: level for token, level in MINTED.items()}
_FOREIGN = tokens.mint(tokens.Keyring(b"somebody else's key, of 32 bytes"), "l0", now=NOW)
_CLAIMS = (
    {"email": "a@b", "visibilityLevel": "l0", "iat": NOW, "exp": NOW + 60},
    {"email": "a@b", "visibilityLevel": "l1", "metaDevices": list(_IDS[:4]), "nbf": NOW - 5},
    {"visibilityLevel": "l1", "metaDevices": ["GPU-0::0-319,400"]},
)


def _part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def check_token(data: bytes) -> None:
    """Of all texts, only what we signed and have not let expire is a token; and it says what we made it say."""
    for text in (data.decode("latin-1"), _assembled(data)):
        with only(Unauthenticated):
            claims = tokens.judge(text, KEYRING, now=NOW)
            assert _SIGNED[text.rpartition(".")[0]] == claims.level


def _assembled(data: bytes) -> str:
    """A token of a header, a payload and a signature, each as it comes."""
    return ".".join(_part(part) for part in (data.split(b"\xfd") + [b""] * 2)[:3])


def check_claims(data: bytes) -> None:
    """Whatever was signed with our key (by an operator's own program, say): claims of a known form, or a refusal."""
    header = _part(b'{"alg":"HS256","typ":"JWT"}')
    signed = tokens._JWS.encode(data, KEYRING.current, algorithm="HS256")
    assert signed.startswith(header.partition(".")[0][:10])
    with only(Unauthenticated):
        claims = tokens.judge(signed, KEYRING, now=NOW)
        assert claims.level in tokens.LEVELS
        assert claims.email.isprintable()
        assert len(claims.email) <= 128
        assert len(claims.meta_devices) <= idlist.MOST_IDS
        assert claims.expires_at is None or claims.expires_at > NOW


def check_key_file(data: bytes) -> None:
    """A key file that was damaged is refused, or holds a key that cannot be guessed."""
    directory = scratch() / "keys"
    directory.mkdir(exist_ok=True)
    (directory / "device-api.key").write_bytes(data)
    with only(ConfigError, HostError):
        keys = Keys(KeySettings(str(directory)))
        assert len(keys.secrets.keyring.current) >= tokens.MIN_SECRET_BYTES


def check_ids(data: bytes) -> None:
    """A text names one share in one spelling, or none; many are counted as they are named, whoever wrote them."""
    texts = data.decode("utf-8", "replace").split("\n")
    for text in texts:
        with only(UnknownMetaDevice, longest=700):
            assert metaid.format_id(*metaid.parse_id(text)) == text
    with only(UnknownMetaDevice, longest=700):
        found = metaid.numbers_by_device(texts)
        assert sorted(metaid.format_id(uuid, number) for uuid in found for number in found[uuid]) == sorted(texts)
    with only(Unauthenticated):
        ids = idlist.unpack(texts)
        assert len(ids) <= idlist.MOST_IDS
        assert set(idlist.unpack(idlist.pack(ids))) == set(_canonical(ids))
    for uuid, (held, total) in evidence.parse_shares(texts[0]).items():
        assert uuid in texts[0]
        assert 0 < held <= total < 10**9


def _canonical(ids: tuple[str, ...]) -> list[str]:
    """Ids with their numbers written as we write them: only these are ever minted."""
    return [f"{text.rpartition('::')[0]}::{int(text.rpartition('::')[2])}" for text in ids]


TARGETS = (
    Target(
        "token",
        check_token,
        (
            *(token.encode() for token in (*MINTED, _FOREIGN)),
            b'{"alg":"HS256"}\xfd{"visibilityLevel":"l0"}\xfdx',
            b'{"alg":"none"}\xfd{"visibilityLevel":"l0"}\xfd',
            b'{"alg":"HS512","b64":false,"crit":["b64"]}\xfd{}\xfdx',
        ),
        (b".", b"=", b"eyJhbGciOiJub25lIn0", b'"alg":["HS256"]', b'"kid":1', b'{"alg":null}', b"\xfd", b"[" * 3000, b"_-+/"),
        inputs=3000,
    ),
    Target(
        "token-claims",
        check_claims,
        tuple(json.dumps(claims).encode() for claims in _CLAIMS),
        (b"null", b"true", b"-0", b"1e400", b"Infinity", b"NaN", b'"\\ud800"', b"0-999999999", b"::", b"l0", b'["l0"]'),
        inputs=2000,
    ),
    Target(
        "key-file",
        check_key_file,
        (b"0123456789abcdef" * 4 + b"\n", b"topSecret", b"-----BEGIN PUBLIC KEY-----\n", b"", b" \n"),
        (b"\0", b"ssh-rsa AAAA", b"-----BEGIN CERTIFICATE-----"),
        inputs=500,
    ),
    Target(
        "share-ids",
        check_ids,
        (b"GPU-0::0\nGPU-0::1\nMIG-1::319", b"GPU-0=4/320;GPU-1=1/1", b"GPU-0::0-319,400"),
        (b"::", b"-", b",", b"00", b"\xd9\xa3", b"=1/2", b";"),
        inputs=4000,
    ),
)
