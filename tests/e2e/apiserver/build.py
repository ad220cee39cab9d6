"""Build a real kube-apiserver, and find etcd, for the tests beside this file.

`python -m tests.e2e.apiserver.build` installs etcd (as root, Debian) and builds what is missing; `locate()` only looks and says
what is missing. The module version is that of the kubelet which tests/e2e builds, so the two share most of Go's build cache.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.e2e.build import Missing, cache_folder, find_program, say

GO_DIR = Path(__file__).parent / "go"
PACKAGE = "k8s.io/kubernetes/cmd/kube-apiserver"
ETCD_PACKAGE = "etcd-server"


def apiserver_path() -> Path:
    """Return where the built server lies: under a key made of the module files."""
    digest = hashlib.sha256(b"".join((GO_DIR / name).read_bytes() for name in ("go.mod", "go.sum")))
    return cache_folder() / digest.hexdigest()[:16] / "kube-apiserver"


def locate() -> tuple[Path, Path]:
    """Return the paths of kube-apiserver and etcd. Raises Missing with the way out."""
    etcd = find_program("etcd")
    absent = [name for name, there in (("kube-apiserver", apiserver_path().exists()), ("etcd", etcd is not None)) if not there]
    if etcd is None or absent:
        raise Missing(f"not there: {', '.join(absent)}; run `python -m tests.e2e.apiserver.build`")
    return apiserver_path(), Path(etcd)


def ensure() -> None:
    """Install and build what is missing. Raises Missing, CalledProcessError."""
    if find_program("etcd") is None:
        install_etcd()
    if not apiserver_path().exists():
        build()


def install_etcd() -> None:
    """Install Debian's etcd server, without letting it start."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Missing(f"install this package: {ETCD_PACKAGE}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    say(f"installing {ETCD_PACKAGE}")
    subprocess.run(["apt-get", "update", "-qq"], env=environment, check=True)
    subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", ETCD_PACKAGE], env=environment, check=True)


def build() -> None:
    """Build kube-apiserver with the flags of tests/e2e, so that the packages it shares with kubelet are built once."""
    if shutil.which("go") is None:
        raise Missing("no Go compiler: install Go 1.26 or newer")
    say("kube-apiserver: building (minutes on a machine that never did)")
    path = apiserver_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    command = ["go", "build", "-trimpath", "-tags", "current", "-ldflags", "-s -w", "-o", str(partial), PACKAGE]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
    subprocess.run(["nice", *command], cwd=GO_DIR, env=environment, check=True)
    partial.replace(path)


if __name__ == "__main__":
    try:
        ensure()
    except Missing as missing:
        sys.exit(f"e2e: {missing}")
