"""Publishing mgctl: whole or not at all, never changed, and gone only when nobody needs it."""

import base64
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mortalgpu.errors import HostError
from mortalgpu.isolation import mgctl_mount
from mortalgpu.isolation.mgctl_mount import BUILD_DIRECTORY, KEPT_SECONDS, Published, clean_up, mounts, publish, socket_mount
from mortalgpu.model.grant import Mount


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A one-directory build."""
    directory = tmp_path / "image" / "mgctl.dist"
    (directory / "_internal" / "deep").mkdir(parents=True, mode=0o700)
    for name, mode in (("mgctl", 0o700), ("_internal/libc.so.6", 0o600), ("_internal/deep/data", 0o600)):
        path = directory / name
        path.write_text(name)
        path.chmod(mode)
    return directory


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A single program."""
    path = tmp_path / "usr-bin" / "mgctl"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\necho one\n")
    path.chmod(0o755)
    return path


def current(host: Path) -> Path:
    return (host / "mgctl" / "current").resolve()


def test_a_single_program_is_mounted_as_the_command(tmp_path: Path, program: Path) -> None:
    published = publish(program, tmp_path / "host", "1.0")
    assert mounts(published, "/usr/bin/") == (Mount(f"{published.directory}/mgctl", "/usr/bin/mgctl"),)
    assert subprocess.run([published.directory / "mgctl"], check=True, capture_output=True).stdout == b"one\n"
    assert current(tmp_path / "host") == published.directory
    assert published.name.startswith("1.0-")


def test_a_build_is_mounted_where_it_was_built_for_and_its_script_as_the_command(tmp_path: Path, build: Path) -> None:
    published = publish(build, tmp_path / "host", "1.0")
    directory, command = mounts(published, "/usr/bin/")
    assert directory == Mount(f"{published.directory}/build", BUILD_DIRECTORY)
    assert command == Mount(f"{published.directory}/mgctl", "/usr/bin/mgctl")
    assert Path(command.host_path).read_text() == f"#!{BUILD_DIRECTORY}/mgctl\n"
    assert (Path(directory.host_path) / "_internal" / "libc.so.6").read_text() == "_internal/libc.so.6"
    assert all(mount.read_only for mount in (directory, command))


def test_the_program_within_a_build_stands_for_the_build_also_through_a_link(tmp_path: Path, build: Path) -> None:
    link = tmp_path / "mgctl"
    link.symlink_to(build / "mgctl")
    whole = publish(build, tmp_path / "host", "1.0")
    assert publish(build / "mgctl", tmp_path / "host", "1.0") == whole
    assert publish(link, tmp_path / "host", "1.0") == whole


def test_any_user_of_a_container_can_read_and_run_it_whatever_the_umask(tmp_path: Path, build: Path) -> None:
    before = os.umask(0o077)
    try:
        published = publish(build, tmp_path / "host", "1.0")
    finally:
        os.umask(before)
    modes = {
        path.relative_to(published.directory).as_posix(): stat.S_IMODE(path.stat().st_mode)
        for path in (published.directory, *published.directory.rglob("*"))
    }
    assert modes == {
        ".": 0o755, "mgctl": 0o755, "build": 0o755, "build/mgctl": 0o755, "build/_internal": 0o755,
        "build/_internal/deep": 0o755, "build/_internal/libc.so.6": 0o644, "build/_internal/deep/data": 0o644,
    }  # fmt: skip


def test_publishing_the_same_again_touches_nothing(tmp_path: Path, build: Path) -> None:
    first = publish(build, tmp_path / "host", "1.0")
    inode = (first.directory / "build" / "mgctl").stat().st_ino
    assert publish(build, tmp_path / "host", "1.0") == first
    assert (first.directory / "build" / "mgctl").stat().st_ino == inode


