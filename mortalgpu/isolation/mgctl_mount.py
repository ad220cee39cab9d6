"""Publishes mgctl on the host, and says how containers get it.

Rules:
1. A published version is never changed: containers have it mounted. Each content has a directory of its own, whose name tells
   version and content; it appears complete, by one rename, and the link `current` is switched to it by another.
2. A one-directory build is mounted as a directory where it was built to lie, and a one-line script that names it as its
   interpreter is mounted as the command: the kernel runs that in any image, with no shell and no libc. A single file is
   mounted as the command itself.
3. A version goes only when it is certain that nobody needs it: it is not current, it was superseded a while ago, no process
   sees it among its mounts, and kubelet's checkpoint, from which containers are started again, does not name it. What cannot be
   read is a reason to keep everything.

All of it blocks on the disk; call it from a worker thread.
"""

import base64
import binascii
import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from mortalgpu.errors import HostError
from mortalgpu.model.grant import Mount

log = logging.getLogger(__name__)

COMMAND = "mgctl"
BUILD_DIRECTORY = "/usr/lib/mortalgpu/mgctl"
"""Where a one-directory build lies inside containers: its loader is looked for there, so the build is made for this path."""
SOCKET_DIRECTORY = "/run/mortalgpu"
"""Where containers find the directory of the device API's socket."""

VERSIONS = "mgctl"
"""Subdirectory of the host path that holds the versions. Nothing secret lies below it."""
CURRENT = "current"
KEPT_SECONDS = 3600.0
"""How long a superseded version is kept in any case: an Allocate answer may be on its way."""

_INTERNAL = "_internal"
"""What a one-directory build has beside its program."""
_LONGEST_INTERPRETER = 127
_PIECE_BYTES = 65536
_OVERLAP_BYTES = 512
"""More than a version's name, which is a file's, with what stands round it."""
_ENDED = (errno.ENOENT, errno.ESRCH, errno.EINVAL)
"""What the kernel says of a process that is gone, or is a zombie and has no mounts any more."""


@dataclass(frozen=True, slots=True)
class Published:
    """A version on the host: its directory, and, of a build of many files, its program's name; empty for a single file."""

    directory: Path
    program: str = ""

    @property
    def is_build(self) -> bool:
        """Whether it is a build of many files."""
        return bool(self.program)

    @property
    def name(self) -> str:
        """The version's name among others."""
        return self.directory.name


def publish(source: Path, host_path: Path, version: str) -> Published:
    """Publish mgctl under `host_path` and make it current; what is published already is used as it is.

    `source` is a one-directory build, the program inside of one, or a single program. Raises HostError.
    """
    versions = host_path / VERSIONS
    try:
        program = _program(source)
        build = program.parent if (program.parent / _INTERNAL).is_dir() else None
        name = f"{version}-{_digest(build or program)}"
        published = Published(versions / name, program.name if build else "")
        if not published.directory.is_dir():
            versions.mkdir(mode=0o755, parents=True, exist_ok=True)
            _place(build or program, published)
            log.info("mgctl published", extra={"version": name, "path": str(published.directory)})
        _switch(versions, name)
    except OSError as error:
        raise HostError(f"mgctl cannot be published from {source} to {host_path}: {error}") from error
    return published


def mounts(published: Published, container_path: str) -> tuple[Mount, ...]:
    """Return the mounts that put mgctl into a container, with the command in the directory `container_path`."""
    command = Mount(str(published.directory / COMMAND), str(Path(container_path) / COMMAND))
    if not published.is_build:
        return (command,)
    return (Mount(str(published.directory / "build"), BUILD_DIRECTORY), command)


def socket_mount(socket_directory: Path) -> Mount:
    """Return the mount of the directory that holds the device API's socket; the directory, since sockets are made anew."""
    return Mount(str(socket_directory), SOCKET_DIRECTORY)


def clean_up(
    host_path: Path,
    checkpoint: Path,
    proc: Path = Path("/proc"),
    now: Callable[[], float] = time.time,
) -> tuple[str, ...]:
    """Remove versions that nobody needs, and what broken attempts left; return the names of those removed.

    `checkpoint` is kubelet's device checkpoint. Removes nothing, and says why in the log, when a witness cannot be read.
    """
    versions = host_path / VERSIONS
    try:
        old = _superseded(versions, now() - KEPT_SECONDS)
        if not old:
            return ()
        needed = names_in_checkpoint(checkpoint, old) | names_in_mounts(proc, old)
        removed = tuple(sorted(set(old) - needed))
        for name in removed:
            shutil.rmtree(versions / name)
    except (OSError, ValueError, RecursionError) as error:
        log.warning("old versions of mgctl are kept", extra={"path": str(versions), "cause": str(error)})
        return ()
    if removed:
        log.info("old versions of mgctl removed", extra={"count": len(removed), "path": str(versions)})
    return removed


def names_in_checkpoint(checkpoint: Path, names: Collection[str]) -> set[str]:
    """Return the versions that Allocate answers in kubelet's checkpoint mount; no checkpoint, no answers.

    Any text in it that is base64 may be such an answer: the form is kubelet's own and changes. Raises OSError, ValueError.
    """
    try:
        text = checkpoint.read_bytes()
    except FileNotFoundError:
        return set()
    return {name for found in _texts(json.loads(text)) for name in names if _names(found, name)}


