"""TLS for the network door: a certificate from files, taken up again when they change. Of gRPC it knows the ALPN name."""

import logging
import ssl

import trio

from mortalgpu.errors import ConfigError
from mortalgpu.statefile import fingerprint

log = logging.getLogger(__name__)

RECHECK_SECONDS = 10.0


class Certificate:
    """A server's TLS context whose certificate follows its files. Raises ConfigError when made with unusable files."""

    def __init__(self, cert_file: str, key_file: str) -> None:
        self._cert_file = cert_file
        self._key_file = key_file
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["h2"])
        self._seen = self._fingerprints()
        try:
            self._load()
        except OSError as error:
            raise ConfigError("config.deviceApi.tls", f"{cert_file} and {key_file} cannot be used: {_cause(error)}") from error

    async def follow(self) -> None:
        """Take up changed files, for ever. Files that cannot be used leave the last good certificate in force."""
        while True:
            await trio.sleep(RECHECK_SECONDS)
            self.refresh()

    def refresh(self) -> None:
        """Take up the files if they have changed; reads two small files."""
        found = self._fingerprints()
        if found == self._seen:
            return
        self._seen = found
        try:
            self._load()
        except OSError as error:
            log.warning("changed certificate cannot be used; the old one stays", extra={"cause": _cause(error)})
        else:
            log.info("certificate read again", extra={"path": self._cert_file})

    def _load(self) -> None:
        # A pair that does not match must not reach the context in use: it is tried on another one first.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._cert_file, self._key_file, password=_no_password)
        self.context.load_cert_chain(self._cert_file, self._key_file, password=_no_password)

    def _fingerprints(self) -> tuple[object, ...]:
        return tuple(fingerprint(path) for path in (self._cert_file, self._key_file))


def _no_password() -> str:
    """Answer OpenSSL's question, which would otherwise go to the terminal."""
    return ""


def _cause(error: OSError) -> str:
    return error.strerror or str(error)
