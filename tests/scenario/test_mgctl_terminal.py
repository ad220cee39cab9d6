"""mgctl on a terminal: the live view, what an interrupt leaves behind, colours."""

import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from mortalgpu.host.table import ProcfsTable
from tests.scenario.device_api import Served, served
from tests.scenario.mgctl import Terminal, mgctl, on_terminal
from tests.unit.deviceapi import node


def reach(made: Served) -> dict[str, str]:
    """What mgctl must know to reach the daemon as its operator."""
    return {"MG_CTL_ADDR": made.network, "MG_CTL_TOKEN": made.node_token()}


def echoes(terminal: Terminal) -> bool:
    return terminal.echoes


async def test_top_takes_the_screen_shows_everything_in_80_columns_and_gives_it_back(tmp_path: Path) -> None:
    async with served(tmp_path) as made:
        made.enforcement.publish(node.enforcement(node.kill(node.TRAIN_MAIN)))
        async with on_terminal("top", variables=reach(made)) as terminal:
            await terminal.until(lambda: "Recent kills" in terminal.screen)
            assert not echoes(terminal)
            lines = terminal.screen.splitlines()
            assert max(len(line) for line in lines) <= 80
            assert all(name in terminal.screen for name in ("train/main", "infer/main", "Tesla", "█", "python big.py"))
            made.usage.publish(node.usage(containers=node.usage().containers[:2]))
            await terminal.until(lambda: "infer" not in terminal.screen)
            terminal.type(b"q")
            assert await terminal.end() == 0
            assert echoes(terminal)
    assert terminal.seen.startswith("\x1b[?1049h\x1b[?25l")
    assert terminal.seen.endswith("\x1b[?25h\x1b[?1049l")


async def test_top_follows_the_size_of_its_terminal(tmp_path: Path) -> None:
    async with served(tmp_path) as made:
        async with on_terminal("top", variables=reach(made)) as terminal:
            await terminal.until(lambda: "LAST MINUTE" in terminal.screen)
            terminal.resize(60, 8)
            await terminal.until(lambda: "more lines" in terminal.screen)
            assert max(len(line) for line in terminal.screen.splitlines()) <= 60
            assert len(terminal.screen.splitlines()) < 8


async def test_an_interrupted_top_gives_the_screen_back(tmp_path: Path) -> None:
    async with served(tmp_path) as made:
        async with on_terminal("top", variables=reach(made)) as terminal:
            await terminal.until(lambda: "LAST MINUTE" in terminal.screen)
            terminal.process.send_signal(signal.SIGINT)
            assert await terminal.end() == 130
            assert terminal.echoes
    assert terminal.seen.endswith("\x1b[?25h\x1b[?1049l")


async def test_top_waits_for_a_daemon_that_is_started_anew(tmp_path: Path) -> None:
    address = f"unix://{tmp_path}/sockets/device.sock"
    with ProcfsTable() as table:
        async with AsyncExitStack() as stack:
            async with served(tmp_path, processes=table) as made:
                running = on_terminal("top", variables={"MG_CTL_ADDR": address, "MG_CTL_TOKEN": made.node_token()})
                terminal = await stack.enter_async_context(running)
                await terminal.until(lambda: "infer/main" in terminal.screen)
            await terminal.until(lambda: "not reachable" in terminal.screen)
            async with served(tmp_path, processes=table):
                await terminal.until(lambda: "not reachable" not in terminal.screen)
                assert "infer/main" in terminal.screen
                terminal.type(b"q")
                assert await terminal.end() == 0


async def test_top_without_a_terminal_is_plain_text(tmp_path: Path) -> None:
    async with served(tmp_path) as made:
        code, output, messages = await mgctl("top", "-n", "2", MG_CTL_ADDR=made.network, MG_CTL_TOKEN=made.node_token())
    assert (code, messages) == (0, "")
    assert output.count("mgctl top") == 2
    assert output.replace("\n", "").isprintable()


async def test_top_fits_terminals_that_know_ascii_only(tmp_path: Path) -> None:
    async with served(tmp_path) as made:
        code, output, _ = await mgctl(
            "top", "-n", "1", MG_CTL_ADDR=made.network, MG_CTL_TOKEN=made.node_token(), PYTHONIOENCODING="ascii"
        )
    assert code == 0
    assert "####" in output


async def test_watching_on_a_terminal_redraws_in_colour(tmp_path: Path) -> None:
    async with served(tmp_path) as made:
        async with on_terminal("get", "p", "-w", variables=reach(made)) as terminal:
            await terminal.until(lambda: "infer" in terminal.screen)
            assert "\x1b[32m" in terminal.seen
            assert max(len(line) for line in terminal.screen.splitlines()) <= 80
            made.usage.publish(node.usage(containers=node.usage().containers[:2]))
            await terminal.until(lambda: "infer" not in terminal.screen)


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
async def test_colours_can_be_declined(tmp_path: Path, variables: dict[str, str]) -> None:
    async with served(tmp_path) as made:
        async with on_terminal("get", "p", variables={**reach(made), **variables}) as terminal:
            assert await terminal.end() == 0
    assert "REQ/LIMITS" in terminal.seen
    assert "\x1b[3" not in terminal.seen
