"""Build h2spec, the conformance tests of HTTP/2, for the test beside this file.

`python -m tests.fuzz.build` builds it where it is missing; `locate()` only looks and says what is missing. The folder is the
one of tests/e2e, under a key made of the module files.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.e2e.build import Missing, cache_folder, say

GO_DIR = Path(__file__).parent / "go"
PACKAGE = "github.com/summerwind/h2spec/cmd/h2spec"


def h2spec_path() -> Path:
    """Return where the built program lies."""
    digest = hashlib.sha256(b"".join((GO_DIR / name).read_bytes() for name in ("go.mod", "go.sum")))
    return cache_folder() / digest.hexdigest()[:16] / "h2spec"


def locate() -> Path:
    """Return the program's path. Raises Missing with the way out."""
    if not h2spec_path().exists():
        raise Missing("not built: h2spec; run `python -m tests.fuzz.build`")
    return h2spec_path()


def ensure() -> None:
    """Build it if it is missing. Raises Missing, CalledProcessError."""
    path = h2spec_path()
    if path.exists():
        return
    if shutil.which("go") is None:
        raise Missing("no Go compiler: install Go 1.26 or newer")
    say("h2spec: building")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
    command = ["nice", "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", str(partial), PACKAGE]
    subprocess.run(command, cwd=GO_DIR, env=environment, check=True)
    partial.replace(path)


if __name__ == "__main__":
    try:
        ensure()
    except Missing as missing:
        sys.exit(f"fuzz: {missing}")
