"""What a tenant can do with the mounts that it is given, and with its own: tables of mounts made to be read."""

import tracemalloc
from pathlib import Path

import pytest

from mortalgpu.isolation import mgctl_mount
from tests.campaign import Tally

pytestmark = pytest.mark.hostile

MIB = 1 << 20
VERSION = "1.2.3-0123456789ab"


def namespace(proc: Path, pid: int, *lines: bytes, filler_mib: int = 0) -> None:
    """A process in a mount namespace of its own, which has so many mounts before the given ones."""
    (proc / str(pid) / "ns").mkdir(parents=True)
    (proc / str(pid) / "ns" / "mnt").symlink_to(f"mnt:[{pid}]")
    line = b"36 35 98:0 /" + b"m" * 4000 + b" /tmp/" + b"m" * 60 + b" rw - tmpfs none rw\n"
    with (proc / str(pid) / "mountinfo").open("wb") as file:
        for _ in range(filler_mib * MIB // len(line)):
            file.write(line)
        file.writelines(lines)


@pytest.mark.parametrize("shift", [0, 1, 17, 4095])
def test_a_giant_table_of_mounts_is_read_whole_and_fills_no_memory(tmp_path: Path, tally: Tally, shift: int) -> None:
    mounted = b"37 35 98:0 /mgctl/" + VERSION.encode() + b"/mgctl /usr/bin/mgctl ro - ext4 /dev/sda rw\n"
    namespace(tmp_path, 7, b"x" * shift + b"\n", mounted, b"y" * 300, filler_mib=24)
    namespace(tmp_path, 8)
    tracemalloc.start()
    try:
        found = mgctl_mount.names_in_mounts(tmp_path, [VERSION, "1.2.2-0123456789ab"])
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == {VERSION}
    assert most < 2 * MIB
    tally.add("attacks")


def test_a_name_is_found_wherever_the_pieces_of_a_table_meet(tmp_path: Path) -> None:
    for place in range(65_536 - 40, 65_536 + 4):
        proc = tmp_path / str(place)
        namespace(proc, 7, b"x" * place, f"/mgctl/{VERSION}/".encode(), b"\n")
        assert mgctl_mount.names_in_mounts(proc, [VERSION]) == {VERSION}
