"""The program as an operator meets it: its words, what it prints, and how it ends."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator

import pytest
import trio

from mortalgpu.simulation.driver import A100_UUID, partition_uuid, v100_uuid, worked_example
from mortalgpu.simulation.kubelet import SimulatedKubelet, running
from tests.scenario.machine import SHARED, TEN, TWENTY, WORKED_EXAMPLE, Machine, daemon, machine

NOBODY = 65534


@pytest.fixture
def node() -> Iterator[Machine]:
    """Yield a machine with the worked example's devices and configuration."""
    with machine() as made:
        yield made


def one_line(done: "subprocess.CompletedProcess[str]") -> str:
    """Return what it said on standard error, having seen that it is one line and all it said."""
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


# check-config


def test_check_config_says_that_a_file_is_good_and_which_resources_it_makes(node: Machine) -> None:
    done = node.ask("check-config", str(node.config_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{node.config_path}: good; resources: {SHARED}, {TWENTY}, {TEN}\n"


def test_check_config_takes_a_charts_values_file(node: Machine) -> None:
    indented = "".join(f"  {line}\n" for line in WORKED_EXAMPLE.splitlines())
    node.config_path.write_text(f"image: {{tag: x}}\nconfig:\n{indented}")
    assert node.ask("check-config", str(node.config_path)).returncode == 0


@pytest.mark.parametrize("command", ["check-config", "discover", "run"])
def test_a_wrong_configuration_ends_every_command_with_78_and_one_line(node: Machine, command: str) -> None:
    node.configure("deviceSharing: [{resourceName: mortalgpu/a, metagpusPerGpu: 1, migid: [x]}]")
    words = {"run": node.run_words, "discover": ["discover", "--config", str(node.config_path)]}
    done = node.ask(*words.get(command, ["check-config", str(node.config_path)]))
    assert done.returncode == 78
    assert one_line(done) == "mortalgpu: config.deviceSharing[0].migid[0]: expected int, got str; its value is 'x'\n"


def test_a_wrong_flag_ends_with_78_and_shows_no_value(node: Machine) -> None:
    done = node.ask("check-config", str(node.config_path), "--set", "grpcSecurity.jwtSecre=hunter2")
    assert done.returncode == 78
    assert "hunter2" not in one_line(done)


def test_a_wrong_word_ends_with_2_and_the_usage(node: Machine) -> None:
    done = node.ask("dicsover")
    assert done.returncode == 2
    assert "usage: mortalgpu" in done.stderr


# discover


def test_discover_prints_the_worked_examples_figures_as_json(node: Machine) -> None:
    done = node.ask("discover", "-o", "json", "--config", str(node.config_path))
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["resources"] == {SHARED: 800, TWENTY: 200, TEN: 200}
    assert found["driver"] == {"driverVersion": "570.86.15", "nvmlVersion": "12.570.86.15", "cudaVersion": "12.8"}
    figures = {entry["uuid"]: (entry["shares"], entry["shareBytes"] * 40 // 2**20) for entry in found["devices"]}
    assert figures == {
        v100_uuid(0): (400, 3276),
        partition_uuid(2): (400, 4019),
        partition_uuid(3): (200, 3993),
        partition_uuid(9): (100, 3891),
        partition_uuid(10): (100, 3891),
    }
    partition = next(entry for entry in found["devices"] if entry["uuid"] == partition_uuid(3))
    assert partition["parentUuid"] == A100_UUID
    assert (partition["migGpuInstance"], partition["migProfile"]) == (3, "2g.20gb")
    assert (partition["entry"], partition["resourceName"]) == ("config.deviceSharing[2]", TWENTY)


def test_discover_prints_a_row_for_each_device_and_the_sum_of_each_resource(node: Machine) -> None:
    done = node.ask("discover", "--config", str(node.config_path))
    rows = done.stdout.splitlines()
    assert rows[0].split() == ["IDX", "GI", "UUID", "MODEL", "MEMORY", "SHARES", "SHARE", "SIZE", "RESOURCE", "ENTRY"]
    assert rows[2].split() == [
        *("1", "2", partition_uuid(2), "NVIDIA", "A100", "80GB", "PCIe", "39.2", "GiB", "400", "100", "MiB"),
        *(SHARED, "config.deviceSharing[1]"),
    ]
    assert rows[-3:] == [f"{SHARED}: 800 meta-devices", f"{TWENTY}: 200 meta-devices", f"{TEN}: 200 meta-devices"]


def test_discover_shows_what_is_reserved_and_what_is_left_alone(node: Machine) -> None:
    node.configure("deviceSharing: [{resourceName: mortalgpu/a, metagpusPerGpu: 10, reservedChunks: 3, migid: [2]}]")
    done = node.ask("discover", "--config", str(node.config_path))
    assert "7 (+3 reserved)" in done.stdout
    assert done.stdout.count("left alone") == 4
    assert done.stdout.endswith("mortalgpu/a: 7 meta-devices\n")


DEVICE_TROUBLES = {
    "more reserved than there are": (
        "metagpusPerGpuMemoryChunkMB: 16384, reservedChunks: 3",
        "config.deviceSharing[0].reservedChunks",
        v100_uuid(0),
    ),
    "a chunk larger than a device": (
        "metagpusPerGpuMemoryChunkMB: 10000000",
        "config.deviceSharing[0].metagpusPerGpuMemoryChunkMB",
        v100_uuid(0),
    ),
    "a list longer than kubelet reads": ("metagpusPerGpu: 100000", "config.deviceSharing[0].metagpusPerGpu", "4194304"),
    "a number beyond reason": (f"metagpusPerGpu: {10**40}", "config.deviceSharing[0].metagpusPerGpu", v100_uuid(0)),
}


@pytest.mark.parametrize(("entry", "field", "detail"), DEVICE_TROUBLES.values(), ids=DEVICE_TROUBLES)
@pytest.mark.parametrize("command", ["discover", "run"])
def test_what_the_devices_cannot_do_ends_with_78_and_says_which_device(
    node: Machine, command: str, entry: str, field: str, detail: str
) -> None:
    node.configure(f"log: {{json: false}}\ndeviceSharing: [{{resourceName: mortalgpu/a, {entry}}}]")
    done = node.ask(*({"run": node.run_words}.get(command) or ["discover", "--config", str(node.config_path)]))
    assert done.returncode == 78
    assert done.stderr.splitlines()[-1].startswith(f"mortalgpu: {field}: ")
    assert detail in done.stderr.splitlines()[-1]


# The driver.


@pytest.mark.parametrize("command", ["discover", "run"])
def test_a_missing_driver_library_ends_with_69_and_says_where_it_was_looked_for(node: Machine, command: str) -> None:
    words = node.run_words if command == "run" else ["discover", "--config", str(node.config_path)]
    done = node.ask(*words, "--driver-library", "/nowhere/libnvidia-ml.so.1")
    assert done.returncode == 69
    assert "/nowhere/libnvidia-ml.so.1" in one_line(done)


def test_a_driver_that_is_not_loaded_ends_with_69_and_the_way_out(node: Machine) -> None:
    node.driver.unload_driver()
    done = node.ask("discover", "--config", str(node.config_path))
    assert done.returncode == 69
    assert "modprobe nvidia" in one_line(done)


def test_a_hanging_driver_ends_discover_with_69(node: Machine) -> None:
    node.configure(f"driver: {{callTimeoutSeconds: 0.2}}\n{WORKED_EXAMPLE}")
    node.driver.add_fault("nvmlSystemGetDriverVersion", hang=20_000)
    done = node.ask("discover", "--config", str(node.config_path))
    assert done.returncode == 69
    assert "did not return" in one_line(done)


# The machine.


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("setpriv"), reason="needs root, and setpriv to give up its power")
def test_no_permission_on_the_socket_directory_ends_with_69(node: Machine) -> None:
    shutil.chown(node.socket_dir, NOBODY, NOBODY)
    node.socket_dir.chmod(0o750)
    powerless = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-all", "--"]
    done = node.ask(*node.run_words, before=powerless)
    assert done.returncode == 69
    assert str(node.socket_dir) in one_line(done)
    assert "no permission" in done.stderr


def test_a_socket_directory_with_too_long_a_path_ends_with_78(node: Machine) -> None:
    done = node.ask(*node.run_words, "--kubelet-dir", f"/tmp/{'x' * 80}")
    assert done.returncode == 78
    assert one_line(done).startswith("mortalgpu: config.kubelet.devicePluginDir: ")


def test_a_state_directory_that_cannot_be_made_ends_with_69(node: Machine) -> None:
    (node.root / "file").write_text("")
    done = node.ask(*node.run_words, "--state-dir", str(node.root / "file" / "state"))
    assert done.returncode == 69
    assert "--state-dir" in one_line(done)


async def test_an_absent_kubelet_is_waited_for_with_a_clear_line(node: Machine) -> None:
    async with daemon(node) as ours:
        (line,) = (await ours.logged("waiting for kubelet", seconds=5))[:1]
        assert line["path"] == str(node.socket_dir / "kubelet.sock")
        assert line["level"] == "warning"
        twin = SimulatedKubelet(node.kubelet_root)
        async with running(twin):
            begun = trio.current_time()
            await ours.until(lambda: twin.capacity(SHARED) == (800, 800), "the list", 3)
            assert trio.current_time() - begun < 1
            await ours.stop()


async def test_a_kubelet_directory_that_does_not_exist_yet_is_waited_for(node: Machine) -> None:
    shutil.rmtree(node.kubelet_root)
    async with daemon(node) as ours:
        await ours.logged("waiting for kubelet", seconds=5)
        twin = SimulatedKubelet(node.kubelet_root)
        async with running(twin):
            await ours.until(lambda: twin.capacity(SHARED) == (800, 800), "the list", 3)
            await ours.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("absent", [False, True], ids=["registered", "kubelet absent"])
async def test_a_signal_ends_the_daemon_quickly_with_0_and_no_socket_left(
    node: Machine, number: signal.Signals, absent: bool
) -> None:
    twin = SimulatedKubelet(node.kubelet_root)
    async with trio.open_nursery() as nursery, daemon(node) as ours:
        if absent:
            await ours.logged("waiting for kubelet")
        else:
            await nursery.start(twin.serve)
            await ours.until(lambda: twin.capacity(SHARED) == (800, 800), "the list")
        begun = trio.current_time()
        ours.signal(number)
        assert await ours.ended() == 0
        assert trio.current_time() - begun < 2
        assert ours.lines("stopping")[0]["signal"] == number.name
        assert not list(node.socket_dir.glob("mortalgpu-*"))
        nursery.cancel_scope.cancel()


async def test_a_second_signal_ends_a_stop_that_hangs(node: Machine) -> None:
    async with daemon(node) as ours:
        await ours.logged("waiting for kubelet")
        node.driver.add_fault("nvmlShutdown", hang=20_000)
        ours.signal(signal.SIGTERM)
        await ours.logged("stopping")
        ours.signal(signal.SIGTERM)
        begun = trio.current_time()
        await ours.ended()
        assert trio.current_time() - begun < 3


async def test_a_second_daemon_on_the_same_files_waits_for_the_first(node: Machine) -> None:
    async with daemon(node) as first:
        await first.logged("waiting for kubelet")
        async with daemon(node, number=2) as second:
            await second.logged("waiting for another daemon to end")
            assert not second.lines("sharing device")
            await first.stop()
            await second.logged("waiting for kubelet")
            await second.stop()


async def test_a_kill_without_warning_leaves_sockets_that_the_next_daemon_removes(node: Machine) -> None:
    twin = SimulatedKubelet(node.kubelet_root)
    async with running(twin):
        async with daemon(node) as first:
            await first.until(lambda: twin.capacity(SHARED) == (800, 800), "the list")
            first.signal(signal.SIGKILL)
            await first.ended()
        left = set(node.socket_dir.glob("mortalgpu-*"))
        assert len(left) == 3
        async with daemon(node, number=2) as second:
            await second.until(lambda: twin.capacity(SHARED) == (800, 800), "the list")
            await second.logged("registered with kubelet", count=3)
            assert not left & set(node.socket_dir.glob("mortalgpu-*"))
            assert not twin.overlaps
            await second.stop()


def test_the_worked_example_has_the_devices_that_its_figures_are_about() -> None:
    assert [device.uuid for device in worked_example(1)][:2] == [v100_uuid(0), A100_UUID]
