"""Build what a cluster needs beyond tests/e2e and its API server: scheduler, controller manager, kubectl.

`python -m tests.e2e.cluster.build` builds what is missing; `locate()` only looks and says what is missing. The module version
is that of the kubelet which tests/e2e builds, so they share most of Go's build cache.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.chart.build import ensure_helm
from tests.e2e.build import Missing, cache_folder, say

GO_DIR = Path(__file__).parent / "go"
PROGRAMS = ("kube-scheduler", "kube-controller-manager", "kubectl")


def program_path(name: str) -> Path:
    """Return where a built program lies: under a key made of the module files."""
    digest = hashlib.sha256(b"".join((GO_DIR / file).read_bytes() for file in ("go.mod", "go.sum")))
    return cache_folder() / digest.hexdigest()[:16] / name


def locate() -> None:
    """Raise Missing unless every program is built."""
    absent = [name for name in PROGRAMS if not program_path(name).exists()]
    if absent:
        raise Missing(f"not built: {', '.join(absent)}; run `python -m tests.e2e.cluster.build`")


def ensure() -> None:
    """Build what is missing. Raises Missing, CalledProcessError."""
    if shutil.which("go") is None:
        raise Missing("no Go compiler: install Go 1.26 or newer")
    for name in PROGRAMS:
        if not program_path(name).exists():
            build(name)


def build(name: str) -> None:
    """Build one program with the flags of tests/e2e, so that the packages it shares with kubelet are built once."""
    say(f"{name}: building (minutes on a machine that never did)")
    path = program_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    command = ["go", "build", "-trimpath", "-tags", "current", "-ldflags", "-s -w", "-o", str(partial)]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
    subprocess.run(["nice", *command, f"k8s.io/kubernetes/cmd/{name}"], cwd=GO_DIR, env=environment, check=True)
    partial.replace(path)


if __name__ == "__main__":
    try:
        ensure()
        ensure_helm()
    except Missing as missing:
        sys.exit(f"e2e: {missing}")
