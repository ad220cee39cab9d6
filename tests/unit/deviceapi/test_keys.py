"""Keys: made once, kept closed, read again when they change, and never told."""

import logging
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from mortalgpu.deviceapi import keys, tokens
from mortalgpu.deviceapi.keys import Keys, KeySettings, SecretSource
from mortalgpu.deviceapi.mint import Mint, mint_for_operator
from mortalgpu.deviceapi.succession import Succession
from mortalgpu.errors import ConfigError, HostError, Unauthenticated

NOW = 1_700_000_000.0
SECRET = "a secret of the operator, long enough"
NEW_SECRET = "another secret of the operator, longer"


class Clock:
    """Monotonic seconds that a test moves on."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def source(name: str, *, text: str = "", path: str = "") -> SecretSource:
    return SecretSource(f"config.grpcSecurity.{name}", text, path)


def made_here(directory: Path, clock: Clock | None = None) -> Keys:
    return Keys(KeySettings(str(directory)), clock or Clock())


def test_without_a_configured_key_a_random_one_is_made_and_only_root_can_read_it(tmp_path: Path) -> None:
    first, second = made_here(tmp_path / "a"), made_here(tmp_path / "b")
    path = tmp_path / "a" / keys.KEY_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert first.secrets.keyring.current != second.secrets.keyring.current
    assert len(first.secrets.keyring.current) >= 32
    assert [entry.name for entry in (tmp_path / "a").iterdir()] == [keys.KEY_NAME]


def test_a_made_key_survives_a_restart(tmp_path: Path) -> None:
    token = tokens.mint(made_here(tmp_path).secrets.keyring, "l0", now=NOW)
    assert tokens.judge(token, made_here(tmp_path).secrets.keyring, now=NOW).level == "l0"


def test_an_empty_key_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / keys.KEY_NAME).write_text("\n")
    assert len(made_here(tmp_path).secrets.keyring.current) >= 32


def test_a_key_file_open_to_others_is_closed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = keys.ensure_key(tmp_path)
    path.chmod(0o644)
    made_here(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "key file was open to others" in caplog.text


def test_a_state_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="stateDir"):
        made_here(tmp_path / "file")


def test_a_key_that_was_put_aside_stays_valid_beside_the_new_one_until_the_next(tmp_path: Path) -> None:
    tokens_made = []
    for _ in range(3):
        keyring = made_here(tmp_path).secrets.keyring
        tokens_made.append(tokens.mint(keyring, "l0", now=NOW))
        (tmp_path / keys.KEY_NAME).rename(tmp_path / keys.PREVIOUS_KEY_NAME)
    _, second, third = tokens_made
    assert [tokens.is_ours(token, keyring) for token in tokens_made] == [False, True, True]
    assert not tokens.is_ours(second, tokens.Keyring(keyring.current))
    assert tokens.judge(third, keyring, now=NOW)


def test_configured_keys_come_as_text_or_as_files_and_make_no_file_here(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(SECRET + "\n")
    state = tmp_path / "state"
    as_file = KeySettings(str(state), jwt_secret=source("jwtSecret", path=str(file)))
    as_text = replace(as_file, jwt_secret=source("jwtSecret", text=SECRET))
    assert Keys(as_file).secrets == Keys(as_text).secrets
    assert not state.exists()


def test_a_secret_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / "key"
    file.write_text(SECRET)
    held = Keys(KeySettings(str(tmp_path), jwt_secret=source("jwtSecret", path=str(file))), clock)
    draft = tmp_path / "draft"
    draft.write_text(NEW_SECRET)
    draft.replace(file)
    assert held.secrets.keyring.current == SECRET.encode()
    clock.seconds = 1.1
    assert held.secrets.keyring.current == NEW_SECRET.encode()


@pytest.mark.parametrize("damage", ["gone", "empty", "short", "published", "not text"])
def test_a_secret_file_that_goes_bad_leaves_the_last_good_key(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock, file = Clock(), tmp_path / "key"
    file.write_text(SECRET)
    held = Keys(KeySettings(str(tmp_path), jwt_secret=source("jwtSecret", path=str(file))), clock)
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes({"empty": b"", "short": b"abc", "published": b"topSecret", "not text": b"\xff" * 40}[damage])
    for seconds in (2.0, 4.0):
        clock.seconds = seconds
        assert held.secrets.keyring.current == SECRET.encode()
    assert caplog.text.count("the old key stays") == 1


@pytest.mark.parametrize(
    ("field", "text", "key"),
    [
        ("jwt_secret", "topSecret", "jwtSecret"),
        ("jwt_secret", "short", "jwtSecret"),
        ("previous_jwt_secret", "topSecret", "previousJwtSecret"),
        ("device_token", "short", "deviceToken"),
        ("container_token", "short", "containerToken"),
    ],
)
def test_a_bad_secret_stops_the_start_and_its_key_is_named(tmp_path: Path, field: str, text: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^config\.grpcSecurity\.{key}: "):
        Keys(KeySettings(str(tmp_path), **{field: source(key, text=text)}))


def test_a_missing_secret_file_stops_the_start_and_its_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"jwtSecretFile: .*/nowhere cannot be read"):
        Keys(KeySettings(str(tmp_path), jwt_secret=source("jwtSecret", path=str(tmp_path / "nowhere"))))


def test_no_secret_shows_in_reprs_or_logs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    settings = KeySettings(
        str(tmp_path),
        jwt_secret=source("jwtSecret", text=SECRET),
        device_token=source("deviceToken", text=NEW_SECRET),
        container_token=source("containerToken", text=NEW_SECRET),
    )
    held = Keys(settings)
    shown = f"{settings!r} {held.secrets!r} {held!r} {caplog.text}"
    assert SECRET not in shown
    assert NEW_SECRET not in shown


def test_the_mint_uses_the_newest_key_and_tells_the_succession(tmp_path: Path) -> None:
    held, succession = made_here(tmp_path), Succession()
    token = Mint(held, succession, lambda: NOW).mint_container_token(("GPU-a::0",))
    assert tokens.judge(token, held.secrets.keyring, now=NOW).meta_devices == ("GPU-a::0",)
    with pytest.raises(Unauthenticated):
        succession.check(("GPU-a::0",), NOW - 60)


def test_after_a_restart_the_mint_recalls_what_kubelet_remembers(tmp_path: Path) -> None:
    held = made_here(tmp_path)
    ours = Mint(held, Succession(), lambda: NOW).mint_container_token(("GPU-a::0",))
    operators = mint_for_operator(held, "l1", meta_devices=("GPU-a::1",), now=lambda: NOW)
    succession = Succession()
    Mint(held, succession, lambda: NOW + 5).recall(["", "rubbish", ours, operators])
    with pytest.raises(Unauthenticated):
        succession.check(("GPU-a::0",), NOW - 60)
    succession.check(("GPU-a::1",), NOW - 60)


@pytest.mark.parametrize("jump_seconds", [86400.0, -86400.0])
def test_tokens_keep_their_order_whatever_becomes_of_the_wall_clock(tmp_path: Path, jump_seconds: float) -> None:
    held, succession, wall, monotonic = made_here(tmp_path), Succession(), [NOW], [0.0]
    mint = Mint(held, succession, lambda: wall[0], lambda: monotonic[0])

    def granted() -> float:
        claims = tokens.judge(mint.mint_container_token(("GPU-a::0",)), held.secrets.keyring, now=wall[0])
        assert claims.issued_at is not None
        return claims.issued_at

    issued = [granted()]
    for jump in (jump_seconds, -jump_seconds):
        wall[0] += jump
        for clock in (wall, monotonic):
            clock[0] += 60
        issued.append(granted())
        assert issued[-1] >= issued[-2] + 60
        succession.check(("GPU-a::0",), issued[-1])
        with pytest.raises(Unauthenticated):
            succession.check(("GPU-a::0",), issued[-2])


def test_a_mint_that_starts_after_the_clock_was_set_back_goes_on_from_what_kubelet_remembers(tmp_path: Path) -> None:
    held, monotonic = made_here(tmp_path), [1000.0]
    remembered = Mint(held, Succession(), lambda: NOW).mint_container_token(("GPU-a::0",))
    mint = Mint(held, Succession(), lambda: NOW - 86400, lambda: monotonic[0])
    mint.recall([remembered])
    monotonic[0] += 30
    claims = tokens.judge(mint.mint_container_token(("GPU-a::0",)), held.secrets.keyring, now=NOW - 86400)
    assert claims.issued_at == pytest.approx(NOW + 30)


def test_an_operators_token_says_what_was_asked_for(tmp_path: Path) -> None:
    held = made_here(tmp_path)
    token = mint_for_operator(held, "l1", email="op@site", meta_devices=("GPU-a::1",), lifetime_seconds=60, now=lambda: NOW)
    claims = tokens.judge(token, held.secrets.keyring, now=NOW)
    assert claims == tokens.Claims("l1", "op@site", ("GPU-a::1",), NOW, NOW + 60)
    with pytest.raises(Unauthenticated, match="expired"):
        tokens.judge(token, held.secrets.keyring, now=NOW + 71)


@pytest.mark.parametrize(
    ("level", "ids", "lifetime", "option"),
    [
        ("l2", (), None, "--level"),
        ("l1", (), None, "--meta-device"),
        ("l0", ("GPU-a::0",), None, "--meta-device"),
        ("l0", (), 0, "--lifetime"),
    ],
)
def test_an_operators_impossible_wish_names_its_option(
    tmp_path: Path, level: str, ids: tuple[str, ...], lifetime: float | None, option: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{option}: "):
        mint_for_operator(made_here(tmp_path), level, meta_devices=ids, lifetime_seconds=lifetime)
