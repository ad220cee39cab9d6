"""Where the device API's keys and static tokens come from: the configuration, files of it, or a key made here.

Rules:
1. No default key exists. Without a configured one, a random key is made once and kept in the state directory, 0600. One that
   was put aside there under its other name stays valid beside it.
2. Files are read again when they change, so that a rotated Secret takes effect without a restart. A file that cannot be
   read any more, or that holds a bad key, leaves the last good one in force and says so once.
3. Nothing here ever logs, raises or prints a part of a secret.

File reads are of a few bytes from local disks and happen at most once a second, on the caller's thread.
"""

import logging
import secrets
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mortalgpu.deviceapi.tokens import Keyring, check_secret, check_static_token
from mortalgpu.errors import ConfigError, HostError
from mortalgpu.statefile import fingerprint, write_state

log = logging.getLogger(__name__)

KEY_NAME = "device-api.key"
PREVIOUS_KEY_NAME = "device-api.previous.key"
"""What an operator calls the key made here when it is to be replaced at the next start."""
RECHECK_SECONDS = 1.0

_LONGEST_SECRET = 64 * 1024
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class SecretSource:
    """One secret of the configuration: as text, or as the path of a file; both empty when it is not configured."""

    name: str
    """The configuration key, for messages: `config.grpcSecurity.jwtSecret`."""
    text: str = field(default="", repr=False)
    path: str = ""

    @property
    def configured(self) -> bool:
        """Whether the operator gave it."""
        return bool(self.text or self.path)


@dataclass(frozen=True, slots=True)
class KeySettings:
    """grpcSecurity.*, and where a key is kept that the operator did not give."""

    state_directory: str
    jwt_secret: SecretSource = SecretSource("config.grpcSecurity.jwtSecret")
    previous_jwt_secret: SecretSource = SecretSource("config.grpcSecurity.previousJwtSecret")
    device_token: SecretSource = SecretSource("config.grpcSecurity.deviceToken")
    container_token: SecretSource = SecretSource("config.grpcSecurity.containerToken")


@dataclass(frozen=True, slots=True)
class Secrets:
    """Everything that can prove a caller at one moment. Static tokens are empty where the operator set none."""

    keyring: Keyring
    device_token: str = field(default="", repr=False)
    container_token: str = field(default="", repr=False)


class Keys:
    """The secrets in force. Making one reads them all, and makes a key where none is configured.

    Raises ConfigError for a secret that cannot be used, HostError when the state directory cannot be written.
    """

    def __init__(self, settings: KeySettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        if not settings.jwt_secret.configured:
            ensure_key(Path(settings.state_directory))
        self._secrets = _read_all(settings)
        self._seen = _fingerprints(settings)
        self._checked = clock()

    @property
    def secrets(self) -> Secrets:
        """The secrets as they stand, read again when a file changed. Raises nothing."""
        now = self._clock()
        if now - self._checked >= RECHECK_SECONDS:
            self._checked = now
            self._refresh()
        return self._secrets

    def _refresh(self) -> None:
        found = _fingerprints(self._settings)
        if found == self._seen:
            return
        self._seen = found
        try:
            self._secrets = _read_all(self._settings)
        except (ConfigError, HostError) as error:
            log.warning("changed key file cannot be used; the old key stays", extra={"cause": str(error)})
        else:
            log.info("keys read again", extra={"count": len(self._secrets.keyring.valid)})


def ensure_key(directory: Path) -> Path:
    """Return the path of the generated key, making one if there is none. Raises HostError if that fails.

    A key file that others may read is closed to them first.
    """
    path = directory / KEY_NAME
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not path.exists() or not path.read_bytes().strip():
            write_state(path, secrets.token_hex(_KEY_BYTES) + "\n")
            log.info("random key made for the device API", extra={"path": str(path)})
        elif stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o600)
            log.warning("key file was open to others; closed", extra={"path": str(path)})
    except OSError as error:
        raise _unwritable(path, error) from error
    return path


def _unwritable(path: Path, error: OSError) -> HostError:
    cause = error.strerror or str(error)
    return HostError(f"{path}: the device API's key cannot be kept there: {cause}; set stateDir to a writable directory")


def _sources(settings: KeySettings) -> tuple[SecretSource, SecretSource, SecretSource, SecretSource]:
    current, previous = settings.jwt_secret, settings.previous_jwt_secret
    if not current.configured:
        directory = Path(settings.state_directory)
        current = SecretSource(current.name, path=str(directory / KEY_NAME))
        if not previous.configured and (directory / PREVIOUS_KEY_NAME).exists():
            previous = SecretSource(previous.name, path=str(directory / PREVIOUS_KEY_NAME))
    return current, previous, settings.device_token, settings.container_token


def _read_all(settings: KeySettings) -> Secrets:
    current, previous, device_token, container_token = _sources(settings)
    keyring = Keyring(_read_key(current), _read_key(previous))
    return Secrets(keyring, _read_token(device_token), _read_token(container_token))


def _read_key(source: SecretSource) -> bytes:
    secret = _read(source).encode()
    if source.configured:
        check_secret(source.name, secret)
    return secret


def _read_token(source: SecretSource) -> str:
    token = _read(source)
    if source.configured:
        check_static_token(source.name, token)
    return token


def _read(source: SecretSource) -> str:
    """Read one secret; blank space around it is not a part of it."""
    if not source.path:
        return source.text.strip()
    try:
        with open(source.path, "rb") as file:
            return file.read(_LONGEST_SECRET).decode().strip()
    except OSError as error:
        raise ConfigError(f"{source.name}File", f"{source.path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{source.name}File", f"{source.path} is not text; write the key as hex or base64") from None


def _fingerprints(settings: KeySettings) -> tuple[object, ...]:
    """What tells that a file has changed, for every file in use."""
    return tuple(fingerprint(source.path) if source.path else () for source in _sources(settings))
