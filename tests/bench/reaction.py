"""How fast a container over its limit is stopped, what a scan takes, and what watching costs.

Real processes in real cgroups, real pidfds, the NVML binding over the driver stand-in; scanner and enforcer at their default
settings in a process of their own. Needs root and a writable cgroup v2 hierarchy. Alone: `python -m tests.bench.reaction`.
"""

import json
import os
import random
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mortalgpu.model.device import Device
from mortalgpu.units import MIB, from_mib
from tests.standin.cgroups import Box, KubepodsTree
from tests.standin.nvml import Process, StateFile, build, state_of

DEVICES = 8
DEVICE_MIB = 32_000
SHARES = 400
SHARES_EACH = 40
LIMIT_MIB = DEVICE_MIB * SHARES_EACH // SHARES
SLEEPER = ("sleep", "3600")
PATIENCE_SECONDS = 30.0
OUT_OF_STEP = 20_241_122
"""Seed of the pauses between trials, which must not keep step with the looks."""


@dataclass
class Bench:
    """Containers with processes, the driver's view of them, and the daemon that watches."""

    tree: KubepodsTree
    driver: StateFile
    boxes: list[Box]
    listed: list[Process]
    node: "subprocess.Popen[str]"

    def ask(self) -> dict[str, float]:
        """Return the daemon's figures."""
        assert self.node.stdin is not None
        assert self.node.stdout is not None
        self.node.stdin.write("\n")
        self.node.stdin.flush()
        answer: dict[str, float] = json.loads(self.node.stdout.readline())
        return answer

    def show(self, *more: Process) -> float:
        """Let the driver list the standing processes and some more; returns when that was so."""
        processes = (*self.listed, *more)
        used = {process.device: 0 for process in processes}
        for process in processes:
            used[process.device] += process.used or 0
        state = self.driver.state
        gpus = tuple(replace(gpu, used=used.get(gpu.uuid, 0)) for gpu in state.gpus)
        self.driver.write(replace(state, gpus=gpus, processes=processes))
        return time.monotonic()

    def cpu_seconds(self) -> float:
        """Processor time the daemon has used."""
        fields = Path(f"/proc/{self.node.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End the daemon."""
        assert self.node.stdin is not None
        assert self.node.stdout is not None
        self.node.stdin.close()
        self.node.wait(PATIENCE_SECONDS)
        self.node.stdout.close()


def measure(trials: int = 100, idle_seconds: float = 20.0) -> dict[str, float]:
    """Return all figures; takes about two minutes at the defaults."""
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, KubepodsTree.unified() as tree:
        bench = _start(tree, Path(folder), containers=40, processes_each=5)
        try:
            figures |= _idle(bench, idle_seconds)
            figures |= _reactions(bench, trials)
            figures |= _churn(bench, idle_seconds / 2)
        finally:
            bench.close()
    with tempfile.TemporaryDirectory() as folder, KubepodsTree.unified() as tree:
        bench = _start(tree, Path(folder), containers=80, processes_each=10)
        try:
            figures |= _scans(bench)
        finally:
            bench.close()
    return figures | metagpu_model()


def table(figures: dict[str, float]) -> str:
    """Return the figures as text, one a line, with the aim where there is one."""
    aims = {"reaction_p99_ms": 200, "scan_800_median_ms": 20, "cpu_idle_percent": 1}
    rows = []
    for name, value in figures.items():
        aim = f"  (aim: at most {aims[name]})" if name in aims else ""
        rows.append(f"  {name:<34} {value:>10.2f}{aim}")
    return "\n".join(rows)


def metagpu_model(crossings: int = 100_000) -> dict[str, float]:
    """Return what MetaGPU's loop gives: an enforcer every 5 s that reads a cache of processes renewed every 5 s.

    A crossing is acted on at the first turn of the enforcer after the first renewal that follows it. Both loops start with
    the daemon, out of step by a random phase; the time to collect and to kill is left out, in its favour.
    """
    dice = random.Random(OUT_OF_STEP)
    reactions = []
    for _ in range(crossings):
        renewal = dice.uniform(0, 5)
        turn = dice.uniform(0, 5)
        while turn < renewal:
            turn += 5
        reactions.append(turn * 1000)
    return {"metagpu_p50_ms": statistics.median(reactions), "metagpu_p99_ms": _percentile(reactions, 0.99)}


def _start(tree: KubepodsTree, folder: Path, *, containers: int, processes_each: int) -> Bench:
    devices = [Device(f"GPU-{number}", number, "Tesla V100", from_mib(DEVICE_MIB)) for number in range(DEVICES)]
    driver = StateFile(folder / "nvml.state", state_of(devices))
    boxes = [tree.container() for _ in range(containers)]
    listed = [
        Process(_device_of(number), pid=tree.run(box, SLEEPER).pid, used=100 * MIB)
        for number, box in enumerate(boxes)
        for _ in range(processes_each)
    ]
    plan = folder / "plan.json"
    plan.write_text(json.dumps({"devices": _devices_plan(), "containers": [_plan(*each) for each in enumerate(boxes)]}))
    command = [sys.executable, "-m", "tests.bench.reaction_node", str(plan), str(build())]
    environment = {**os.environ, **driver.environment}
    node = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    bench = Bench(tree, driver, boxes, listed, node)
    bench.show()
    assert node.stdout is not None
    assert node.stdout.readline() == "ready\n", "the daemon did not start"
    _wait(lambda: bench.ask()["processes"] == len(listed) and not bench.ask()["strangers"])
    return bench


def _device_of(container: int) -> str:
    return f"GPU-{container % DEVICES}"


def _devices_plan() -> list[dict[str, str]]:
    return [
        {"uuid": f"GPU-{number}", "index": str(number), "mib": str(DEVICE_MIB), "shares": str(SHARES)}
        for number in range(DEVICES)
    ]


def _plan(number: int, box: Box) -> dict[str, str]:
    first = number // DEVICES * SHARES_EACH
    return {
        "pod": box.ref.pod_uid,
        "container": box.ref.container_id,
        "name": f"pod-{number}",
        "uuid": _device_of(number),
        "first": str(first),
        "shares": str(SHARES_EACH),
    }


def _idle(bench: Bench, seconds: float) -> dict[str, float]:
    time.sleep(6)
    before, looks = bench.cpu_seconds(), bench.ask()["looks"]
    time.sleep(seconds)
    return {
        "cpu_idle_percent": (bench.cpu_seconds() - before) / seconds * 100,
        "looks_idle_per_second": (bench.ask()["looks"] - looks) / seconds,
    }


def _reactions(bench: Bench, trials: int) -> dict[str, float]:
    dice = random.Random(OUT_OF_STEP)
    reactions = []
    for trial in range(trials):
        number = trial % len(bench.boxes)
        process = bench.tree.run(bench.boxes[number], SLEEPER)
        within = Process(_device_of(number), pid=process.pid, used=200 * MIB)
        bench.show(within)
        time.sleep(0.4 + dice.random() * 0.2)
        ended = os.pidfd_open(process.pid)
        crossed = bench.show(Process(_device_of(number), pid=process.pid, used=(LIMIT_MIB + 1) * MIB))
        assert select.select([ended], [], [], PATIENCE_SECONDS)[0], "the process was not stopped"
        reactions.append((time.monotonic() - crossed) * 1000)
        os.close(ended)
        bench.show()
        assert process.wait(PATIENCE_SECONDS) == -9
    outcomes: dict[str, int] = bench.ask()["outcomes"]  # type: ignore[assignment]
    assert outcomes == {"killed": trials}, outcomes
    return {
        "reaction_p50_ms": statistics.median(reactions),
        "reaction_p99_ms": _percentile(reactions, 0.99),
        "reaction_max_ms": max(reactions),
    }


def _churn(bench: Bench, seconds: float) -> dict[str, float]:
    """One process allocates and frees all the time, well within its limit."""
    dice = random.Random(OUT_OF_STEP)
    before, scans, began = bench.cpu_seconds(), bench.ask()["scans"], time.monotonic()
    while time.monotonic() - began < seconds:
        bench.show(Process("GPU-0", pid=bench.listed[0].pid, used=dice.randrange(100, 1000) * MIB))
        time.sleep(0.05)
    took = time.monotonic() - began
    return {
        "cpu_churn_percent": (bench.cpu_seconds() - before) / took * 100,
        "scans_churn_per_second": (bench.ask()["scans"] - scans) / took,
    }


def _scans(bench: Bench) -> dict[str, float]:
    durations = []
    for step in range(60):
        moved = Process("GPU-0", pid=1, used=(50 + step % 2 * 50) * MIB)
        scans = bench.ask()["scans"]
        bench.show(moved)
        _wait(lambda scans=scans: bench.ask()["scans"] > scans)  # type: ignore[misc]
        durations.append(bench.ask()["last_scan_seconds"] * 1000)
    return {"scan_800_median_ms": statistics.median(durations), "scan_800_p99_ms": _percentile(durations, 0.99)}


def _percentile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the daemon did not get there"
        time.sleep(0.02)


if __name__ == "__main__":
    print(table(measure()))
