"""Starts the tenant's program (intruder.c) in real containers, and finds its processes from outside."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.e2e.build import Missing
from tests.e2e.stage import Actor, Stage
from tests.e2e.waiting import eventually

SOURCE = Path(__file__).with_name("intruder.c")
FLAGS = ("-std=gnu11", "-O1", "-static", "-pthread", "-Wall", "-Wextra", "-Werror")
MOUNTED = "/hostile"
"""Where containers have the folder with the program, and write what it says."""


def compile_intruder(folder: Path) -> None:
    """Put the program into the folder that containers mount. Raises Missing."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise Missing("no C compiler (cc or gcc) to build the intruder with")
    command = [compiler, *FLAGS, "-o", str(folder / "intruder"), str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(f"the intruder cannot be built (a static libc is needed):\n{done.stderr}")


class Intrusion:
    """One start of the program: what it said, and its processes by the mark in their command lines."""

    def __init__(self, folder: Path) -> None:
        self.mark = f"mark-{os.urandom(6).hex()}"
        self._said = folder / self.mark

    def said(self) -> str:
        return self._said.read_text().strip() if self._said.exists() else ""

    def pids(self) -> list[int]:
        """Return the living processes, in the order of their numbers."""
        return sorted(pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if self._is_one(pid))

    def _is_one(self, pid: int) -> bool:
        return any(self.mark.encode() in text.split(b"\0") for text in _command_lines(pid))


def _command_lines(pid: int) -> Iterator[bytes]:
    """Yield a process's command line, which it lends to each of its threads; the first thread may be dead."""
    with suppress(FileNotFoundError, ProcessLookupError):
        text = Path(f"/proc/{pid}/cmdline").read_bytes()
        if text:
            yield text
            return
        for thread in Path(f"/proc/{pid}/task").iterdir():
            yield (thread / "cmdline").read_bytes()


@contextmanager
def intruding(stage: Stage, actor: Actor, folder: Path, mode: str, *words: str, name: str = "") -> Iterator[Intrusion]:
    """Run the program in a container for the length of a block, which begins when it has said something.

    `name` is what it calls itself in its command line. Everything it started is ended with the block.
    """
    made = Intrusion(folder)
    script = f'exec -a "$0" {MOUNTED}/intruder "$@" >{MOUNTED}/{made.mark} 2>&1'
    shell = ["/bin/sh", "-c", script, name or "intruder", mode, *words, made.mark]
    try:
        stage.node.containerd.ctr("tasks", "exec", "-d", "--exec-id", made.mark, actor.id, *shell)
        if mode != "storm":
            eventually(f"word of the intruder that is to {mode}", made.said, seconds=20)
        yield made
    finally:
        eventually("the end of the intruder", lambda: not _ended(made), seconds=20)


def _ended(made: Intrusion) -> list[int]:
    """Signal what is left, and return it: a chain may have gone on meanwhile."""
    left = made.pids()
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, 9)
    return left
