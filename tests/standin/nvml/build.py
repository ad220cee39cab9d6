"""Compiles the stand-in for libnvidia-ml.so.1 with the machine's C compiler, once per version of its sources.

What it makes lies under `${XDG_CACHE_HOME:-~/.cache}/mortalgpu/standin/<hash of the sources>/`, so that another checkout
with the same sources shares it. Symbols stay within glibc 2.28, so that a binary frozen elsewhere can load it.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

LIBRARY_NAME = "libnvidia-ml.so.1"
SOURCES = Path(__file__).parent / "src"
FLAGS = (
    "-std=gnu11",
    "-shared",
    "-fPIC",
    "-O1",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fvisibility=hidden",
    "-pthread",
    f"-Wl,-soname,{LIBRARY_NAME}",
    # Calls among its own functions are no business of the loader's: a version that lacks one (variant.without) still loads.
    "-Wl,-Bsymbolic-functions",
)


class BuildError(Exception):
    """The C compiler is missing, or refused the sources."""


def build() -> Path:
    """Return the compiled library's path, compiling it first where that was not done yet. Safe to run concurrently."""
    library = _cache_root() / _digest() / LIBRARY_NAME
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        _compile_into(library)
    return library


def _cache_root() -> Path:
    configured = os.environ.get("XDG_CACHE_HOME")
    return (Path(configured) if configured else Path.home() / ".cache") / "mortalgpu" / "standin"


def _digest() -> str:
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def _compile_into(library: Path) -> None:
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        raise BuildError("no C compiler found (cc, gcc or clang): install one, or name it in the environment variable CC")
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / LIBRARY_NAME
        sources = [str(source) for source in sorted(SOURCES.glob("*.c"))]
        done = subprocess.run([compiler, *FLAGS, "-o", str(made), *sources], capture_output=True, text=True, check=False)
        if done.returncode:
            raise BuildError(f"{compiler} refused the driver stand-in:\n{done.stderr}")
        made.rename(library)


if __name__ == "__main__":
    print(build())
