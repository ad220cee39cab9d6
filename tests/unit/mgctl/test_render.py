"""What people read: golden pages of every table, and what must hold for all of them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mortalgpu.mgctl import render
from mortalgpu.mgctl.text import GREEN, RED, YELLOW, Cell, clip, columns, cut, harmless, table
from mortalgpu.model.usage import NO_USAGE
from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb
from tests.unit.mgctl import pages
from tests.unit.mgctl.pages import COLOURED, OPERATOR, PLAIN, TRAIN


def killed() -> pb.GetGpuContainersResponse:
    return pages.containers(OPERATOR, pages.facts(None, pages.kills()))


PAGES = {
    "processes-node.txt": lambda: render.processes(pages.containers(), PLAIN),
    "processes-container.txt": lambda: render.processes(pages.containers(TRAIN), PLAIN),
    "processes-80-columns.txt": lambda: render.processes(pages.containers(), PLAIN, width=80),
    "processes-ruled.txt": lambda: render.processes(pages.containers(), PLAIN, ruled=True),
    "processes-coloured.txt": lambda: render.processes(pages.containers(), COLOURED, width=100),
    "processes-kills.txt": lambda: render.processes(
        pages.containers(OPERATOR, pages.facts(None, pages.kills())), PLAIN, width=80
    ),
    "processes-none.txt": lambda: render.processes(pages.containers(OPERATOR, pages.facts(NO_USAGE)), PLAIN),
    "devices-node.txt": lambda: render.devices(pages.devices(), PLAIN),
    "devices-container.txt": lambda: render.devices(pages.devices(TRAIN), PLAIN),
    "devices-80-columns.txt": lambda: render.devices(pages.devices(), PLAIN, width=80),
    "devices-coloured.txt": lambda: render.devices(pages.devices(), COLOURED, ruled=True),
    "devices-none.txt": lambda: render.devices(pb.GetDevicesResponse(), PLAIN),
}


@pytest.mark.parametrize("name", PAGES)
def test_golden_page(name: str) -> None:
    pages.check(name, PAGES[name]())


def test_a_narrow_terminal_costs_words_of_the_command_and_no_number() -> None:
    for width in (40, 80, 84):
        lines = render.processes(killed(), PLAIN, width=width)
        assert "2001 (1)" in lines[4]
        assert lines[4].endswith("2/2")
        assert "python job-…" in lines[4]
    assert max(len(line) for line in render.processes(killed(), PLAIN, width=92)[:6]) == 92


@pytest.mark.parametrize(
    ("used", "request_mib", "limit", "colour"),
    [
        (0, 100, 100, GREEN),
        (100, 100, 100, GREEN),
        (101, 100, 150, YELLOW),
        (150, 100, 150, YELLOW),
        (151, 100, 150, RED),
        (1, 0, 0, RED),
        (101, 100, None, YELLOW),
        (None, 100, 100, ""),
    ],
)
def test_the_colour_tells_where_a_use_stands(used: int | None, request_mib: int, limit: int | None, colour: str) -> None:
    assert render.colour_of(used, request_mib, limit) == colour


def test_the_share_of_a_busy_device_is_in_per_cent_of_the_share() -> None:
    device = pb.Device(shares=10)
    assert render.share_percent(25, device, 5) == "50%"
    assert render.share_percent(100, device, 1) == "1000%"
    assert render.share_percent(25, device, 0) == "?"
    assert render.share_percent(25, pb.Device(), 5) == "?"


def test_trouble_with_neighbours_is_told() -> None:
    response = pages.containers()
    response.troubles.append("kubelet does not answer\x1b[2J")
    assert render.processes(response, PLAIN)[-1] == "Warning: kubelet does not answer?[2J"


HOSTILE = "\x1b[31mred\x1b]0;title\x07\r\n\x9b2J\u202eltr\u2066\u200b\x00"


def test_no_text_of_a_tenant_reaches_the_terminal_as_it_is() -> None:
    container = pb.GpuContainer(
        pod_id=HOSTILE, pod_namespace=HOSTILE, container_name=HOSTILE, node_name=HOSTILE, resource_name=HOSTILE,
        device_processes=[pb.DeviceProcess(uuid="GPU-a", pid=1, cmdline=HOSTILE, user=HOSTILE)],
        container_devices=[pb.ContainerDevice(device=pb.Device(uuid="GPU-a", model=HOSTILE), allocated_shares=1)],
        kills=[pb.Kill(pid=1, cmdline=HOSTILE, reason=HOSTILE, pod_id=HOSTILE, pod_namespace=HOSTILE, container_name=HOSTILE)],
    )  # fmt: skip
    response = pb.GetGpuContainersResponse(gpu_containers=[container], troubles=[HOSTILE])
    device = pb.Device(uuid=HOSTILE, model=HOSTILE, resource_name=HOSTILE, health=HOSTILE, health_reason=HOSTILE)
    for width in (0, 60):
        lines = render.processes(response, PLAIN, width=width)
        lines += render.devices(pb.GetDevicesResponse(device={"x": device}), PLAIN, width=width)
        assert all(line.isprintable() for line in lines)


@given(st.text())
def test_harmless_text_is_printable_and_keeps_its_length(text: str) -> None:
    assert harmless(text).isprintable()
    assert len(harmless(text)) == len(text)


@given(st.text(), st.integers(0, 30))
def test_cut_text_fits(text: str, width: int) -> None:
    assert columns(cut(text, width)) <= max(width, 0)
    assert cut(text, columns(text)) == text


@pytest.mark.parametrize(
    ("text", "taken"), [("train", 5), ("日本", 4), ("e\u0301", 1), ("한글.py", 7), ("🚀", 2), ("…█", 2), ("\uff21", 2), ("", 0)]
)
def test_a_text_is_as_wide_as_terminals_draw_it(text: str, taken: int) -> None:
    assert columns(text) == taken


def test_wide_characters_move_no_column_and_leave_no_line_too_long() -> None:
    rows = [[Cell("日本語コマンド" * 9), Cell("x")], [Cell("train"), Cell("x")]]
    lines = table(["CMD", "Y"], rows, PLAIN, width=40, elastic=((0, 12),))
    assert {columns(line) for line in lines} == {40}
    assert columns(clip("\x1b[31m日本語コマンド\x1b[0m", 7).replace("\x1b[31m", "").replace("\x1b[0m", "")) == 7


def test_a_long_pod_name_gives_way_before_a_number_does() -> None:
    response = pages.containers(TRAIN)
    response.gpu_containers[0].pod_id = "jupyter-" + "n" * 55
    row = next(line for line in render.processes(response, PLAIN, width=110) if line.startswith("jupyter-"))
    assert row.startswith("jupyter-nnnnnnn")
    assert len(row) <= 110


@given(st.lists(st.lists(st.text(max_size=30), min_size=3, max_size=3), max_size=5), st.integers(20, 100))
def test_colours_move_nothing(rows: list[list[str]], width: int) -> None:
    cells = [[Cell(text, RED) for text in row] for row in rows]
    plain = table(["A", "B", "C"], cells, PLAIN, width=width, elastic=((1, 12),))
    coloured = table(["A", "B", "C"], cells, COLOURED, width=width, elastic=((1, 12),))
    assert [re.sub("\x1b\\[[0-9]*m", "", line).rstrip() for line in coloured] == plain
    assert all(columns(re.sub("\x1b\\[[0-9]*m", "", clip(line, 10))) <= 10 for line in coloured)
