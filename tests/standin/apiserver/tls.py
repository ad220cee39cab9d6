"""Throw-away certificates for 127.0.0.1, made with the openssl program at test time so that no key lies in the repository."""

import shutil
import ssl
import subprocess
from pathlib import Path

OPENSSL = shutil.which("openssl")


def self_signed(folder: Path, name: str) -> tuple[Path, ssl.SSLContext]:
    """Return the certificate's file, which is its own CA, and a server's context that uses it."""
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(key)]
    subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "1", "-out", str(certificate)]
    subprocess.run([OPENSSL or "openssl", "req", "-x509", *new_key, *subject], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return certificate, context
