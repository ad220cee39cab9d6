"""Targets: what the kernel and the service manager say of processes and of us."""

import re
from functools import partial

import trio

from mortalgpu.errors import HostError
from mortalgpu.host import procfs
from mortalgpu.host.base import HostProcess
from mortalgpu.host.cgroup import container_of
from mortalgpu.host.identity import identify
from mortalgpu.host.systemd import Systemd, service_manager
from mortalgpu.model.pod import ContainerRef
from tests.fuzz.target import Target, no_fault_logged, only, scratch
from tests.standin.proctree import PASSWD, machines

_RECORDED = [process for processes in machines().values() for process in processes]
_CGROUPS = tuple(dict.fromkeys(process.cgroup.encode() for process in _RECORDED))
_WORDS = (
    *(b"kubepods", b"/kubepods.slice/", b"0::/", b"4:memory:/", b"/../..", b"-pod", b".slice", b".scope", b":cri-containerd:"),
    *(b"pod72f6b814209205af46df1dbc1688697e", b"/" + b"a" * 64, b"crio-conmon-", b"\n", b"..", b"12:pids,memory:"),
)
_STAT = b"42 (py) thon 3) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 12 0 360042 1 2 3 4 5\n"
_STATUS = b"Name:\tpython3\nPid:\t42\nUid:\t1000\t1000\t1000\t1000\nNSpid:\t42\t7\t1\n"


def check_cgroup(data: bytes) -> None:
    """A process is in the container that its cgroup names, and in no other; what a tenant nests below that changes nothing."""
    found = container_of(data)
    if found is None:
        return
    assert names(data, found), f"{found} is not in the text"
    other = b"/kubepods/pod" + b"0" * 32 + b"/" + b"f" * 64
    lines = data.split(b"\n")
    nested = b"\n".join(line + other if container_of(line) == found else line for line in lines)
    assert container_of(nested) == found, "a nested name was believed"


def names(text: bytes, ref: ContainerRef) -> bool:
    """Whether a line names both the pod and the container, below a kubepods."""
    uid = re.escape(ref.pod_uid).replace("\\-", "[-_]").encode()
    whole = rb"kubepods.*pod" + uid + rb".*" + ref.container_id.encode()
    return any(re.search(whole, line) for line in text.split(b"\n"))


def check_process(data: bytes) -> None:
    """Parsers of a process's texts give what can be shown on one line, and numbers that a kernel can mean, or nothing."""
    stat, status = procfs.parse_stat(data), procfs.parse_status(data)
    if stat is not None:
        assert _is_shown(stat.name)
        assert 0 <= stat.threads < 10**20
        assert 0 <= stat.start_ticks < 10**20
        assert str(stat.start_ticks).encode() in data
    if status is not None:
        assert 0 <= status.user_id < 10**20
        assert 0 <= status.pid_inside < 10**20
    assert _is_shown(procfs.parse_command(data))
    for number, name in procfs.parse_passwd(data).items():
        assert 0 <= number < 10**20
        assert _is_shown(name)


def _is_shown(text: str) -> bool:
    return text.isprintable() and len(text) <= procfs.TEXT_LIMIT


def check_tree(data: bytes) -> None:
    """A process read from /proc is gone, nobody's, or in the container that its cgroup, or its living threads', names."""
    root, (stat, cgroup, thread) = scratch() / "proc", (data.split(b"\xfd", 2) + [b""] * 2)[:3]
    task = root / "42" / "task" / "43"
    task.mkdir(parents=True, exist_ok=True)
    for path, text in ((root / "42" / "stat", stat), (root / "42" / "cgroup", cgroup), (task / "cgroup", thread)):
        path.write_bytes(text)
    found = identify(str(root), 42)
    if isinstance(found, HostProcess) and found.container is not None:
        assert names(cgroup + b"\n" + thread, found.container)


def check_service_manager(data: bytes) -> None:
    """The notify variable means a manager, nobody, or one HostError; and no status text makes a verb raise."""
    parts = data.decode("utf-8", "surrogateescape").split("\0")
    address, text = [*parts, ""][:2]
    with only(HostError, longest=20_000):
        service_manager({"NOTIFY_SOCKET": address})
    with no_fault_logged():
        trio.run(partial(Systemd(bytes(str(scratch() / "nobody"), "ascii")).ready, text))


TARGETS = (
    Target("cgroup", check_cgroup, _CGROUPS, _WORDS, inputs=6000),
    Target(
        "process-texts",
        check_process,
        (_STAT, _STATUS, b"python3\0-m\0train\0", PASSWD.encode()),
        (b")", b"(", b"\t", b"Uid:", b"NSpid:", b"\xe2\x80\xae", b"\x1b[2J", b" " * 20),
        inputs=3000,
    ),
    Target(
        "process-tree",
        check_tree,
        (
            *(b"\xfd".join((_STAT, text, _CGROUPS[0])) for text in _CGROUPS[:6]),
            b"\xfd".join((_STAT.replace(b" S ", b" Z "), b"0::/\n", _CGROUPS[0])),
        ),
        (*_WORDS, b"\xfd", b" Z ", b" X "),
        inputs=500,
    ),
    Target(
        "service-manager",
        check_service_manager,
        (b"/run/notify\x00all is well", b"@abstract\x00", b"vsock:2:1"),
        (b"\0", b"9" * 400, b"9" * 5000, b"\xff", b"\nMAINPID=1"),
        inputs=300,
    ),
)
