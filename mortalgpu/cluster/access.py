"""Where the Kubernetes API is and what proves who we are: the pod's own service account, or settings of the operator.

Nothing secret is kept: the token is read from its file for every request, because kubelet replaces it about once an hour.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from mortalgpu import threads
from mortalgpu.errors import ClusterError, HostError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where kubelet mounts a pod's token and the cluster's CA."""


@dataclass(frozen=True, slots=True)
class ApiAccess:
    """The API server's base URL, the CA that must have signed its certificate (None: the system's), and the token's file."""

    url: str
    ca_file: Path | None = None
    token_file: Path | None = None


def in_cluster(environ: Mapping[str, str], account: Path = SERVICE_ACCOUNT) -> ApiAccess | None:
    """Return the access every pod is given, or None where this process is not in a pod that has one. Looks at files."""
    host = environ.get("KUBERNETES_SERVICE_HOST", "")
    port = environ.get("KUBERNETES_SERVICE_PORT", "") or "443"
    if not host or not (account / "token").exists():
        return None
    return ApiAccess(f"https://{_in_url(host)}:{port}", account / "ca.crt", account / "token")


async def read_token(access: ApiAccess) -> str | None:
    """Return the token as it is now, or None where none is configured.

    Raises ClusterError when the file cannot be read or is empty, or when the token would travel unencrypted.
    """
    if access.token_file is None:
        return None
    if not _is_private(access.url):
        raise ClusterError(
            f"the token in {access.token_file} is not sent to {access.url!a}: it would travel unencrypted, use https"
        )
    try:
        token = (await threads.run(access.token_file.read_text)).strip()
    except (OSError, UnicodeDecodeError, HostError) as broken:
        raise ClusterError(f"the Kubernetes API token cannot be read from {access.token_file}: {broken}") from broken
    if not token or not token.isascii() or any(letter.isspace() for letter in token):
        raise ClusterError(f"the file {access.token_file} holds no usable token")
    return token


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _is_private(url: str) -> bool:
    """True when nobody on the way can read a request: TLS, or it never leaves this machine."""
    try:
        parts = urlsplit(url)
        return parts.scheme == "https" or ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
