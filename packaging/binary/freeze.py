"""Makes the static binary and the mgctl directory: `freeze.py binary` and `freeze.py mgctl`, from the project's root.

    build/mortalgpu               one static file: the daemon and every other face
    build/mortalgpu.cdx.json      what is frozen in, as a CycloneDX document
    build/licenses/               the licence texts of all that
    build/mgctl/                  mgctl as a directory that runs in any container (see MGCTL_DIR)

Needs, as Debian packages: python3.11-venv, libpython3.11, patchelf, zstd, libzstd-dev, gcc; installs what is missing when it
may. Runs on Debian's own Python: a shared libpython without a RUNPATH. Intermediate files lie under
$XDG_CACHE_HOME/mortalgpu/build. The same commit gives the same bytes: hash seed, times and order are fixed.
"""

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import inventory

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
OUTPUT = ROOT / "build"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mortalgpu" / "build"
PYTHON = "/usr/bin/python3.11"
PACKAGES = ("python3.11-venv", "libpython3.11", "patchelf", "zstd", "libzstd-dev", "gcc", "libc6-dev", "binutils")

LIBRARIES = Path("/lib/x86_64-linux-gnu")
INTERPRETER = "ld-linux-x86-64.so.2"
LIBC = (
    "libc.so.6",
    "libm.so.6",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
    "libutil.so.1",
    "libresolv.so.2",
    "libgcc_s.so.1",
)
"""The C library, all of it: a driver library asks for its parts by name, and must get these, never the host's."""

MGCTL_DIR = "/usr/lib/mortalgpu/mgctl"
"""Where build/mgctl is mounted in containers: the kernel looks for its ld-linux there."""
PLACEHOLDER = "/mortalgpu-interpreter-is-set-when-unpacked".ljust(240, "/")


def main(words: list[str]) -> None:
    os.umask(0o022)
    os.environ |= {"PYTHONHASHSEED": "0", "SOURCE_DATE_EPOCH": commit_time(), "LC_ALL": "C.UTF-8"}
    # Modules are not packed one by one: the whole is, and mgctl must start fast.
    os.environ["PYINSTALLER_ZLIB_COMPRESSION_LEVEL"] = "0"
    # Columns of a traceback's lines: shown only beside the source, which is not in here.
    os.environ["PYTHONNODEBUGRANGES"] = "1"
    install_packages()
    venv = virtual_environment()
    for word in words or ["binary", "mgctl"]:
        {"binary": binary, "mgctl": mgctl}[word](venv)


def binary(venv: Path) -> None:
    """Make build/mortalgpu, its SBOM and licences."""
    tree = frozen_tree(venv, "mortalgpu", PLACEHOLDER)
    document, licences = inventory.of_tree(tree, venv, release())
    (tree / "mortalgpu.cdx.json").write_text(document)
    for name, text in licences.items():
        (tree / "licenses").mkdir(exist_ok=True)
        (tree / "licenses" / name).write_text(text)
    OUTPUT.mkdir(exist_ok=True)
    shutil.copy(tree / "mortalgpu.cdx.json", OUTPUT)
    shutil.rmtree(OUTPUT / "licenses", ignore_errors=True)
    shutil.copytree(tree / "licenses", OUTPUT / "licenses")
    link(packed(tree), OUTPUT / "mortalgpu")


def mgctl(venv: Path) -> None:
    """Make build/mgctl."""
    tree = frozen_tree(venv, "mgctl", f"{MGCTL_DIR}/{INTERPRETER}")
    shutil.rmtree(OUTPUT / "mgctl", ignore_errors=True)
    OUTPUT.mkdir(exist_ok=True)
    shutil.copytree(tree, OUTPUT / "mgctl", symlinks=True)
    size = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
    say(f"build/mgctl: {size / 1e6:.1f} MB, to be mounted at {MGCTL_DIR}")


def frozen_tree(venv: Path, face: str, interpreter: str) -> Path:
    """Freeze a face into a directory with its own C library; `interpreter` is where the kernel finds its ld-linux."""
    work = CACHE / face
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    stated = work / "release.txt"
    stated.write_text("\n".join(release()) + "\n")
    environment = {**os.environ, "MORTALGPU_FACE": face, "MORTALGPU_RELEASE": str(stated)}
    command = [venv / "bin" / "pyinstaller", "--log-level", "WARN", "--noconfirm", "--distpath", work / "dist"]
    run([*command, "--workpath", work / "work", HERE / "program.spec"], env=environment)
    tree = work / "dist" / face
    drop_library(tree / "_internal", "libstdc++.so.6", "google/_upb/_message.abi3.so")
    for name in LIBC:
        copy_stripped(LIBRARIES / name, tree / "_internal" / name)
    copy_stripped(LIBRARIES / INTERPRETER, tree / INTERPRETER)
    # An RPATH, not a RUNPATH: it comes before a container's LD_LIBRARY_PATH, whose libraries need a C library of their own.
    run(["patchelf", "--set-interpreter", interpreter, "--force-rpath", "--set-rpath", "$ORIGIN/_internal", tree / face])
    return tree


