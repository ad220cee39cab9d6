"""mortalgpu.service under a real systemd: installed from the .deb in a Debian that boots, beside the twin of kubelet."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import trio

from mortalgpu import __version__
from mortalgpu.simulation.driver import worked_example
from mortalgpu.simulation.kubelet import SimulatedKubelet, running
from tests.folders import short_folder
from tests.frozen import built
from tests.frozen.machine import Machine
from tests.standin.nvml import StateFile, state_of
from tests.standin.nvml import build as build_driver

pytestmark = [pytest.mark.frozen, pytest.mark.root, pytest.mark.slow]

UNIT = "mortalgpu.service"
RESOURCE = "example.com/gpu"
CONFIG = f"""deviceSharing: [{{resourceName: {RESOURCE}, metagpusPerGpu: 10}}]
driver: {{library: /driver/libnvidia-ml.so.1}}
podSource: cri
log: {{json: false}}
"""
DROP_IN = "[Service]\nWatchdogSec=3\nRestartSec=0.2\n"
ALL = 50
PATIENCE_SECONDS = 40.0


@dataclass(frozen=True, slots=True)
class Node:
    """The machine, and its /var/lib/kubelet as a folder of ours."""

    machine: Machine
    kubelet_root: Path

    async def until(self, name: str, value: str) -> None:
        """Wait until a property of the unit has a value."""
        seen = ""
        with trio.move_on_after(PATIENCE_SECONDS):
            while seen != value:
                seen = await trio.to_thread.run_sync(self.machine.show, UNIT, name)
                await trio.sleep(0.05)
        assert seen == value, f"{name} is {seen!r}, not {value!r}: {self.machine.journal(UNIT)[-2000:]}"

    async def systemctl(self, *words: str) -> str:
        done = await trio.to_thread.run_sync(partial(self.machine.run, "/usr/bin/systemctl", *words))
        assert done.returncode == 0, done.stderr + self.machine.journal(UNIT)[-2000:]
        return done.stdout

    async def main_pid(self) -> int:
        """Return the service's main process, by its number inside."""
        return int(await trio.to_thread.run_sync(self.machine.show, UNIT, "MainPID"))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One machine for all: booting takes seconds. The unit is installed, and stopped."""
    built.need_root()
    package = built.output_of(f"mortalgpu_{__version__}_amd64.deb")
    folder = tmp_path_factory.mktemp("machine") / "root"
    subprocess.run(["cp", "-a", built.old_debian(), folder], check=True)
    built.place(folder, {"/package.deb": package, "/driver/libnvidia-ml.so.1": build_driver()})
    done = built.Root(folder).run("/usr/bin/dpkg", "-i", "/package.deb", env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    assert done.returncode == 0, done.stderr
    StateFile(folder / "driver" / "state", state_of(worked_example(1)))
    with (folder / "etc/mortalgpu/mortalgpu.env").open("a") as environment:
        environment.write("MORTALGPU_NVML_STATE=/driver/state\n")
    drop_in = folder / "etc/systemd/system/mortalgpu.service.d" / "test.conf"
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text(DROP_IN)
    with short_folder() as kubelet_root:
        (kubelet_root / "device-plugins").mkdir()
        with Machine(folder, {"/var/lib/kubelet": kubelet_root}) as machine:
            yield Node(machine, kubelet_root)


@pytest.fixture
def fresh(node: Node) -> Iterator[Node]:
    """The machine with the service stopped and its configuration good."""
    (node.machine.folder / "etc/mortalgpu/config.yaml").write_text(CONFIG)
    yield node
    node.machine.run("/usr/bin/systemctl", "stop", UNIT)
    node.machine.run("/usr/bin/systemctl", "reset-failed", UNIT)


async def shared(kubelet: SimulatedKubelet, count: int = ALL) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        while kubelet.capacity(RESOURCE) != (count, count):
            await trio.sleep(0.02)


async def test_the_unit_is_active_only_when_kubelet_has_its_resources(fresh: Node) -> None:
    await fresh.systemctl("start", "--no-block", UNIT)
    await fresh.until("SubState", "start")
    with trio.fail_after(PATIENCE_SECONDS):
        while "sharing device" not in fresh.machine.journal(UNIT):
            await trio.sleep(0.1)
    assert fresh.machine.show(UNIT, "ActiveState") == "activating", "no kubelet has answered yet"
    async with running(SimulatedKubelet(fresh.kubelet_root)) as kubelet:
        await fresh.until("ActiveState", "active")
        await shared(kubelet)
        assert RESOURCE in fresh.machine.show(UNIT, "StatusText")
        await fresh.systemctl("stop", UNIT)
        assert fresh.machine.show(UNIT, "Result") == "success"
        assert fresh.machine.show(UNIT, "ExecMainStatus") == "0"


async def test_the_watchdog_restarts_a_daemon_that_stands_still(fresh: Node) -> None:
    async with running(SimulatedKubelet(fresh.kubelet_root)) as kubelet:
        await fresh.systemctl("start", UNIT)
        pid = await fresh.main_pid()
        fresh.machine.run("/bin/sh", "-c", f"kill -STOP {pid}")
        await fresh.until("NRestarts", "1")
        await fresh.until("ActiveState", "active")
        await shared(kubelet)
        assert await fresh.main_pid() != pid
        assert "watchdog" in fresh.machine.journal(UNIT).lower()


async def test_a_killed_daemon_comes_back_and_leaves_no_files(fresh: Node) -> None:
    async with running(SimulatedKubelet(fresh.kubelet_root)) as kubelet:
        await fresh.systemctl("start", UNIT)
        pid = await fresh.main_pid()
        fresh.machine.run("/bin/sh", "-c", f"kill -KILL {pid}")
        await fresh.until("NRestarts", "1")
        await fresh.until("ActiveState", "active")
        await shared(kubelet)
        listing = f"ls -d /proc/{await fresh.main_pid()}/root/tmp/mortalgpu-*"
        with trio.fail_after(PATIENCE_SECONDS):
            while len(fresh.machine.run("/bin/sh", "-c", listing).stdout.split()) != 1:
                await trio.sleep(0.1)


async def test_a_configuration_that_cannot_be_used_is_not_tried_again(fresh: Node) -> None:
    (fresh.machine.folder / "etc/mortalgpu/config.yaml").write_text("memoryEnforcr: true\n")
    done = fresh.machine.run("/usr/bin/systemctl", "start", UNIT)
    assert done.returncode != 0
    assert fresh.machine.show(UNIT, "ActiveState") == "failed"
    assert (fresh.machine.show(UNIT, "ExecMainStatus"), fresh.machine.show(UNIT, "NRestarts")) == ("78", "0")
    assert "memoryEnforcr" in fresh.machine.journal(UNIT)


async def test_a_reload_takes_a_changed_configuration_without_a_restart(fresh: Node) -> None:
    async with running(SimulatedKubelet(fresh.kubelet_root)) as kubelet:
        await fresh.systemctl("start", UNIT)
        await shared(kubelet)
        pid = await fresh.main_pid()
        (fresh.machine.folder / "etc/mortalgpu/config.yaml").write_text(
            CONFIG.replace("metagpusPerGpu: 10", "metagpusPerGpu: 4")
        )
        await fresh.systemctl("reload", UNIT)
        await shared(kubelet, ALL * 4 // 10)
        assert await fresh.main_pid() == pid


async def test_the_sandbox_leaves_two_capabilities_and_no_way_to_more(fresh: Node) -> None:
    async with running(SimulatedKubelet(fresh.kubelet_root)):
        await fresh.systemctl("start", UNIT)
        status = fresh.machine.run("/bin/sh", "-c", f"cat /proc/{await fresh.main_pid()}/status").stdout
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        kill, ptrace = 1 << 5, 1 << 19
        assert int(fields["CapBnd"], 16) == kill | ptrace
        assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")


async def test_an_upgrade_restarts_a_running_service_and_removal_stops_it(fresh: Node) -> None:
    def dpkg(*words: str) -> None:
        done = fresh.machine.run("/usr/bin/env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "dpkg", *words)
        assert done.returncode == 0, done.stderr

    async with running(SimulatedKubelet(fresh.kubelet_root)) as kubelet:
        await fresh.systemctl("enable", "--now", UNIT)
        await shared(kubelet)
        pid = await fresh.main_pid()
        await trio.to_thread.run_sync(partial(dpkg, "-i", "/package.deb"))
        await shared(kubelet)
        assert await fresh.main_pid() != pid
        await trio.to_thread.run_sync(partial(dpkg, "-r", "mortalgpu"))
        assert fresh.machine.show(UNIT, "ActiveState") == "inactive"
        assert not os.path.lexists(fresh.machine.folder / f"etc/systemd/system/multi-user.target.wants/{UNIT}")
        await trio.to_thread.run_sync(partial(dpkg, "-i", "/package.deb"))
