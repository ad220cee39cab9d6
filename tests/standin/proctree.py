"""STAND-IN for /proc: recorded machines (tests/fixtures/proc/*.yaml), written out as a tree that the real adapter reads.

A recorded process has its cgroup text literally, as the kernel prints it; the texts of `stat` and `status` are made here
from the few facts that matter. `container`, `user` and `command` are what must be read from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from mortalgpu.model.pod import ContainerRef

FIXTURES = Path(__file__).parents[1] / "fixtures" / "proc"
PASSWD = """\
root:x:0:0:root:/root:/bin/bash
+::::::
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
alice:x:1000:1000:Alice:/home/alice:/bin/bash
alias-of-alice:x:1000:1000::/home/alice:/bin/bash
"""


@dataclass(frozen=True)
class Recorded:
    """One recorded process, and what must be read from it."""

    pid: int
    what: str
    cgroup: str
    container: ContainerRef | None
    state: str = "S"
    threads: int = 12
    uid: int = 0
    name: str = "python3"
    cmdline: str = "python3\0-m\0train\0"
    pid_inside: int = 1
    threads_cgroups: Mapping[int, str] = field(default_factory=dict)
    user: str = "root"
    command: str = ""

    @property
    def start_ticks(self) -> int:
        """Different for every recorded process."""
        return 360_000 + self.pid

    @property
    def shown_command(self) -> str:
        """The command line that people must see."""
        return self.command or self.cmdline.rstrip("\0").replace("\0", " ")


def machines() -> dict[str, tuple[Recorded, ...]]:
    """Every recorded machine, by name."""
    return {path.stem: read_machine(path) for path in sorted(FIXTURES.glob("*.yaml"))}


def read_machine(path: Path) -> tuple[Recorded, ...]:
    """Read one recorded machine."""
    return msgspec.yaml.decode(path.read_bytes(), type=tuple[Recorded, ...], strict=False)


def write_machine(root: Path, processes: tuple[Recorded, ...]) -> None:
    """Write a machine's processes and its passwd file under `root`."""
    (root / "passwd").write_text(PASSWD)
    for process in processes:
        write_process(root, process)


def write_process(root: Path, process: Recorded) -> None:
    """Write one process, in place of whatever had its pid."""
    folder = root / str(process.pid)
    folder.mkdir(exist_ok=True)
    (folder / "cgroup").write_text(process.cgroup)
    (folder / "cmdline").write_text(process.cmdline)
    (folder / "stat").write_text(_stat_text(process))
    (folder / "status").write_text(_status_text(process))
    for thread, cgroup in process.threads_cgroups.items():
        (folder / "task" / str(thread)).mkdir(parents=True, exist_ok=True)
        (folder / "task" / str(thread) / "cgroup").write_text(cgroup)


def _stat_text(process: Recorded) -> str:
    before = (
        f"{process.pid} ({process.name}) {process.state} 1 {process.pid} {process.pid} 0 -1 4194560 461 0 7 0 22 48 0 0 20 0"
    )
    return f"{before} {process.threads} 0 {process.start_ticks} 9912832 81920 18446744073709551615 1 1 0 0 0 0 0 16781312\n"


def _status_text(process: Recorded) -> str:
    name = process.name.replace("\n", "\\n")
    numbers = str(process.pid) if process.pid_inside == process.pid else f"{process.pid}\t{process.pid_inside}\t2"
    users = "\t".join([str(process.uid)] * 4)
    return f"Name:\t{name}\nState:\t{process.state}\nPid:\t{process.pid}\nUid:\t{users}\nGid:\t{users}\nNSpid:\t{numbers}\n"
