"""Where what was built lies, and roots to run it in: an empty one, one with another C library, the oldest Debian.

Running inside a root needs the right to make mount and pid namespaces. Roots from Debian are kept in the cache folder.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

BUILD = Path(__file__).parents[2] / "build"
OLDEST_DEBIAN = "bullseye"
"""The oldest release that Debian's mirrors still hold; its glibc is 2.31, the binary's own is newer."""

PACKAGES = {
    "debootstrap": "debootstrap",
    "musl": "/lib/ld-musl-x86_64.so.1",
    "busybox-static": "busybox",
    "patchelf": "patchelf",
}
"""What the tests need, as Debian packages, each with the program that shows it is there."""


def binary() -> Path:
    """Return the static binary; skips the test where it was not built."""
    path = Path(os.environ.get("MORTALGPU_BIN") or BUILD / "mortalgpu")
    if not path.is_file():
        pytest.skip(f"{path} is not there; run `just binary`")
    return path


def mgctl_directory() -> Path:
    """Return the mgctl directory; skips the test where it was not built."""
    if not (BUILD / "mgctl" / "mgctl").is_file():
        pytest.skip("build/mgctl is not there; run `just mgctl`")
    return BUILD / "mgctl"


def output_of(name: str) -> Path:
    """Return another thing in build/; skips the test where it was not built."""
    if not (BUILD / name).exists():
        pytest.skip(f"build/{name} is not there; run `just test-binary`")
    return BUILD / name


def need_root() -> None:
    """Skip the test unless this process may make namespaces."""
    if os.geteuid() != 0:
        pytest.skip("roots and their mounts need root")


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mortalgpu" / "build"


def old_debian() -> Path:
    """Return a root with the oldest Debian, as `python -m tests.frozen.built` makes it; skips the test where there is none."""
    path = cache_folder() / "roots" / OLDEST_DEBIAN
    if not path.is_dir():
        pytest.skip(f"no root of Debian {OLDEST_DEBIAN}; run `python -m tests.frozen.built` as root")
    return path


@dataclass(frozen=True, slots=True)
class Root:
    """A file tree in which commands run with nothing else: its own mounts and processes, none of this machine's files."""

    folder: Path
    binds: Mapping[str, Path] = field(default_factory=dict)
    """Mounted read-only, by the place in the root."""
    writable: Sequence[str] = ()
    """Fresh tmpfs, by the place in the root."""
    read_only: bool = False
    uid: int = 0

    def run(self, *argv: str, env: Mapping[str, str] | None = None, seconds: float = 30) -> "subprocess.CompletedProcess[str]":
        """Run a command inside and return its outcome."""
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
        command += ["/bin/sh", "-ec", self._script(), "sh", *argv]
        return subprocess.run(
            command, env=dict(env or {}), capture_output=True, text=True, check=False, timeout=seconds, stdin=subprocess.DEVNULL
        )

    def _script(self) -> str:
        """Everything below runs in a mount namespace of its own, so nothing has to be undone."""
        path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
        # A mount of the folder on itself, so that the kernel takes it for a file system of its own.
        lines = [path, f"mount --bind '{self.folder}' '{self.folder}'"]
        for place, source in self.binds.items():
            target = f"{self.folder}{place}"
            lines += [f"mount --bind '{source}' '{target}'", f"mount -o remount,bind,ro '{target}'"]
        lines += [f"mount -t tmpfs tmpfs '{self.folder}{place}'" for place in self.writable]
        lines += [f"mount -t proc proc '{self.folder}/proc'"]
        lines += [f"mount -o remount,bind,ro '{self.folder}'"] if self.read_only else []
        return "\n".join([*lines, f"exec chroot --userspec={self.uid}:{self.uid} '{self.folder}' \"$@\""])


def make_folders(folder: Path, *names: str) -> Path:
    """Make folders under a root and return it."""
    for name in ("proc", *names):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return folder


def place(folder: Path, files: Mapping[str, Path]) -> None:
    """Copy files into a root, by their place there."""
    for name, source in files.items():
        target = folder / name.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def prepare() -> None:
    """Install what the tests need, and make the root of the oldest Debian, once. Needs root and the network."""
    absent = [name for name, program in PACKAGES.items() if shutil.which(program, path=os.defpath + ":/usr/sbin") is None]
    if absent:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *absent]
        subprocess.run(install, env=environment, check=True, stdout=sys.stderr)
    target = cache_folder() / "roots" / OLDEST_DEBIAN
    if target.is_dir():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(".partial")
    shutil.rmtree(draft, ignore_errors=True)
    command = ["nice", "debootstrap", "--variant=minbase", "--include=systemd-sysv,dbus", OLDEST_DEBIAN, str(draft)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    draft.rename(target)


if __name__ == "__main__":
    if os.geteuid() == 0:
        prepare()
    else:
        sys.stderr.write("frozen: without root the tests that need roots of their own will skip\n")
