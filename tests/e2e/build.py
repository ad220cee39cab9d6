"""Build what the end-to-end tests run: kubelet, its device manager (current and old), a pause and a busybox image.

`python -m tests.e2e.build` installs the Debian packages that are missing (as root) and builds; `locate()` only looks and says
what is missing. Everything lands in a cache folder, under a key made of the sources, so that a second run does nothing. Reads
tests/e2e/go; writes $XDG_CACHE_HOME/mortalgpu/e2e.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.images import write_box_image, write_pause_image

GO_DIR = Path(__file__).parent / "go"
PACKAGES = {"containerd": "containerd", "runc": "runc", "busybox-static": "busybox"}
"""Debian package → the program that shows it is there."""


class Missing(Exception):
    """Something that the end-to-end tests need is not there; the text says what, and how to get it."""


@dataclass(frozen=True, slots=True)
class Target:
    """A Go program: its package, the go.mod it is built from, and the build tag that picks the matching sources."""

    name: str
    package: str
    modfile: str = "go.mod"
    tag: str = "current"

    @property
    def path(self) -> Path:
        return cache_folder() / source_key(self) / self.name


KUBELET = Target("kubelet", "k8s.io/kubernetes/cmd/kubelet")
DEVICE_MANAGER = Target("devicemanager", "./devicemanager")
OLD_DEVICE_MANAGER = Target("devicemanager-old", "./devicemanager", "old.mod", "kubelet130")
PAUSE = Target("pause", "./pause")
TARGETS = (DEVICE_MANAGER, KUBELET, OLD_DEVICE_MANAGER, PAUSE)


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mortalgpu" / "e2e"


def source_key(target: Target) -> str:
    """Return a short hash of everything of ours that decides what the target's binary is."""
    digest = hashlib.sha256(repr(target).encode())
    modules = GO_DIR / target.modfile
    own = sorted((GO_DIR / target.package).glob("*.go")) if target.package.startswith(".") else []
    for path in [modules, modules.with_suffix(".sum"), *own]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def box_image_path() -> Path:
    return cache_folder() / "images" / "box.tar"


def pause_image_path() -> Path:
    return PAUSE.path.parent / "pause.tar"


def locate(*targets: Target) -> None:
    """Raise Missing unless each target is built."""
    absent = [target.name for target in targets if not target.path.exists()]
    if absent:
        raise Missing(f"not built: {', '.join(absent)}; run `python -m tests.e2e.build`")


def locate_node() -> None:
    """Raise Missing unless containerd, runc, kubelet and the images are there, and we may make mount namespaces and cgroups."""
    if os.geteuid() != 0:
        raise Missing("containerd and kubelet need root")
    absent = [package for package, program in PACKAGES.items() if find_program(program) is None]
    if absent:
        raise Missing(f"not installed: {', '.join(absent)}; run `python -m tests.e2e.build`")
    locate(KUBELET, PAUSE)
    if not (box_image_path().exists() and pause_image_path().exists()):
        raise Missing("images not written; run `python -m tests.e2e.build`")
    if not os.access("/sys/fs/cgroup", os.W_OK):
        raise Missing("the cgroup tree is not writable here")


def find_program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def ensure() -> None:
    """Install and build whatever is missing, printing each step that takes long. Raises Missing, CalledProcessError."""
    install_packages()
    if shutil.which("go") is None:
        raise Missing("no Go compiler: install Go 1.26 or newer")
    for target in TARGETS:
        if target.path.exists():
            say(f"{target.name}: already built, {target.path}")
        else:
            build(target)
    if not pause_image_path().exists():
        write_pause_image(pause_image_path(), PAUSE.path)
    if not box_image_path().exists():
        busybox = find_program("busybox")
        if busybox is None:
            raise Missing("no busybox: install busybox-static")
        write_box_image(box_image_path(), Path(busybox))


def build(target: Target) -> None:
    started = time.monotonic()
    say(f"{target.name}: building (minutes on a machine that never did)")
    target.path.parent.mkdir(parents=True, exist_ok=True)
    partial = target.path.with_suffix(f".{os.getpid()}")
    command = [
        "go",
        "build",
        "-trimpath",
        "-modfile",
        target.modfile,
        "-tags",
        target.tag,
        "-ldflags",
        "-s -w",
        "-o",
        str(partial),
    ]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
    subprocess.run(["nice", *command, target.package], cwd=GO_DIR, env=environment, check=True)
    partial.replace(target.path)
    say(f"{target.name}: built in {time.monotonic() - started:.0f} s")


def install_packages() -> None:
    absent = [package for package, program in PACKAGES.items() if find_program(program) is None]
    if not absent:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Missing(f"install these packages: {', '.join(absent)}")
    say(f"installing {', '.join(absent)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *absent]
    if subprocess.run(install, env=environment, check=False).returncode != 0:
        subprocess.run(["apt-get", "update", "-qq"], env=environment, check=True)
        subprocess.run(install, env=environment, check=True)


def say(text: str) -> None:
    print(f"e2e: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        ensure()
    except Missing as missing:
        sys.exit(f"e2e: {missing}")
