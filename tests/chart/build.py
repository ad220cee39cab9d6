"""Build Helm, and find promtool, for the tests beside this file and for `just chart`.

`python -m tests.chart.build` installs Debian's prometheus package (as root) where it is missing and builds Helm from its Go
module; `locate_*` only look and say what is missing. The binary lies in the cache folder of tests/e2e, under a key made of the
module files.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.e2e.build import Missing, cache_folder, find_program, say

GO_DIR = Path(__file__).parent / "go"
HELM_PACKAGE = "helm.sh/helm/v3/cmd/helm"
PROMETHEUS_PACKAGE = "prometheus"


def helm_path() -> Path:
    """Return where the built Helm lies, whether it is there or not."""
    digest = hashlib.sha256(b"".join((GO_DIR / name).read_bytes() for name in ("go.mod", "go.sum")))
    return cache_folder() / digest.hexdigest()[:16] / "helm"


def locate_helm() -> Path:
    """Return the path of Helm. Raises Missing with the way out."""
    if not helm_path().exists():
        raise Missing("no Helm built; run `python -m tests.chart.build`")
    return helm_path()


def locate_promtool() -> Path:
    """Return the path of Prometheus' promtool. Raises Missing with the way out."""
    found = find_program("promtool")
    if found is None:
        raise Missing("no promtool; run `python -m tests.chart.build`")
    return Path(found)


def ensure_helm() -> Path:
    """Return the path of Helm, building it first where needed. Raises Missing, CalledProcessError."""
    path = helm_path()
    if not path.exists():
        if shutil.which("go") is None:
            raise Missing("no Go compiler: install Go 1.25 or newer")
        say("helm: building (two minutes on a machine that never did)")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        command = ["nice", "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", str(partial), HELM_PACKAGE]
        subprocess.run(command, cwd=GO_DIR, env={**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}, check=True)
        partial.replace(path)
    return path


def ensure_promtool() -> None:
    """Install Debian's prometheus package, without letting the server start. Raises Missing, CalledProcessError."""
    if find_program("promtool") is not None:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Missing(f"install this package: {PROMETHEUS_PACKAGE}")
    say(f"installing {PROMETHEUS_PACKAGE}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    subprocess.run(["apt-get", "update", "-qq"], env=environment, check=True)
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", PROMETHEUS_PACKAGE]
    subprocess.run(install, env=environment, check=True)


if __name__ == "__main__":
    try:
        ensure_helm()
        ensure_promtool()
    except Missing as missing:
        sys.exit(f"chart: {missing}")