def test_another_content_is_another_version_and_the_old_one_stays_as_it_was(tmp_path: Path, program: Path) -> None:
    first = publish(program, tmp_path / "host", "1.0")
    with (first.directory / "mgctl").open() as held_by_a_container:
        program.write_text("#!/bin/sh\necho two\n")
        second = publish(program, tmp_path / "host", "1.0")
        assert held_by_a_container.read() == "#!/bin/sh\necho one\n"
    assert first.directory != second.directory
    assert (first.directory / "mgctl").read_text() == "#!/bin/sh\necho one\n"
    assert current(tmp_path / "host") == second.directory


def test_a_link_that_a_crash_left_in_the_making_is_removed(tmp_path: Path, program: Path) -> None:
    publish(program, tmp_path / "host", "1.0.0")
    (tmp_path / "host" / "mgctl" / ".current.12").symlink_to("nowhere")
    program.write_bytes(b"another")
    second = publish(program, tmp_path / "host", "1.0.0").directory
    assert current(tmp_path / "host") == second
    assert not [path for path in (tmp_path / "host" / "mgctl").iterdir() if path.name.startswith(".")]


def test_going_back_to_a_version_makes_it_current_again(tmp_path: Path, program: Path) -> None:
    first = publish(program, tmp_path / "host", "1.0")
    publish_changed(program, tmp_path / "host", "two")
    program.write_text("#!/bin/sh\necho one\n")
    assert publish(program, tmp_path / "host", "1.0") == first
    assert current(tmp_path / "host") == first.directory


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="nowhere"):
        publish(tmp_path / "nowhere", tmp_path / "host", "1.0")
    assert not (tmp_path / "host").exists()


