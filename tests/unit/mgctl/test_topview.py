"""The live picture: golden at 80 and 120 columns, and the arithmetic of bars and sparklines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mortalgpu.mgctl.topview import ASCII, BAR_WIDTH, BLOCKS, SPARK_WIDTH, History, View, bar
from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb
from tests.unit.mgctl import pages
from tests.unit.mgctl.pages import COLOURED, OPERATOR, PLAIN


def picture(width: int, *, signs: object = BLOCKS, coloured: bool = False, remark: str = "") -> list[str]:
    """The second of two pictures, half a minute apart."""
    view = View(signs)  # type: ignore[arg-type]
    response = pages.containers(OPERATOR, pages.facts(None, pages.kills()))
    devices = list(pages.devices().device.values())
    paint = COLOURED if coloured else PLAIN
    view.draw(response, devices, paint, now=100.0, clock="12:00:00", width=width)
    return view.draw(response, devices, paint, now=130.0, clock="12:00:30", width=width, remark=remark)


PAGES = {
    "top-80-columns.txt": lambda: picture(80),
    "top-120-columns.txt": lambda: picture(120),
    "top-ascii.txt": lambda: picture(80, signs=ASCII),
    "top-coloured.txt": lambda: picture(80, coloured=True),
    "top-lost.txt": lambda: picture(80, remark="the daemon is not reachable; trying again"),
}


@pytest.mark.parametrize("name", PAGES)
def test_golden_page(name: str) -> None:
    pages.check(name, PAGES[name]())


@pytest.mark.parametrize("width", [52, 64, 75, 76, 80, 100, 200])
def test_a_picture_fits_the_terminal(width: int) -> None:
    assert max(len(line) for line in picture(width)) <= width


def test_a_pod_keeps_its_name_where_its_containers_has_no_room() -> None:
    device = pb.Device(uuid="GPU-a", index=2, mig_gpu_instance=9, model="A100")
    held = pb.ContainerDevice(device=device, allocated_shares=1)
    only = pb.GpuContainer(pod_id="jupyter-ann", pod_namespace="lab", container_name="notebook", container_devices=[held])
    for width, label in ((80, "2:9 lab/jupyter-ann "), (120, "2:9 lab/jupyter-ann/notebook ")):
        lines = View().draw(pb.GetGpuContainersResponse(gpu_containers=[only]), [device], PLAIN, now=0.0, clock="", width=width)
        assert any(line.startswith(label) for line in lines)
        assert any(line.startswith("2:9 A100 ") for line in lines)


def test_an_ascii_picture_is_ascii() -> None:
    assert all(line.isascii() for line in picture(80, signs=ASCII)[3:11] if "…" not in line)


def test_nothing_held_is_said() -> None:
    lines = View().draw(pb.GetGpuContainersResponse(visibility_level="l1"), [], PLAIN, now=0.0, clock="", width=80)
    assert "no container here holds shares" in lines
    assert "this pod: 0 containers" in lines[0]


def test_the_bar_shows_the_request_within_the_limit() -> None:
    assert bar(0, 100, ASCII, mark=50) == "-" * 10 + "|" + "-" * 9
    assert bar(100, 100, ASCII) == "#" * BAR_WIDTH
    assert bar(1, 100, ASCII) == "#" + "-" * 19
    assert bar(None, 100, ASCII) == "?" * BAR_WIDTH
    assert bar(5, 0, ASCII) == "#" * BAR_WIDTH
    assert bar(0, 0, ASCII) == "-" * BAR_WIDTH


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_bar_always_has_its_width(used: int, size: int, mark: int) -> None:
    assert len(bar(used, size, BLOCKS, mark=mark)) == BAR_WIDTH


def test_a_sparkline_shows_the_highest_of_each_part_newest_right() -> None:
    history = History()
    for at, value in ((0.0, 1.0), (30.0, 0.5), (58.0, 0.1), (59.0, 0.9)):
        history.note("x", at, value)
    line = history.sparkline("x", 59.0, ASCII)
    assert (line[-1], line[0], len(line)) == ("%", "#", SPARK_WIDTH)
    assert line.count(" ") == SPARK_WIDTH - 3


def test_samples_older_than_a_minute_are_forgotten() -> None:
    history = History()
    history.note("x", 0.0, 1.0)
    history.note("x", 60.0, 0.2)
    assert "#" not in history.sparkline("x", 60.0, ASCII)
    history.forget_before(60.0)
    assert history.sparkline("x", 60.0, ASCII).strip() == ""
    assert history.sparkline("y", 60.0, ASCII).strip() == ""


@given(st.lists(st.tuples(st.floats(0, 300), st.floats(0, 1)), max_size=50))
def test_a_sparkline_has_its_width_whatever_comes(samples: list[tuple[float, float]]) -> None:
    history = History()
    for at, value in sorted(samples):
        history.note("x", at, value)
    assert len(history.sparkline("x", 300.0, BLOCKS)) == SPARK_WIDTH
