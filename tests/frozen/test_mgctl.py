"""mgctl as a container gets it: a directory and a one-line file, mounted read-only into an image that holds nothing else."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio

from mortalgpu import __version__
from mortalgpu.isolation.mgctl_mount import BUILD_DIRECTORY, mounts, publish
from mortalgpu.simulation.kubelet import SimulatedKubelet, running
from tests.e2e.daemon import EXAMPLE_COUNTS, Daemon
from tests.folders import short_folder
from tests.frozen import built

pytestmark = [pytest.mark.frozen, pytest.mark.root]

VERSION_SECONDS = 0.15
GET_SECONDS = 0.3
TRIES = 7


@pytest.fixture
def container(tmp_path: Path) -> built.Root:
    """A container made of nothing but the mounts: no libc, no shell, read-only, no place for temporary files, uid 1000."""
    built.need_root()
    published = publish(built.mgctl_directory(), tmp_path / "host", __version__)
    folder = built.make_folders(tmp_path / "root", "usr/bin")
    binds = {}
    for mount in mounts(published, "/usr/bin/"):
        target = folder / mount.container_path.lstrip("/")
        if Path(mount.host_path).is_dir():
            target.mkdir(parents=True)
        else:
            target.touch()
        binds[mount.container_path] = Path(mount.host_path)
    return built.Root(folder, binds=binds, read_only=True, uid=1000)


def test_mgctl_runs_where_nothing_else_is(container: built.Root) -> None:
    done = container.run("/usr/bin/mgctl", "version")
    assert (done.stdout, done.returncode) == (f"mgctl {__version__}\n", 0), done.stderr


def test_its_words_arrive_as_they_were_given(container: built.Root) -> None:
    done = container.run("/usr/bin/mgctl", "version", "-o", "json")
    assert json.loads(done.stdout) == {"version": __version__}


def test_without_a_daemon_it_says_so_and_ends_with_69(container: built.Root) -> None:
    done = container.run("/usr/bin/mgctl", "get", "processes", env={"MG_CTL_ADDR": "127.0.0.1:1"})
    assert done.returncode == 69
    assert "not reachable" in done.stderr


def test_a_containers_own_library_path_does_not_mix_in(container: built.Root, tmp_path: Path) -> None:
    """An image may have a libc or zlib of its own there, made for another loader."""
    foreign = container.folder / "lib"
    foreign.mkdir()
    for name in ("libc.so.6", "libz.so.1", "libpython3.11.so.1.0"):
        (foreign / name).write_bytes(b"no library at all")
    done = container.run("/usr/bin/mgctl", "version", env={"LD_LIBRARY_PATH": "/lib"})
    assert done.stdout == f"mgctl {__version__}\n", done.stderr


def test_wrong_words_end_with_2(container: built.Root) -> None:
    assert container.run("/usr/bin/mgctl", "gt", "processes").returncode == 2


def test_it_is_built_for_the_place_where_it_is_mounted() -> None:
    program = built.mgctl_directory() / "mgctl"
    shown = subprocess.run(["patchelf", "--print-interpreter", program], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == f"{BUILD_DIRECTORY}/ld-linux-x86-64.so.2"


@pytest.fixture
def on_the_host(tmp_path: Path) -> Path:
    """mgctl, built for a place of the test's own instead of the one in containers: nothing is put into this machine's /usr."""
    folder = tmp_path / "mgctl"
    shutil.copytree(built.mgctl_directory(), folder, symlinks=True)
    program = folder / "mgctl"
    subprocess.run(["patchelf", "--set-interpreter", folder / "ld-linux-x86-64.so.2", program], check=True)
    return program


def quickest(*argv: str | Path) -> float:
    """Return the seconds of the quickest of several runs, each in a fresh process."""
    times = []
    for _ in range(TRIES):
        began = time.monotonic()
        subprocess.run(argv, capture_output=True, check=True)
        times.append(time.monotonic() - began)
    return min(times)


async def test_mgctl_answers_in_time(on_the_host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORTALGPU_BIN", str(built.binary()))
    with short_folder() as folder:
        async with running(SimulatedKubelet(folder / "kubelet")) as kubelet:
            with Daemon(folder / "d", kubelet.device_plugin_dir) as daemon:
                with trio.fail_after(30):
                    while not all(kubelet.capacity(name)[0] for name in EXAMPLE_COUNTS):
                        await trio.sleep(0.02)
                get = (on_the_host, "--addr", f"unix://{folder}/d/state/admin.sock", "get", "processes")
                python = await trio.to_thread.run_sync(quickest, sys.executable, "-c", "pass")
                version = await trio.to_thread.run_sync(quickest, on_the_host, "version")
                shown = await trio.to_thread.run_sync(quickest, *get)
                assert daemon.stop() == 0
    print(f"\npython -c pass {python:.3f} s, mgctl version {version:.3f} s, mgctl get processes {shown:.3f} s")
    assert version <= VERSION_SECONDS
    assert shown <= GET_SECONDS
