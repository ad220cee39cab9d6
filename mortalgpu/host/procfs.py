"""What /proc says of one process: small readers over a root path, and the parsers of its texts.

Every reader takes the root (`/proc`, or a recorded tree) and returns None when the process is gone, which is normal at
any moment. They block, so they belong in a worker thread. Sources: proc_pid_stat(5), proc_pid_status(5),
proc_pid_cmdline(5). Names and command lines are chosen by the tenant and end on terminals, in logs and in metrics:
nothing leaves this file that is not printable, one line and capped.

Nothing here holds state, knows trio, or decides what a process may do.
"""

import errno
import os
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

from mortalgpu.errors import HostError
from mortalgpu.host.cgroup import container_of
from mortalgpu.model.pod import ContainerRef
from mortalgpu.texts import one_line

TEXT_LIMIT = 256
"""Longest text about a process, in characters."""

_FIRST_READ_BYTES = 8 * 1024
_CGROUP_BYTES = 256 * 1024
_COMMAND_BYTES = 4 * (TEXT_LIMIT + 1)
_PASSWD_BYTES = 16 * 1024 * 1024
_THREADS_ASKED = 32
"""How many threads speak for a dead first one: they are where their process is, or below, so that one would do."""
_LONGEST_NUMBER = 20
"""Digits of the largest number the kernel prints."""


@dataclass(frozen=True, slots=True)
class Stat:
    """The fields of /proc/<pid>/stat that matter here."""

    name: str
    state: str
    threads: int
    start_ticks: int

    @property
    def leader_died_first(self) -> bool:
        """The first thread has exited while others run on: such a process lives, and may hold memory."""
        return self.state in ("Z", "X") and self.threads > 1


@dataclass(frozen=True, slots=True)
class Status:
    """The fields of /proc/<pid>/status that matter here."""

    user_id: int
    pid_inside: int


# Readers.


def open_cgroup(root: str, pid: int, thread: int | None = None) -> int | None:
    """Open a process's cgroup file, or that of one of its threads.

    The descriptor stays bound to that very process: once it is reaped, reads say so, even if its number is used again.
    """
    path = f"{root}/{pid}/cgroup" if thread is None else f"{root}/{pid}/task/{thread}/cgroup"
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        _raise_unless_gone(error, path)
        return None


def read_cgroup(descriptor: int) -> bytes | None:
    """Read an open cgroup file from its start; None when its process is gone.

    Empty when the kernel cannot write the path (nested deeper than a path may be long): then nobody knows where it is.
    """
    try:
        text = os.pread(descriptor, _FIRST_READ_BYTES, 0)
        return text if len(text) < _FIRST_READ_BYTES else os.pread(descriptor, _CGROUP_BYTES, 0)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return b""
        _raise_unless_gone(error, "a process's cgroup file")
        return None


def read_stat(root: str, pid: int) -> Stat | None:
    """Read /proc/<pid>/stat."""
    text = _read(f"{root}/{pid}/stat", _FIRST_READ_BYTES)
    return parse_stat(text) if text else None


def read_status(root: str, pid: int) -> Status | None:
    """Read /proc/<pid>/status."""
    text = _read(f"{root}/{pid}/status", _FIRST_READ_BYTES)
    return parse_status(text) if text else None


def read_command(root: str, pid: int) -> str | None:
    """Read /proc/<pid>/cmdline; empty when it has none. The process itself can make this take arbitrarily long."""
    text = _read(f"{root}/{pid}/cmdline", _COMMAND_BYTES)
    return None if text is None else parse_command(text)


def read_users(path: str) -> dict[int, str]:
    """Read user names by number from a passwd file; empty when there is none or it may not be read."""
    try:
        return parse_passwd(_read(path, _PASSWD_BYTES) or b"")
    except HostError:
        return {}


def container_of_threads(root: str, pid: int) -> ContainerRef | None:
    """Return the container of a process whose first thread is dead, as its living threads tell it; None if they differ.

    In a v1 hierarchy the kernel shows a dead thread in the root cgroup, so that a tenant could step out of its container
    by ending the first thread of a process that goes on holding memory. The dead one itself is not asked, and of the living
    no more than are enough: of a hundred thousand, all asked, everybody else's scan would come late.
    """
    with closing(_thread_cgroups(root, pid)) as texts:
        named = set(islice((found for text in texts if (found := container_of(text)) is not None), _THREADS_ASKED))
    return named.pop() if len(named) == 1 else None


