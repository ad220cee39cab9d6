"""A machine for the daemon as a process of its own: the driver stand-in, folders with short paths, a configuration.

The other side of its sockets is up to the test: a twin kubelet in the test's own process, or nobody.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import trio

from mortalgpu.model.device import Device
from mortalgpu.simulation.driver import worked_example
from tests.folders import short_folder
from tests.standin.nvml import StateFile, build, state_of

T = TypeVar("T")

WORKED_EXAMPLE = """
deviceSharing:
- {resourceName: mortalgpu/a100-shared, metagpusPerGpu: 400, modelName: ['Tesla V100-PCIE-32GB']}
- {resourceName: mortalgpu/a100-shared, metagpusPerGpu: 400, modelName: ['NVIDIA A100 80GB PCIe'], migid: [2]}
- {resourceName: mortalgpu/a100-20g, metagpusPerGpu: 200, modelName: ['NVIDIA A100 80GB PCIe'], migid: [3]}
- {resourceName: mortalgpu/a100-10g, metagpusPerGpu: 100, modelName: ['NVIDIA A100 80GB PCIe'], migid: [9, 10]}
"""
SHARED, TWENTY, TEN = "mortalgpu/a100-shared", "mortalgpu/a100-20g", "mortalgpu/a100-10g"
ALONE = (
    "nodeName: test-node\nexporter: {enabled: false}\ndeviceApi: {enabled: false}\npodSource: cri\ncriSocket: /nowhere.sock\n"
)
"""No port of this machine is taken, and none of its pods are looked at."""


@dataclass(slots=True)
class Machine:
    """Where things are; `driver` is what the stand-in answers from."""

    root: Path
    driver: StateFile
    library: Path

    @property
    def kubelet_root(self) -> Path:
        return self.root / "kubelet"

    @property
    def socket_dir(self) -> Path:
        return self.kubelet_root / "device-plugins"

    @property
    def config_path(self) -> Path:
        return self.root / "config.yaml"

    @property
    def state_dir(self) -> Path:
        return self.root / "state"

    @property
    def environment(self) -> dict[str, str]:
        ours = {"MORTALGPU_DRIVER_LIBRARY": str(self.library), "PYTHONDONTWRITEBYTECODE": "1"}
        rest = {name: value for name, value in os.environ.items() if not name.startswith("MORTALGPU_")}
        return {**rest, **self.driver.environment, **ours}

    @property
    def run_words(self) -> list[str]:
        """The command line of the daemon on this machine."""
        words = ["run", "--config", str(self.config_path), "--kubelet-dir", str(self.socket_dir)]
        return [*words, "--state-dir", str(self.state_dir)]

    def configure(self, text: str = WORKED_EXAMPLE) -> None:
        """Write the configuration, with what keeps the daemon to itself."""
        self.write_config(ALONE + text)

    def write_config(self, text: str) -> None:
        """Put a configuration in place by a rename, as editors and kubelet do: never half of it."""
        draft = self.config_path.with_suffix(".draft")
        draft.write_text(text)
        draft.replace(self.config_path)

    def ask(self, *words: str, before: Sequence[str] = ()) -> "subprocess.CompletedProcess[str]":
        """Run `mortalgpu` with these words to its end, `before` standing in front of the command. Blocks."""
        argv = [*before, sys.executable, "-m", "mortalgpu", *words]
        return subprocess.run(argv, env=self.environment, capture_output=True, text=True, timeout=30, check=False)


@contextmanager
def machine(devices: Sequence[Device] | None = None) -> Iterator[Machine]:
    """Make a machine with these devices (the worked example's), gone after the block."""
    with short_folder() as root:
        root.chmod(0o755)
        made = Machine(root, StateFile(root / "nvml.state", state_of(devices or worked_example(1))), build())
        made.configure()
        made.socket_dir.mkdir(parents=True)
        made.state_dir.mkdir()
        yield made


@dataclass(slots=True)
class Daemon:
    """A running daemon and what it logged."""

    child: "subprocess.Popen[bytes]"
    log_path: Path
    started: float = field(default_factory=trio.current_time)

    def lines(self, event: str = "") -> list[dict[str, Any]]:
        """Return its log lines so far, or those of one event."""
        whole = [line for line in self.log_path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in map(_parsed, whole) if event in ("", line["event"])]

    async def logged(self, event: str, *, count: int = 1, seconds: float = 10) -> list[dict[str, Any]]:
        """Wait until an event was logged so many times; fails with the log when it was not in time, or the daemon ended."""
        return await self.until(lambda: found if len(found := self.lines(event)) >= count else [], event, seconds)

    async def until(self, probe: Callable[[], T], what: str, seconds: float = 10) -> T:
        """Wait for a truthy answer; fails with the log when there was none in time, or the daemon ended."""
        with trio.move_on_after(seconds):
            while not (answer := probe()):
                assert self.child.poll() is None, f"the daemon ended before {what!r}:\n{self.log_path.read_text()}"
                await trio.sleep(0.005)
            return answer
        raise AssertionError(f"not in {seconds} s: {what!r}; the daemon's log:\n{self.log_path.read_text()}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.child.send_signal(number)

    async def ended(self, seconds: float = 10) -> int:
        """Wait for its end; return the exit code."""
        with trio.fail_after(seconds):
            while self.child.poll() is None:
                await trio.sleep(0.005)
        return int(self.child.returncode)

    async def stop(self) -> None:
        """Stop it as an operator does, and hold it to a clean end."""
        self.signal(signal.SIGTERM)
        assert await self.ended() == 0, self.log_path.read_text()


def _parsed(line: str) -> dict[str, Any]:
    try:
        parsed: dict[str, Any] = json.loads(line)
    except ValueError:
        return {"event": "", "text": line}
    return parsed


@asynccontextmanager
async def daemon(on: Machine, *more: str, number: int = 0) -> AsyncIterator[Daemon]:
    """Run the daemon for the length of a block; killed at the end if it still runs."""
    log_path = on.root / f"daemon-{number}.log"
    argv = [sys.executable, "-m", "mortalgpu", *on.run_words, *more]
    with log_path.open("wb") as log:
        child = subprocess.Popen(argv, env=on.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield Daemon(child, log_path)
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
