"""Parsers of /proc texts, and readers over processes that are gone or may not be read."""

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mortalgpu.errors import HostError
from mortalgpu.host import procfs
from mortalgpu.model.pod import ContainerRef

POD, ONE, OTHER = "5eed0000-0000-4000-8000-000000000001", "1" * 64, "2" * 64
REST = b" 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 20 7 0 4242 99 1\n"
STAT = b"17 (%s) S" + REST


@pytest.mark.parametrize("name", ["python3", "a b", "a) R 1 (b", ")", "(", "((x))", "", "x\ny"])
def test_a_name_of_any_shape_does_not_shift_the_fields(name: str) -> None:
    stat = procfs.parse_stat(STAT.replace(b"%s", name.encode()))
    assert stat is not None
    assert (stat.state, stat.threads, stat.start_ticks) == ("S", 7, 4242)
    assert stat.name == name.replace("\n", " ")


@given(st.binary(max_size=300))
@example(STAT.replace(b"4242", b"-1"))
@example(STAT.replace(b"4242", b"9" * 5000))
@example(b"17 (x) S 1 2")
def test_a_stat_that_is_none_is_nothing(text: bytes) -> None:
    stat = procfs.parse_stat(text)
    assert stat is None or stat.start_ticks >= 0


@given(st.binary(max_size=300))
def test_no_status_command_or_passwd_text_raises(text: bytes) -> None:
    procfs.parse_status(text)
    procfs.parse_passwd(text)
    assert procfs.parse_command(text).isprintable()


@pytest.mark.parametrize(
    ("numbers", "inside"),
    [("NSpid:\t900", 900), ("NSpid:\t900\t1", 1), ("NSpid:\t900\t35\t1", 35), ("FDSize:\t64", 900)],
    ids=["no namespace", "one", "the tenant made another", "a kernel without NSpid"],
)
def test_the_pid_inside_is_the_containers(numbers: str, inside: int) -> None:
    status = procfs.parse_status(f"Name:\tx\nPid:\t900\nUid:\t1000\t0\t0\t0\n{numbers}\n".encode())
    assert status == procfs.Status(user_id=1000, pid_inside=inside)


@pytest.mark.parametrize("text", [b"", b"Uid:\t0\t0\n", b"Pid:\t4\n", b"Uid:\tx\nPid:\t4\n", b"Uid:\t\nPid:\t4\n"])
def test_a_status_without_user_or_pid_is_nothing(text: bytes) -> None:
    assert procfs.parse_status(text) is None


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"python\0-m\0train\0", "python -m train"),
        (b"one-title-rewritten by itself\0\0\0\0", "one-title-rewritten by itself"),
        (b"a\0\0b\0", "a  b"),
        (b"\x1b[31mred\x1b[0m\0", "?[31mred?[0m"),
        (b"first\nsecond\r\tthird\0", "first second  third"),
        ("\u202eright to left\u2066".encode(), "?right to left?"),
        (b"\xff\xfe\0", "\ufffd\ufffd"),
        ("größe\0".encode(), "größe"),
        (b"", ""),
    ],
)
def test_a_command_line_is_safe_to_show(raw: bytes, shown: str) -> None:
    assert procfs.parse_command(raw) == shown


def test_a_long_command_line_is_cut_with_an_ellipsis(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cmdline").write_bytes(b"\xf0\x9f\x90\x8d" * 100_000)
    command = procfs.read_command(str(tmp_path), 7)
    assert command is not None
    assert len(command) == procfs.TEXT_LIMIT
    assert command.endswith("🐍…")


def test_the_first_name_of_a_number_wins_and_odd_lines_are_passed_over() -> None:
    text = b"root:x:0:0\nbroken\n:x:5:5\nx:x:abc:1\ntoor:x:0:0\nbig:x:" + b"9" * 5000 + b":1\nbob\x1b:x:7:7\n"
    assert procfs.parse_passwd(text) == {0: "root", 7: "bob?"}


def test_a_process_that_is_gone_reads_as_nothing(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert procfs.open_cgroup(root, 7) is None
    assert procfs.read_stat(root, 7) is None
    assert procfs.read_status(root, 7) is None
    assert procfs.read_command(root, 7) is None
    assert procfs.container_of_threads(root, 7) is None
    assert procfs.read_users(str(tmp_path / "passwd")) == {}


def threads_in(root: Path, *containers: str) -> str:
    """Make the folder of process 7's threads, each in a container (empty: in none); return the root."""
    for number, container in enumerate(containers, start=7):
        (root / "7" / "task" / str(number)).mkdir(parents=True)
        path = f"/kubepods/pod{POD}/{container}" if container else "/"
        (root / "7" / "task" / str(number) / "cgroup").write_text(f"4:pids:{path}\n")
    return str(root)


def test_a_process_of_very_many_threads_takes_no_longer_to_place_than_one_of_a_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, opened, open_cgroup = threads_in(tmp_path, *[ONE] * 2000), list[int](), procfs.open_cgroup

    def counted(root: str, pid: int, thread: int | None = None) -> int | None:
        opened.append(thread or 0)
        return open_cgroup(root, pid, thread)

    monkeypatch.setattr(procfs, "open_cgroup", counted)
    assert procfs.container_of_threads(root, 7) == ContainerRef(POD, ONE)
    assert len(opened) < 50
    left = [number for number in map(int, os.listdir("/proc/self/fd")) if _leads_into(number, tmp_path)]
    assert left == []


def _leads_into(number: int, folder: Path) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{number}").startswith(str(folder))
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("others", "expected"),
    [([ONE], ONE), (["", "", ONE], ONE), ([ONE, OTHER], None), (["", ""], None), ([""] * 500 + [ONE], ONE)],
)
def test_threads_speak_for_a_dead_first_one_if_they_agree(tmp_path: Path, others: list[str], expected: str | None) -> None:
    found = procfs.container_of_threads(threads_in(tmp_path, "", *others), 7)
    assert found == (ContainerRef(POD, expected) if expected else None)


def test_a_process_table_that_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "7" / "stat").mkdir(parents=True)
    with pytest.raises(HostError, match=r"7/stat cannot be read: Is a directory; .*hidepid"):
        procfs.read_stat(str(tmp_path), 7)


def test_a_cgroup_text_of_many_long_lines_is_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    text = b"".join(b"%d:cpu%d:/%s\n" % (number, number, b"x" * 4000) for number in range(13)) + b"0::/end\n"
    (tmp_path / "7" / "cgroup").write_bytes(text)
    descriptor = procfs.open_cgroup(str(tmp_path), 7)
    assert descriptor is not None
    assert procfs.read_cgroup(descriptor) == text
    os.close(descriptor)