def test_a_publication_that_fails_halfway_leaves_nothing_and_keeps_what_was(
    tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = publish(program, tmp_path / "host", "1.0")

    def full(_source: Path, target: Path) -> None:
        target.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(HostError, match="No space left"):
        publish_changed(program, tmp_path / "host", "two")
    assert {path.name for path in (tmp_path / "host" / "mgctl").iterdir()} == {"current", first.name}
    assert current(tmp_path / "host") == first.directory


def test_a_build_with_a_folder_that_cannot_be_read_is_not_published_without_it(
    tmp_path: Path, build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readable = os.scandir

    def scandir(path: Path | str = ".") -> "os._ScandirIterator[str]":
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return readable(str(path))

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(HostError, match=r"Permission denied.*deep"):
        publish(build, tmp_path / "host", "1.0")
    assert not (tmp_path / "host" / "mgctl").exists()


def test_a_host_path_that_cannot_be_written_is_named(tmp_path: Path, program: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="file"):
        publish(program, tmp_path / "file", "1.0")


def test_the_sockets_directory_is_mounted_and_not_the_socket() -> None:
    assert socket_mount(Path("/var/lib/mortalgpu/sockets")) == Mount("/var/lib/mortalgpu/sockets", "/run/mortalgpu")


# Cleaning up.


def publish_changed(program: Path, host: Path, text: str) -> Published:
    program.write_text(f"#!/bin/sh\necho {text}\n")
    return publish(program, host, "1.0")


class Node:
    """A host with a superseded and a current version, kubelet's checkpoint, and a process table."""

    def __init__(self, directory: Path, program: Path) -> None:
        self.host = directory / "host"
        self.checkpoint = directory / "checkpoint"
        self.proc = directory / "proc"
        self.old = publish(program, self.host, "1.0")
        self.new = publish_changed(program, self.host, "two")
        self.superseded_at = self.old.directory.stat().st_mtime
        self.process(1, "mnt:[1]", "/var/lib/kubelet")

    def process(self, pid: int, namespace: str, mounted: str) -> None:
        entry = self.proc / str(pid)
        (entry / "ns").mkdir(parents=True)
        (entry / "ns" / "mnt").symlink_to(namespace)
        (entry / "mountinfo").write_text(f"36 35 98:0 {mounted} /usr/bin/mgctl ro,noatime - ext4 /dev/root rw\n")

    def answer(self, *paths: str) -> None:
        """Let kubelet remember an Allocate answer with these host paths."""
        response = base64.b64encode(b"\n" + b"".join(path.encode() + b"\x12\x00" for path in paths)).decode()
        entry = {"PodUID": "u", "DeviceIDs": {"-1": ["GPU-a::0"]}, "AllocResp": response}
        self.checkpoint.write_text(json.dumps({"Data": {"PodDeviceEntries": [entry]}, "Checksum": 7}))

    def clean_up(self, later: float = KEPT_SECONDS + 60) -> tuple[str, ...]:
        return clean_up(self.host, self.checkpoint, self.proc, lambda: self.superseded_at + later)


@pytest.fixture
def node(tmp_path: Path, program: Path) -> Node:
    """A host on which nothing needs the old version."""
    return Node(tmp_path, program)


def test_a_version_nobody_needs_is_removed_and_the_current_one_stays(node: Node) -> None:
    assert node.clean_up() == (node.old.name,)
    assert not node.old.directory.exists()
    assert (node.new.directory / "mgctl").exists()
    assert node.clean_up() == ()


def test_a_version_just_superseded_is_kept(node: Node) -> None:
    assert node.clean_up(KEPT_SECONDS - 60) == ()
    assert node.old.directory.exists()


def test_a_version_that_a_process_has_mounted_is_kept(node: Node) -> None:
    node.process(7, "mnt:[2]", f"/lib/mortalgpu/mgctl/{node.old.name}/mgctl")
    assert node.clean_up() == ()


def test_a_version_that_a_container_is_started_again_with_is_kept(node: Node) -> None:
    node.answer("/dev/x", f"{node.old.directory}/mgctl")
    assert node.clean_up() == ()


def test_an_answer_that_names_the_current_version_keeps_no_other(node: Node) -> None:
    node.answer(f"{node.new.directory}/mgctl")
    assert node.clean_up() == (node.old.name,)


@pytest.mark.parametrize("damage", ["not JSON", "a directory"])
def test_a_checkpoint_that_cannot_be_read_keeps_everything(node: Node, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    if damage == "a directory":
        node.checkpoint.mkdir()
    else:
        node.checkpoint.write_text("{")
    assert node.clean_up() == ()
    assert "old versions of mgctl are kept" in caplog.text


def test_a_process_table_that_cannot_be_read_keeps_everything(node: Node) -> None:
    node.proc.rename(node.proc.with_name("gone"))
    assert node.clean_up() == ()
    assert node.old.directory.exists()


def test_a_process_that_ends_while_it_is_asked_is_no_obstacle(node: Node) -> None:
    (node.proc / "9" / "ns").mkdir(parents=True)
    (node.proc / "10" / "ns").mkdir(parents=True)
    (node.proc / "10" / "ns" / "mnt").symlink_to("mnt:[9]")
    assert node.clean_up() == (node.old.name,)


def test_a_draft_that_a_crash_left_is_removed(node: Node) -> None:
    draft = node.host / "mgctl" / ".1.0-abc.4242"
    (draft / "build").mkdir(parents=True)
    os.utime(draft, (0, 0))
    assert node.clean_up(0) == (draft.name,)


def test_nothing_published_is_nothing_to_clean(tmp_path: Path) -> None:
    assert clean_up(tmp_path, tmp_path / "checkpoint", tmp_path / "proc") == ()


def test_real_processes_and_zombies_can_be_asked(tmp_path: Path) -> None:
    program = "import os, sys; pid = os.fork() or os._exit(0); print(pid, flush=True); sys.stdin.read()"
    parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    try:
        zombie = int(parent.stdout.readline())
        for pid in (os.getpid(), parent.pid, zombie):
            (tmp_path / str(pid)).symlink_to(f"/proc/{pid}")
        assert mgctl_mount.names_in_mounts(tmp_path, ["no-such-version"]) == set()
    finally:
        parent.communicate()
