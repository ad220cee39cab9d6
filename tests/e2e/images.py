"""Write container images as docker archives, without a daemon or a registry: one layer, made here.

The sandbox image holds our pause program; the box image holds busybox under all its names.
"""

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PAUSE_IMAGE = "local.test/pause:1"
BOX_IMAGE = "local.test/box:1"
BOX_FOLDERS = ("bin", "dev", "etc", "proc", "root", "sys", "usr", "var")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file (content), a link (target) or a folder (neither) of an image."""

    content: bytes | None = None
    target: str = ""
    mode: int = 0o755


def write_pause_image(path: Path, program: Path) -> None:
    """Write the sandbox image around the static program."""
    write_image(path, PAUSE_IMAGE, {"pause": Entry(program.read_bytes())}, {"Entrypoint": ["/pause"]})


def write_box_image(path: Path, busybox: Path) -> None:
    """Write an image with a shell and the usual small tools, from a static busybox."""
    names = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    tree = {folder: Entry() for folder in BOX_FOLDERS} | {"tmp": Entry(mode=0o1777)}
    tree |= {f"bin/{name}": Entry(target="busybox") for name in names if name != "busybox"}
    tree["bin/busybox"] = Entry(busybox.read_bytes())
    tree["etc/passwd"] = Entry(b"root:x:0:0:root:/root:/bin/sh\n", mode=0o644)
    tree["etc/group"] = Entry(b"root:x:0:\n", mode=0o644)
    write_image(path, BOX_IMAGE, tree, {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]})


def write_image(path: Path, reference: str, tree: Mapping[str, Entry], config: Mapping[str, object]) -> None:
    """Write a docker archive with one layer. The same tree gives the same bytes."""
    layer = tar(tree)
    description = {
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    image = json.dumps(description).encode()
    name = f"{hashlib.sha256(image).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [reference], "Layers": ["layer.tar"]}]
    files = {name: Entry(image), "layer.tar": Entry(layer), "manifest.json": Entry(json.dumps(manifest).encode())}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar(files))


def tar(tree: Mapping[str, Entry]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, entry in sorted(tree.items()):
            member = tarfile.TarInfo(name)
            member.mode = entry.mode
            if entry.content is not None:
                member.size = len(entry.content)
            elif entry.target:
                member.type, member.linkname = tarfile.SYMTYPE, entry.target
            else:
                member.type = tarfile.DIRTYPE
            archive.addfile(member, io.BytesIO(entry.content or b""))
    return buffer.getvalue()
