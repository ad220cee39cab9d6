"""Tokens: genuine ones are believed, everything else is refused, and nothing of them is told."""

import base64
import hashlib
import hmac
import json
import time

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mortalgpu.deviceapi import idlist, tokens
from mortalgpu.deviceapi.tokens import Keyring
from mortalgpu.errors import ConfigError, Unauthenticated

KEY = b"0123456789abcdef0123456789abcdef"
OLD_KEY = b"fedcba9876543210fedcba9876543210"
RING = Keyring(KEY, OLD_KEY)
NOW = 1_700_000_000.0
IDS = ("GPU-a::0", "GPU-a::1", "GPU-b::7")


def signed(claims: object, key: bytes = KEY, *, alg: str = "HS256", digest: str = "sha256") -> str:
    """A token made by hand, with whatever claims and header."""
    parts = [json.dumps({"alg": alg, "typ": "JWT"}).encode(), json.dumps(claims).encode()]
    text = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    signature = hmac.new(key, text, digest).digest()
    return (text + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def test_a_minted_container_token_tells_its_ids_and_never_expires() -> None:
    token = tokens.mint_container_token(RING, IDS, now=NOW)
    claims = tokens.judge(token, RING, now=NOW + 10**8)
    assert (claims.level, claims.meta_devices, claims.issued_at, claims.expires_at) == ("l1", IDS, NOW, None)


def test_other_libraries_read_our_tokens_and_we_theirs() -> None:
    ours = tokens.mint(RING, "l0", now=time.time(), email="x@y", lifetime_seconds=60)
    assert jwt.decode(ours, KEY, algorithms=["HS256"])["visibilityLevel"] == "l0"
    theirs = jwt.encode({"email": "metagpu@instance", "visibilityLevel": "l0"}, KEY, algorithm="HS256")
    assert tokens.judge(theirs, RING, now=NOW) == tokens.Claims("l0", "metagpu@instance")


@pytest.mark.parametrize("digest", ["256", "384", "512"])
def test_every_sha2_digest_is_accepted(digest: str) -> None:
    assert tokens.judge(signed(GOOD, alg=f"HS{digest}", digest=f"sha{digest}"), RING, now=NOW).level == "l0"


def test_a_token_signed_with_the_previous_key_is_still_believed() -> None:
    token = tokens.mint(Keyring(OLD_KEY), "l0", now=NOW)
    assert tokens.judge(token, RING, now=NOW).level == "l0"
    assert tokens.is_ours(token, RING)
    assert not tokens.is_ours(token, Keyring(KEY))


GOOD = {"visibilityLevel": "l0", "email": "e"}
REFUSED = {
    "no token at all": "",
    "a word": "secret",
    "three empty parts": "..",
    "unsigned": signed(GOOD, alg="none"),
    "unsigned and without a signature": signed(GOOD, alg="none").rpartition(".")[0] + ".",
    "another key": signed(GOOD, b"another key that is long enough!"),
    "an empty key": signed(GOOD, b""),
    "a name of an algorithm that is not HMAC": signed(GOOD, alg="RS256"),
    "an algorithm in small letters": signed(GOOD, alg="hs256"),
    "a digest shorter than the header says": signed(GOOD, alg="HS512"),
    "MD5": signed(GOOD, alg="HS256", digest="md5"),
    "expired": signed({**GOOD, "exp": NOW - 11}),
    "expired as a text": signed({**GOOD, "exp": str(NOW + 100)}),
    "an end that is infinite": signed({**GOOD, "exp": float("inf")}),
    "an end that is no number": signed({**GOOD, "exp": float("nan")}),
    "an end of a thousand digits": signed({**GOOD, "exp": 10**1000}),
    "an end that is true": signed({**GOOD, "exp": True}),
    "issued at true": signed({**GOOD, "iat": True}),
    "issued in the future": signed({**GOOD, "iat": NOW + 11}),
    "not yet valid": signed({**GOOD, "nbf": NOW + 11}),
    "no level": signed({"email": "e"}),
    "a level that does not exist": signed({"visibilityLevel": "l2"}),
    "a level that is a list": signed({"visibilityLevel": ["l0"]}),
    "a payload that is a list": signed(["l0"]),
    "a payload that is a number": signed(7),
    "ids that are a text": signed({**GOOD, "metaDevices": "GPU-a::0"}),
    "ids that are numbers": signed({**GOOD, "metaDevices": [1]}),
    "ids without a device": signed({**GOOD, "metaDevices": ["::1"]}),
    "a range without an end": signed({**GOOD, "metaDevices": ["GPU-a::0-999999999"]}),
    "too long": signed({**GOOD, "email": "x" * 20_000}),
    "not ASCII": "é.é.é",
    "half a surrogate": "\ud800.a.b",
}


def test_a_containers_token_outlives_a_clock_that_is_set_back() -> None:
    token = tokens.mint_container_token(RING, ("GPU-a::0",), now=NOW + 86400)
    assert tokens.judge(token, RING, now=NOW).issued_at == NOW + 86400


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_token_is_refused_and_not_repeated(name: str) -> None:
    token = REFUSED[name]
    with pytest.raises(Unauthenticated) as raised:
        tokens.judge(token, RING, now=NOW)
    assert len(str(raised.value)) < 100
    assert not token or token not in str(raised.value)


def test_the_minting_clock_may_be_ahead_by_the_leeway() -> None:
    for times in ({"iat": NOW + 9}, {"nbf": NOW + 9}):
        assert tokens.judge(signed({**GOOD, **times}), RING, now=NOW).level == "l0"


def test_a_token_ends_when_it_says() -> None:
    assert tokens.judge(signed({**GOOD, "exp": NOW + 1}), RING, now=NOW).level == "l0"
    for end in (NOW, NOW - 1):
        with pytest.raises(Unauthenticated, match="expired"):
            tokens.judge(signed({**GOOD, "exp": end}), RING, now=NOW)


@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
def test_a_time_that_is_given_but_is_none_is_refused(name: str) -> None:
    with pytest.raises(Unauthenticated, match=f"{name} is not a time"):
        tokens.judge(signed({**GOOD, name: None}), RING, now=NOW)


@given(st.text(max_size=200), st.text(max_size=60))
def test_no_text_makes_judging_fail_in_another_way(head: str, tail: str) -> None:
    with pytest.raises(Unauthenticated):
        tokens.judge(f"{head}.{tail}.x", RING, now=NOW)


@given(st.integers(0, 2**31), st.integers(1, 255))
def test_no_changed_byte_of_a_token_goes_unseen(place: int, change: int) -> None:
    token = bytearray(tokens.mint(RING, "l1", now=NOW, meta_devices=IDS).encode())
    token[place % len(token)] ^= change
    with pytest.raises(Unauthenticated):
        tokens.judge(token.decode("latin-1"), RING, now=NOW)


def test_keys_and_claims_do_not_show_in_reprs() -> None:
    assert "0123456789" not in repr(RING)


@pytest.mark.parametrize(
    "secret", [b"topSecret", b"topSecret\n", b"", b"short", b"-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----"]
)
def test_a_key_that_is_known_guessable_or_public_is_refused(secret: bytes) -> None:
    with pytest.raises(ConfigError, match=r"^config\.grpcSecurity\.jwtSecret: ") as raised:
        tokens.check_secret("config.grpcSecurity.jwtSecret", secret)
    assert len(secret) < 6 or secret.decode().strip() not in str(raised.value)


def test_the_published_key_is_called_by_its_name() -> None:
    with pytest.raises(ConfigError, match="published"):
        tokens.check_secret("config.grpcSecurity.jwtSecret", b"topSecret\n")


def test_a_static_token_signed_with_the_published_key_is_refused() -> None:
    token = signed({"email": "metagpu@instance", "visibilityLevel": "l0"}, b"topSecret")
    with pytest.raises(ConfigError, match="published"):
        tokens.check_static_token("config.grpcSecurity.deviceToken", token)
    with pytest.raises(ConfigError, match="guessed"):
        tokens.check_static_token("config.grpcSecurity.deviceToken", "abc")


def test_a_key_between_the_least_and_the_advised_length_works_without_a_warning() -> None:
    ring = Keyring(b"sixteen bytes ok")
    tokens.check_secret("x", ring.current)
    assert tokens.judge(tokens.mint(ring, "l0", now=NOW), ring, now=NOW).level == "l0"


def test_secrets_compare_equal_only_when_there_is_one() -> None:
    assert tokens.same_secret("abc", "abc")
    assert not tokens.same_secret("abc", "abd")
    assert not tokens.same_secret("", "")
    assert not tokens.same_secret("\ud800", "abc")


def test_minting_for_forty_shares_takes_well_below_a_millisecond() -> None:
    ids = tuple(f"GPU-11111111-aaaa-4bbb-8ccc-000000000001::{number}" for number in range(40))
    tokens.mint_container_token(RING, ids, now=NOW)
    took = []
    for _ in range(50):
        began = time.perf_counter()
        tokens.mint_container_token(RING, ids, now=NOW)
        took.append(time.perf_counter() - began)
    assert sorted(took)[25] < 0.0005


@given(st.sets(st.tuples(st.sampled_from(["GPU-a", "MIG-b"]), st.integers(0, 5000)), max_size=400))
def test_ids_survive_packing_in_any_number(pairs: set[tuple[str, int]]) -> None:
    ids = [f"{uuid}::{number}" for uuid, number in pairs]
    packed = idlist.pack(ids)
    assert set(idlist.unpack(packed)) == set(ids)
    assert packed == ids or len(ids) > idlist.MOST_PLAIN


def test_many_ids_make_a_small_token() -> None:
    ids = [f"GPU-11111111-aaaa-4bbb-8ccc-000000000001::{number}" for number in range(0, 2000, 2)]
    token = tokens.mint_container_token(RING, ids, now=NOW)
    assert len(token) < 8000
    assert set(tokens.judge(token, RING, now=NOW).meta_devices) == set(ids)


def test_signatures_are_plain_hmac_so_that_others_can_check_them() -> None:
    head, payload, signature = tokens.mint(RING, "l0", now=NOW).split(".")
    expected = hmac.new(KEY, f"{head}.{payload}".encode(), hashlib.sha256).digest()
    assert base64.urlsafe_b64decode(signature + "=") == expected