def drop_library(internal: Path, library: str, user: str) -> None:
    """Drop a library that one module names and takes nothing from; end when that is no longer so."""
    symbols = run(["nm", "-D", "--undefined-only", internal / user], capture=True).decode()
    if re.search("GLIBCXX|CXXABI", symbols):
        raise SystemExit(f"{user} really uses {library}")
    run(["patchelf", "--remove-needed", library, internal / user])
    (internal / library).unlink()


def copy_stripped(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    target.chmod(0o755)
    run(["strip", "--strip-unneeded", target])


def packed(tree: Path) -> bytes:
    """Return the tree as a compressed ustar archive: in order of names, owned by root, at the commit's time."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(tree.rglob("*")):
            member = archive.gettarinfo(path, path.relative_to(tree).as_posix())
            member.mtime, member.uid, member.gid, member.uname, member.gname = int(commit_time()), 0, 0, "", ""
            member.mode = 0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644
            if len(member.name) > 100 or len(member.linkname) > 100:
                raise SystemExit(f"{member.name}: longer than the loader reads")
            if member.isreg():
                with path.open("rb") as content:
                    archive.addfile(member, content)
            else:
                archive.addfile(member)
    # With its size in the header, which the loader reads.
    stream = ["zstd", "-19", "--single-thread", "-q", "-c", f"--stream-size={len(buffer.getvalue())}"]
    return run(stream, input=buffer.getvalue(), capture=True)


def link(payload: bytes, target: Path) -> None:
    """Compile the loader round the payload, statically."""
    held = CACHE / "payload.zst"
    held.write_bytes(payload)
    flags = ["-static", "-Os", "-s", "-Wall", "-Wextra", "-Werror", "-std=gnu11", "-Wl,--build-id=none", "-Wl,--gc-sections"]
    names = ['-DPAYLOAD="payload.zst"', f'-DINTERPRETER_PLACEHOLDER="{PLACEHOLDER}"']
    draft = target.with_suffix(".new")
    # From the cache folder and by bare names, so that no path of this machine gets in.
    shutil.copy(HERE / "loader.c", CACHE / "loader.c")
    run(["gcc", *flags, *names, "-ffunction-sections", "-o", draft, "loader.c", "-lzstd"], cwd=CACHE)
    draft.rename(target)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    say(f"{target.relative_to(ROOT)}: {target.stat().st_size / 1e6:.1f} MB, sha256 {digest}")


def release() -> tuple[str, str]:
    """Return the version, and the commit with a mark when the tree differs from it; no commit outside of git."""
    version = re.search(r'__version__ = "(.+)"', (ROOT / "mortalgpu" / "__init__.py").read_text())
    assert version is not None
    commit = git("rev-parse", "--short=12", "HEAD")
    changed = (
        "+changes"
        if commit and git("status", "--porcelain", "--untracked-files=no", "--", "mortalgpu", "packaging/binary")
        else ""
    )
    return version[1], commit + changed


def commit_time() -> str:
    """Return SOURCE_DATE_EPOCH: as given, or the commit's time in seconds, or 1980."""
    return os.environ.get("SOURCE_DATE_EPOCH") or git("log", "-1", "--format=%ct") or "315532800"


def git(*words: str) -> str:
    done = subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def virtual_environment() -> Path:
    """Return a virtual environment with exactly what requirements.txt says, made anew when that changed."""
    wanted = (HERE / "requirements.txt").read_bytes()
    venv = CACHE / f"venv-{hashlib.sha256(wanted).hexdigest()[:12]}"
    if not (venv / "complete").exists():
        shutil.rmtree(venv, ignore_errors=True)
        run([PYTHON, "-m", "venv", venv])
        pip = [venv / "bin" / "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
        run([*pip, "-r", HERE / "requirements.txt"])
        (venv / "complete").touch()
    return venv


def install_packages() -> None:
    """Install the Debian packages that are missing."""
    query = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${Status}\n", *PACKAGES], capture_output=True, text=True, check=False
    )
    there = {line.split()[0] for line in query.stdout.splitlines() if line.endswith("install ok installed")}
    absent = [name for name in PACKAGES if name not in there]
    if not absent:
        return
    if os.geteuid() != 0:
        raise SystemExit(f"install these Debian packages: {' '.join(absent)}")
    run(
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *absent],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
    )


def run(command: Sequence[str | Path], *, capture: bool = False, **how: Any) -> bytes:
    """Run a command with little priority; end with its own message when it fails."""
    done = subprocess.run(["nice", *map(str, command)], stdout=subprocess.PIPE if capture else None, check=False, **how)
    if done.returncode:
        raise SystemExit(f"freeze: {command[0]} failed with {done.returncode}")
    return done.stdout or b""


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
