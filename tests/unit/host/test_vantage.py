"""What the daemon is told of its own place at the start."""

from pathlib import Path

import pytest

from mortalgpu.host.vantage import blind_spots

HOST = {"pid": "pid:[4026531836]", "cgroup": "cgroup:[4026531835]"}


@pytest.mark.parametrize(
    ("links", "words"),
    [
        (HOST, []),
        (HOST | {"pid": "pid:[4026532201]"}, ["hostPID: true"]),
        (HOST | {"cgroup": "cgroup:[4026532202]"}, ["run privileged"]),
        ({"pid": "pid:[7]", "cgroup": "cgroup:[8]"}, ["hostPID: true", "run privileged"]),
        ({"pid": HOST["pid"]}, []),
    ],
    ids=["on the host", "own pid namespace", "own cgroup namespace", "both", "a kernel without cgroup namespaces"],
)
def test_each_blind_spot_is_named_with_its_way_out(links: dict[str, str], words: list[str], tmp_path: Path) -> None:
    (tmp_path / "self" / "ns").mkdir(parents=True)
    for kind, target in links.items():
        (tmp_path / "self" / "ns" / kind).symlink_to(target)
    found = blind_spots(str(tmp_path))
    assert len(found) == len(words)
    assert all(word in problem for word, problem in zip(words, found, strict=True))
