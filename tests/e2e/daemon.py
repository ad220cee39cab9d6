"""The daemon as a process of its own, on the stand-in driver: started, stopped, killed and restarted by a test.

The program is `mortalgpu` beside the running Python, or what MORTALGPU_BIN names (the frozen binary, say).
"""

import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from mortalgpu.model.device import Device
from mortalgpu.simulation.driver import worked_example
from tests.e2e.build import Missing
from tests.e2e.process import Process
from tests.standin.nvml import StateFile, state_of
from tests.standin.nvml import build as build_driver

SHARED = "mortalgpu/a100-shared"
TWENTY = "mortalgpu/a100-20g"
TEN = "mortalgpu/a100-10g"
EXAMPLE_COUNTS = {SHARED: 800, TWENTY: 200, TEN: 200}
"""What the worked example advertises: one V100, and an A100 in four partitions."""
V100 = "Tesla V100-PCIE-32GB"
A100 = "NVIDIA A100 80GB PCIe"
EXAMPLE_SHARING: list[dict[str, Any]] = [
    {"resourceName": SHARED, "metagpusPerGpu": 400, "modelName": [V100]},
    {"resourceName": SHARED, "metagpusPerGpu": 400, "modelName": [A100], "migid": [2]},
    {"resourceName": TWENTY, "metagpusPerGpu": 200, "modelName": [A100], "migid": [3]},
    {"resourceName": TEN, "metagpusPerGpu": 100, "modelName": [A100], "migid": [9, 10]},
]


def example_config(folder: Path, **overrides: Any) -> dict[str, Any]:
    """Return the worked example's configuration, with every file under `folder`, and loopback ports that the kernel chooses.

    `overrides` replace whole top-level keys.
    """
    config: dict[str, Any] = {
        "log": {"verbose": False, "json": True},
        "deviceSharing": EXAMPLE_SHARING,
        "memoryEnforcer": True,
        "mgctl": {"hostMount": {"enabled": False}},
        "stateDir": str(folder / "state"),
        "nodeName": "harness",
        "podSource": "cri",
        "criSocket": str(folder / "no-runtime.sock"),
        "deviceApi": {"address": "127.0.0.1:0", "socketMount": False},
        "exporter": {"enabled": False},
    }
    return config | overrides


def program() -> Path:
    """Return the daemon's program. Raises Missing."""
    path = os.environ.get("MORTALGPU_BIN") or shutil.which("mortalgpu", path=str(Path(sys.executable).parent))
    if not path or not Path(path).exists():
        raise Missing(f"no mortalgpu program: {path or 'not beside this Python'}; install the project or set MORTALGPU_BIN")
    return Path(path)


class Daemon:
    """A daemon in `folder`, beside a kubelet with its sockets in `kubelet_dir`. `driver` changes what its driver says."""

    def __init__(
        self,
        folder: Path,
        kubelet_dir: Path,
        *,
        devices: Iterable[Device] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Prepare it; `start` starts it. `devices` defaults to the worked example's, `config` to its configuration."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "state").mkdir(exist_ok=True)
        self.folder = folder
        self.kubelet_dir = kubelet_dir
        self.config = dict(config or example_config(folder))
        self.driver = StateFile(folder / "nvml.state", state_of(worked_example(1) if devices is None else devices))
        self.before: tuple[str, ...] = ()
        """Words in front of the command, of a program that ends in becoming it."""
        self.process: Process | None = None
        self.library = build_driver()
        self._program = program()

    @property
    def log_path(self) -> Path:
        return self.folder / "mortalgpu.log"

    @property
    def pid(self) -> int:
        assert self.process is not None, "the daemon was not started"
        return self.process.pid

    def start(self) -> None:
        """Start it; what it becomes is seen in its log, or by its kubelet."""
        path = self.folder / "config.json"
        path.write_text(json.dumps(self.config))
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MORTALGPU_")}
        ours = {"MORTALGPU_DRIVER_LIBRARY": str(self.library), **self.driver.environment}
        command = [*self.before, self._program, "run", "--config", path, "--kubelet-dir", self.kubelet_dir]
        self.process = Process("mortalgpu", command, self.log_path, env=inherited | ours)

    def stop(self) -> int:
        """Send SIGTERM and return its exit code; 0 when it was not running."""
        return self.process.terminate() if self.process is not None and self.process.running else 0

    def kill(self) -> None:
        """Send SIGKILL and reap it."""
        if self.process is not None:
            self.process.kill()

    def restart(self, *, hard: bool = False) -> None:
        """End it, by SIGKILL when `hard`, and start it again."""
        if hard:
            self.kill()
        else:
            self.stop()
        self.start()

    def log(self) -> str:
        """Return everything it wrote, in all its lives."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def events(self, text: str) -> list[dict[str, Any]]:
        """Return its log's JSON lines that contain `text`."""
        return [json.loads(line) for line in self.log().splitlines() if text in line and line.startswith("{")]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