def _thread_cgroups(root: str, pid: int) -> Generator[bytes]:
    with closing(_threads(root, pid)) as threads:
        for thread in threads:
            if thread == pid or (descriptor := open_cgroup(root, pid, thread)) is None:
                continue
            try:
                yield read_cgroup(descriptor) or b""
            finally:
                os.close(descriptor)


def tracers_that_stop(root: str, pid: int) -> set[int]:
    """Return the processes whose tracing keeps a thread of this one stopped at this moment; empty when it is gone."""
    tracers = set()
    for thread in _threads(root, pid):
        fields = _fields(_read(f"{root}/{pid}/task/{thread}/status", _FIRST_READ_BYTES) or b"")
        tracer = _numbers(fields.get(b"TracerPid", b""))
        if fields.get(b"State", b"").split()[:1] == [b"t"] and tracer and tracer[0]:
            # What is told is the thread that traces; a process goes by its first one.
            tracers |= set(_numbers(_fields(_read(f"{root}/{tracer[0]}/status", _FIRST_READ_BYTES) or b"").get(b"Tgid", b"")))
    return tracers


def _threads(root: str, pid: int) -> Generator[int]:
    try:
        with os.scandir(f"{root}/{pid}/task") as threads:
            for thread in threads:
                yield int(thread.name)
    except OSError as error:
        _raise_unless_gone(error, f"{root}/{pid}/task")


def _read(path: str, limit_bytes: int) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(descriptor, limit_bytes)
        finally:
            os.close(descriptor)
    except OSError as error:
        _raise_unless_gone(error, path)
        return None


def _raise_unless_gone(error: OSError, path: str) -> None:
    if error.errno in (errno.ENOENT, errno.ESRCH):
        return
    cause = error.strerror or str(error)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        raise HostError(f"{path} cannot be read: {cause}; raise the daemon's limit of open files") from error
    raise HostError(f"{path} cannot be read: {cause}; the daemon needs root and the host's /proc without hidepid") from error


# Parsers.


def parse_stat(text: bytes) -> Stat | None:
    """Parse a stat line; None when it is not one. The name may hold spaces, parentheses and newlines: the last `)` ends it."""
    opening, closing = text.find(b"("), text.rfind(b")")
    fields = text[closing + 1 :].split()
    if not 0 < opening < closing or len(fields) < 20:
        return None
    counts = _numbers(fields[17] + b" " + fields[19])
    if not counts:
        return None
    name = one_line(text[opening + 1 : closing].decode("utf-8", "replace"), TEXT_LIMIT)
    return Stat(name, fields[0].decode("ascii", "replace"), threads=counts[0], start_ticks=counts[1])


def parse_status(text: bytes) -> Status | None:
    """Parse the status file; None when it lacks what is needed.

    `NSpid` lists the pid in each namespace from the reader's inwards: the second one is the container's, deeper ones are
    of namespaces that the tenant made. The kernel escapes newlines in names, so a line is a line.
    """
    fields = _fields(text)
    users, pids = _numbers(fields.get(b"Uid", b"")), _numbers(fields.get(b"NSpid", b"") or fields.get(b"Pid", b""))
    if not users or not pids:
        return None
    return Status(users[0], pids[1] if len(pids) > 1 else pids[0])


def parse_command(text: bytes) -> str:
    """Join the arguments of a cmdline text by spaces; an over-long or cut one ends in an ellipsis."""
    return one_line(text.rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace"), TEXT_LIMIT)


def parse_passwd(text: bytes) -> dict[int, str]:
    """Parse user names by number from a passwd text; the first name of a number wins, other lines are passed over."""
    users: dict[int, str] = {}
    for line in text.splitlines():
        fields = line.split(b":")
        if len(fields) >= 3 and fields[0] and (number := _numbers(fields[2])):
            users.setdefault(number[0], one_line(fields[0].decode("utf-8", "replace"), TEXT_LIMIT))
    return users


def _fields(text: bytes) -> dict[bytes, bytes]:
    return dict(line.split(b":", 1) for line in text.split(b"\n") if b":" in line)


def _numbers(text: bytes) -> list[int]:
    """Numbers between blanks; none at all if any word is not a number."""
    words = text.split()
    return [int(word) for word in words] if all(word.isdigit() and len(word) <= _LONGEST_NUMBER for word in words) else []
