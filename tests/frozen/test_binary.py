"""The static binary by itself: what it is, how fast it starts, what it leaves behind, and how it fails."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mortalgpu import __version__
from tests.e2e.waiting import eventually
from tests.folders import short_folder
from tests.frozen import built

pytestmark = pytest.mark.frozen

SIZE_LIMIT_BYTES = 20_000_000
START_SECONDS = 0.6
TRIES = 5
"""The quickest of so many counts: what else this machine does is not the binary's doing."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """The only place the binary may unpack in; short, for the sockets that the demo makes there."""
    with short_folder() as path:
        yield path


def run(*words: str, tmp: Path, name: str | None = None, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": os.defpath, "TMPDIR": str(tmp), **variables}
    argv = [name or str(built.binary()), *words]
    return subprocess.run(
        argv, executable=built.binary(), env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def unpacked(folder: Path) -> list[Path]:
    """The directories that starts made; six letters, where other temporary folders have eight."""
    return list(folder.glob("mortalgpu-??????"))


def test_the_binary_is_small_static_and_stripped() -> None:
    path = built.binary()
    assert path.stat().st_size <= SIZE_LIMIT_BYTES
    headers = subprocess.run(["readelf", "-lS", path], capture_output=True, text=True, check=True).stdout
    assert "INTERP" not in headers
    assert "DYNAMIC" not in headers
    assert ".symtab" not in headers


def test_the_version_is_there_at_once(folder: Path) -> None:
    times = []
    for _ in range(TRIES):
        began = time.monotonic()
        done = run("--version", tmp=folder)
        times.append(time.monotonic() - began)
        assert done.stdout.startswith(f"mortalgpu {__version__}")
    print(f"\n--version: {min(times):.3f} s, of {', '.join(f'{one:.3f}' for one in times)}")
    assert min(times) <= START_SECONDS


def test_it_names_the_commit_it_was_built_from(folder: Path) -> None:
    assert "(commit " in run("--version", tmp=folder).stdout


def test_it_is_mgctl_when_called_so(folder: Path) -> None:
    assert run("version", tmp=folder, name="/usr/bin/mgctl").stdout.startswith(f"mgctl {__version__}")


def test_exit_codes_and_messages_pass_through(folder: Path) -> None:
    wrong = folder / "wrong.yaml"
    wrong.write_text("memoryEnforcr: true\n")
    done = run("check-config", str(wrong), tmp=folder)
    assert done.returncode == 78
    assert "memoryEnforcr" in done.stderr
    assert run("no-such-command", tmp=folder).returncode == 2


def test_it_leaves_nothing_behind(folder: Path) -> None:
    run("--version", tmp=folder)
    eventually("the end of what was unpacked", lambda: not unpacked(folder), seconds=5)


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_a_signal_reaches_the_program_itself_and_nothing_stays(folder: Path, signal_number: signal.Signals) -> None:
    environment = {"TMPDIR": str(folder), "PATH": os.defpath}
    with subprocess.Popen([built.binary(), "demo", "--plain"], env=environment, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert Path(f"/proc/{child.pid}/comm").read_text() == "mortalgpu\n", "the program runs as the process that was started"
        child.send_signal(signal_number)
        child.stdout.read()
        child.wait(10)
    assert child.returncode == (-signal.SIGKILL if signal_number == signal.SIGKILL else 0)
    eventually("the end of what was unpacked", lambda: not unpacked(folder), seconds=5)


def test_a_start_removes_what_a_killed_pair_left_and_nothing_that_is_in_use(folder: Path) -> None:
    left = folder / "mortalgpu-abcdef"
    (left / "_internal").mkdir(parents=True)
    (left / "mortalgpu").touch()
    foreign = folder / "mortalgpu-settings"
    foreign.mkdir()
    environment = {"TMPDIR": str(folder), "PATH": os.defpath}
    with subprocess.Popen([built.binary(), "demo", "--plain"], env=environment, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert not left.exists()
        assert foreign.exists()
        mine = {path for path in unpacked(folder) if (path / "_internal").is_dir()}
        assert len(mine) == 1
        run("--version", tmp=folder)
        assert mine <= set(unpacked(folder)), "a running program's directory must stay"
        child.kill()


def test_without_any_place_to_unpack_it_says_what_it_needs(tmp_path: Path) -> None:
    built.need_root()
    folder = built.make_folders(tmp_path / "root")
    built.place(folder, {"/mortalgpu": built.binary()})
    done = built.Root(folder, read_only=True).run("/mortalgpu", "--version")
    assert done.returncode == 69
    assert "TMPDIR" in done.stderr
    assert done.stdout == ""


def test_a_place_that_forbids_programs_is_passed_over(tmp_path: Path) -> None:
    built.need_root()
    folder = built.make_folders(tmp_path / "root", "tmp", "run")
    built.place(folder, {"/mortalgpu": built.binary()})
    script = (
        f"mount -t tmpfs -o noexec tmpfs {folder}/tmp && mount -t tmpfs tmpfs {folder}/run && "
        f"mount -t proc proc {folder}/proc && exec chroot {folder} /mortalgpu --version"
    )
    done = subprocess.run(["unshare", "-m", "/bin/sh", "-c", script], capture_output=True, text=True, check=False, timeout=30)
    assert done.stdout.startswith("mortalgpu "), done.stderr


def test_a_full_disk_is_said_so(tmp_path: Path) -> None:
    built.need_root()
    folder = built.make_folders(tmp_path / "root", "tmp")
    built.place(folder, {"/mortalgpu": built.binary()})
    script = (
        f"mount -t tmpfs -o size=8m tmpfs {folder}/tmp && mount -t proc proc {folder}/proc && "
        f"exec chroot {folder} /mortalgpu --version"
    )
    done = subprocess.run(["unshare", "-m", "/bin/sh", "-c", script], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 69
    assert "No space left" in done.stderr


def test_it_carries_its_bill_of_materials_and_the_licences(folder: Path) -> None:
    inside = folder / "inside"
    assert run("--unpack", str(inside), tmp=folder).returncode == 0
    bill = json.loads((inside / "mortalgpu.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["version"] == __version__
    names = {component["name"] for component in bill["components"]}
    assert {"trio", "purerpc", "protobuf", "nvidia-ml-py", "msgspec", "libc6", "libssl3", "libpython3.11-minimal"} <= names
    licences = {path.name.split("-")[0] for path in (inside / "licenses").iterdir()}
    assert {"trio", "purerpc", "protobuf", "msgspec", "libc6", "libssl3"} <= licences


def test_every_frozen_library_is_in_the_bill_of_materials(folder: Path) -> None:
    inside = folder / "inside"
    run("--unpack", str(inside), tmp=folder)
    bill = json.loads((inside / "mortalgpu.cdx.json").read_text())
    listed = {component["name"].replace("-", "").replace("_", "") for component in bill["components"]}
    known = {"libcrypto": "libssl3", "libz": "zlib1g", "libexpat": "libexpat1", "libffi": "libffi8", "libuuid": "libuuid1"}
    for path in (inside / "_internal").glob("lib*.so*"):
        stem = path.name.split(".so")[0]
        assert known.get(stem, "libc6") in listed, path.name


def test_unpacking_over_something_is_refused(folder: Path) -> None:
    done = run("--unpack", str(folder), tmp=folder)
    assert done.returncode == 69
    assert "File exists" in done.stderr