def names_in_mounts(proc: Path, names: Collection[str]) -> set[str]:
    """Return the versions that any process sees among its mounts (proc_pid_mountinfo(5)). Raises OSError.

    One process of each mount namespace is asked. A process that ends meanwhile is no error. A table is read by pieces: a
    tenant with a namespace of its own may make it hundreds of megabytes long.
    """
    found: set[str] = set()
    asked: set[str] = set()
    for entry in os.listdir(proc):
        if not entry.isdecimal():
            continue
        try:
            namespace = os.readlink(proc / entry / "ns" / "mnt")
            if namespace in asked:
                continue
            found |= {name for text in _pieces(proc / entry / "mountinfo") for name in names if _names(text, name)}
        except OSError as error:
            if error.errno not in _ENDED:
                raise
            continue
        asked.add(namespace)
    return found


def _pieces(path: Path) -> Iterator[bytes]:
    """Yield a file's text by pieces, each with the end of the one before it. Raises OSError."""
    with path.open("rb", buffering=0) as file:
        before = b""
        while piece := file.read(_PIECE_BYTES):
            yield before + piece
            before = (before + piece)[-_OVERLAP_BYTES:]


def _names(text: bytes, name: str) -> bool:
    """Whether a text holds a path into a version; the mount table shows paths from their file system's own root."""
    return f"/{VERSIONS}/{name}/".encode() in text


def _texts(value: object) -> Iterator[bytes]:
    """Every base64 text in a JSON document, decoded."""
    match value:
        case dict():
            for inner in value.values():
                yield from _texts(inner)
        case list():
            for inner in value:
                yield from _texts(inner)
        case str():
            with contextlib.suppress(binascii.Error, ValueError):
                yield base64.b64decode(value, validate=True)


def _program(source: Path) -> Path:
    """Return the program itself, links followed. Raises OSError when there is none."""
    real = source.resolve(strict=True)
    return (real / COMMAND).resolve(strict=True) if real.is_dir() else real


def _digest(source: Path) -> str:
    """Return a short name for a content: paths, whether they can be run, bytes."""
    whole = hashlib.sha256()
    for path in _files(source):
        with path.open("rb") as file:
            inner = hashlib.file_digest(file, "sha256").digest()
            runs = os.fstat(file.fileno()).st_mode & 0o111 != 0
        whole.update(f"{path.relative_to(source)}\0{int(runs)}\0".encode() + inner)
    return whole.hexdigest()[:12]


def _files(source: Path) -> list[Path]:
    """Return all files of a build, or the one program. Raises OSError for a folder that cannot be read, which rglob skips."""
    if source.is_file():
        return [source]

    def fail(error: OSError) -> None:
        raise error

    found = (Path(folder, name) for folder, _, names in os.walk(source, onerror=fail) for name in names)
    return sorted(path for path in found if path.is_file())


def _place(source: Path, published: Published) -> None:
    """Put a version in place by one rename, complete and on the disk."""
    draft = published.directory.with_name(f".{published.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(mode=0o755)
        if published.is_build:
            for path in _files(source):
                _copy(path, draft / "build" / path.relative_to(source))
            _write_script(draft / COMMAND, f"{BUILD_DIRECTORY}/{published.program}")
        else:
            _copy(source, draft / COMMAND)
        for directory in (draft, *(path for path in draft.rglob("*") if path.is_dir())):
            # Whatever the umask is: any user of any container must get through.
            directory.chmod(0o755)
        os.sync()
        draft.rename(published.directory)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    """Copy a file for everybody to read, and to run if it can be run."""
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    runs = source.stat().st_mode & 0o111
    shutil.copyfile(source, target)
    target.chmod(0o755 if runs else 0o644)


def _write_script(path: Path, interpreter: str) -> None:
    line = f"#!{interpreter}\n"
    if len(line) > _LONGEST_INTERPRETER:
        raise OSError(f"{interpreter}: the kernel takes no more than {_LONGEST_INTERPRETER} bytes of an interpreter's line")
    path.write_text(line)
    path.chmod(0o755)


def _switch(versions: Path, name: str) -> None:
    """Let the link `current` lead to a version, without a moment in which it leads nowhere."""
    link, draft = versions / CURRENT, versions / f".{CURRENT}.{os.getpid()}"
    if link.is_symlink() and os.readlink(link) == name:
        return
    if link.is_symlink():
        # The time of its own superseding is what a version's age is counted from.
        with contextlib.suppress(OSError):
            os.utime(versions / os.readlink(link))
    for left in versions.glob(f".{CURRENT}.*"):
        left.unlink(missing_ok=True)
    draft.symlink_to(name)
    draft.replace(link)


def _superseded(versions: Path, before: float) -> list[str]:
    """Return versions, and drafts that were left, which are not current and were touched last before a moment."""
    try:
        current = os.readlink(versions / CURRENT)
    except FileNotFoundError:
        return []
    directories = [path for path in versions.iterdir() if path.is_dir() and not path.is_symlink()]
    return [path.name for path in directories if path.name != current and path.stat().st_mtime < before]
