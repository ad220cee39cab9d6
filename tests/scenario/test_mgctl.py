"""mgctl against a serving daemon: results, messages, exit codes, terminals."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
import yaml

from mortalgpu import __version__
from mortalgpu.host.table import ProcfsTable
from mortalgpu.mgctl import client
from mortalgpu.mgctl.completion import script
from mortalgpu.rpc.health import Health
from mortalgpu.rpc.listener import listen_tcp
from mortalgpu.rpc.server import Server
from mortalgpu.rpc.status import Code, RpcError
from tests.scenario.device_api import Served, served
from tests.scenario.mgctl import COMMAND, Terminal, environment, mgctl, on_terminal
from tests.scenario.test_device_api_clients import make_certificate
from tests.unit.deviceapi import node
from tests.unit.deviceapi.rig import STATIC_L1

IDS = node.ids(node.GPU_A, 0, 1, 2, 3)


# What it shows.


async def test_in_a_container_no_flag_is_needed_but_the_address(tmp_path: Path) -> None:
    async with served(tmp_path) as made:
        made.call_from(None)
        code, output, messages = await mgctl("get", "p", MG_CTL_ADDR=made.network, MG_CTL_TOKEN=made.token(*IDS))
    assert (code, messages) == (0, "")
    assert "train/main" in output
    assert "infer" not in output
    assert "\x1b" not in output


@pytest.mark.parametrize("kind", ["processes", "devices"])
async def test_json_and_yaml_say_the_same_on_standard_output(tmp_path: Path, kind: str) -> None:
    async with served(tmp_path) as made:
        flags = ("-s", made.network, "-t", made.node_token())
        as_json = await mgctl("get", kind, *flags, "-o", "json")
        as_yaml = await mgctl("get", kind, *flags, MG_CTL_OUTPUT="yaml")
        pretty = await mgctl("get", kind, *flags, "-o", "json", "--pretty")
    assert [result[0] for result in (as_json, as_yaml, pretty)] == [0, 0, 0]
    assert json.loads(as_json[1]) == yaml.safe_load(as_yaml[1]) == json.loads(pretty[1])
    assert as_json[1].count("\n") == 1
    assert json.loads(as_json[1])["server_version"] == __version__


async def test_a_token_may_lie_in_a_file(tmp_path: Path) -> None:
    async with served(tmp_path) as made:
        (tmp_path / "token").write_text(made.node_token() + "\n")
        assert (await mgctl("get", "d", "-s", made.network, "-t", f"@{tmp_path}/token"))[0] == 0
        code, _, messages = await mgctl("get", "d", "-s", made.network, "-t", f"@{tmp_path}/nowhere")
    assert code == 1
    assert "nowhere cannot be read: No such file" in messages


async def test_with_the_shared_token_a_pod_names_itself(tmp_path: Path) -> None:
    async with served(tmp_path, container_token=STATIC_L1) as made:
        reach = ("-s", made.network, "-t", STATIC_L1)
        code, output, messages = await mgctl("get", "p", *reach)
        assert (code, output) == (1, "")
        assert "--pod" in messages
        code, output, _ = await mgctl("get", "p", *reach, "--pod", "infer")
        assert (code, "infer" in output, "train" in output) == (0, True, False)
        code, output, _ = await mgctl("top", "-n", "1", *reach, MG_CTL_POD="team-a/train")
        assert (code, "train/main" in output, "Tesla" in output, "infer" in output) == (0, True, True, False)


async def test_watching_prints_a_snapshot_for_each_change(tmp_path: Path) -> None:
    async with served(tmp_path) as made:
        flags = ("-s", made.network, "-t", made.node_token())
        lines = (await mgctl("get", "p", "-w", "-n", "2", "-o", "json", *flags))[1].splitlines()
        assert [len(json.loads(line)["gpu_containers"]) for line in lines] == [5, 5]
        documents = list(yaml.safe_load_all((await mgctl("get", "p", "-w", "-n", "2", "-o", "yaml", *flags))[1]))
        assert [len(document["gpu_containers"]) for document in documents] == [5, 5]
        tables = (await mgctl("get", "p", "-w", "-n", "2", *flags))[1]
        assert tables.count("REQ/LIMITS") == 2


async def test_ping_tells_the_version_to_who_may_know_it(tmp_path: Path) -> None:
    async with served(tmp_path) as made:
        code, output, _ = await mgctl("ping", "-s", made.network, "-t", made.node_token(), "-o", "json")
        assert (code, json.loads(output)["server_version"]) == (0, __version__)
        code, output, _ = await mgctl("ping", "-s", made.network)
        assert code == 0
        assert f"the daemon at {made.network} answered in" in output


async def test_over_tls_with_the_authority_given(tmp_path: Path) -> None:
    (cert, key), (other, _) = make_certificate(tmp_path, "one"), make_certificate(tmp_path, "two")
    async with served(tmp_path, cert_file=cert, key_file=key) as made:
        assert (await mgctl("ping", "-s", made.network, "--ca-file", cert))[0] == 0
        code, _, messages = await mgctl("ping", "-s", made.network, "--ca-file", other)
        assert code == 69
        assert "certificate" in messages.lower()
        assert (await mgctl("ping", "-s", made.network, MG_CTL_CA_FILE=str(tmp_path / "nowhere")))[0] == 1


# Kills.


async def test_killing_says_what_was_killed(tmp_path: Path) -> None:
    async with served(tmp_path) as made:
        made.populate()
        code, output, _ = await mgctl("kill", str(node.TRAIN_PID), "-s", made.network, "-t", made.token(*IDS))
        assert (code, output) == (0, f"killed {node.TRAIN_PID}\n")
        assert not made.host.running(node.TRAIN_PID)


async def test_killing_several_fails_if_one_does_and_does_the_others(tmp_path: Path) -> None:
    async with served(tmp_path) as made:
        made.populate()
        words = ("kill", str(node.INFER_PID), str(node.TRAIN_PID), "-o", "json")
        code, output, messages = await mgctl(*words, "-s", made.network, "-t", made.token(*IDS))
    assert (code, json.loads(output)) == (1, {"killed": [node.TRAIN_PID]})
    assert f"not allowed: {node.INFER_PID} is not" in messages


async def test_the_number_inside_the_container_is_answered_with_the_one_on_the_host(tmp_path: Path) -> None:
    async with served(tmp_path) as made:
        made.populate()
        code, _, messages = await mgctl("kill", "2", "-s", made.network, "-t", made.token(*IDS))
    assert code == 1
    assert f"on the host it is {node.HELPER_PID}" in messages


# What goes wrong.


GONE = {
    "get p": "unix:///nowhere.sock",
    "get d": "/nowhere.sock",
    "get p -w": "127.0.0.1:1",
    "kill 1": "no address",
    "ping": "127.0.0.1:99999",
    "top": "localhost:1",
}


@pytest.mark.parametrize("words", GONE)
async def test_a_daemon_that_is_not_there_is_69_with_a_way_out(words: str) -> None:
    code, output, messages = await mgctl(*words.split(), "-s", GONE[words])
    assert (code, output) == (69, "")
    assert "not reachable" in messages
    assert "--addr" in messages
    assert "Traceback" not in messages


async def test_without_and_with_a_bad_token_the_way_out_differs(tmp_path: Path) -> None:
    async with served(tmp_path) as made:
        code, output, messages = await mgctl("get", "p", "-s", made.network)
        assert (code, output) == (1, "")
        assert "mortalgpu token" in messages
        code, output, messages = await mgctl("get", "p", "-s", made.network, "-t", "bad\ntoken")
        assert (code, output) == (1, "")
        assert "does not accept this token" in messages


async def test_a_daemon_of_another_kind_is_told_as_a_difference_of_versions() -> None:
    listeners = await listen_tcp("127.0.0.1", 0)
    address = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
    async with trio.open_nursery() as nursery:
        await nursery.start(Server([Health().service()]).serve, listeners)
        code, _, messages = await mgctl("get", "d", "-s", address)
        nursery.cancel_scope.cancel()
    assert code == 1
    assert "Its version differs" in messages


@pytest.mark.parametrize("words", [[], ["frob"], ["get"], ["kill", "x"], ["ping", "-o", "xml"], ["--frob"]])
async def test_wrong_words_are_2_and_cost_nothing(words: list[str]) -> None:
    code, output, messages = await mgctl(*words)
    assert (code, output) == (2, "")
    assert "mgctl help" in messages


async def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    async with served(tmp_path) as made:
        words = [*COMMAND, "get", "p", "-w", "-s", made.network, "-t", made.node_token()]
        process = await trio.lowlevel.open_process(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
        assert process.stdout is not None
        assert process.stderr is not None
        await process.stdout.receive_some(10)
        await process.stdout.aclose()
        with trio.fail_after(20):
            made.usage.publish(node.usage())
            assert await process.wait() == 1
            assert bytes(await process.stderr.receive_some(10000)) == b""


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
def test_output_that_cannot_be_written_is_told_in_a_line(redirection: str) -> None:
    line = f"{shlex.join([*COMMAND, 'version'])} {redirection}"
    ended = subprocess.run(["sh", "-c", line], env=environment(), capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("mgctl: cannot write the result: ")
    assert ended.stderr.count("\n") == 1


async def test_an_interrupt_is_no_traceback(tmp_path: Path) -> None:
    async with served(tmp_path) as made:
        words = [*COMMAND, "get", "p", "-w", "-s", made.network, "-t", made.node_token()]
        process = await trio.lowlevel.open_process(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
        assert process.stdout is not None
        assert process.stderr is not None
        await process.stdout.receive_some(10)
        process.send_signal(signal.SIGINT)
        with trio.fail_after(20):
            assert await process.wait() == 130
            assert bytes(await process.stderr.receive_some(10000)) == b""


def test_what_a_server_says_is_made_harmless() -> None:
    for code in Code:
        told = str(client.explained(RpcError(code, "\x1b[2J\u202e"), "a:1", has_token=True))
        assert all(line.isprintable() for line in told.split("\n"))
        assert told


# Starting fast.

DEAR_MODULES = ("trio", "google", "dataclasses", "typing", "asyncio", "argparse", "json", "re", "h2", "ssl", "inspect")


@pytest.mark.parametrize("words", [["version"], ["help"], ["frob"], ["completion", "bash"], ["get", "-o", "x"]])
def test_what_needs_no_daemon_imports_nothing_dear(words: list[str]) -> None:
    program = f"""
import sys
from mortalgpu.mgctl.main import run
before = set(sys.modules)
run({words!r})
print([name for name in {DEAR_MODULES!r} if name in sys.modules], file=sys.stderr)
"""
    # -S and -I: what an editable installation imports at the start is none of mgctl's.
    root = str(Path(client.__file__).parents[2])
    program = f"import sys; sys.path.insert(0, {root!r})\n{program}"
    done = subprocess.run([sys.executable, "-S", "-I", "-c", program], check=True, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_reading_processes_imports_no_more_than_it_must() -> None:
    heavy = ("asyncio", "jwt", "msgspec", "yaml", "httpx", "google.protobuf.json_format", "argparse")
    program = f"import sys, mortalgpu.mgctl.get; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_a_one_line_script_may_start_it() -> None:
    program = "from mortalgpu.mgctl.main import run; import sys; sys.exit(run(['/usr/bin/mgctl', 'version']))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == f"mgctl {__version__}\n"


# On a terminal.


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


# Completion.


def complete(line: str) -> list[str]:
    """What bash offers for a line."""
    words = line.split(" ")
    program = f"""
{script("bash")}
COMP_WORDS=({" ".join(f"'{word}'" for word in words)}); COMP_CWORD={len(words) - 1}
_mgctl; printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    return subprocess.run(["bash", "-c", program], check=True, capture_output=True, text=True).stdout.split()


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash here")
@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("mgctl ", ["get", "top", "kill", "ping", "version", "completion", "help"]),
        ("mgctl g", ["get"]),
        ("mgctl get ", ["processes", "devices"]),
        ("mgctl -o json get d", ["devices"]),
        ("mgctl get p -o ", ["table", "json", "yaml"]),
        ("mgctl --pr", ["--pretty"]),
        ("mgctl completion ", ["bash", "zsh"]),
        ("mgctl frob ", []),
    ],
)
def test_bash_completes(line: str, offers: list[str]) -> None:
    assert complete(line) == offers


@pytest.mark.skipif(not shutil.which("zsh"), reason="no zsh here")
def test_zsh_accepts_its_script(tmp_path: Path) -> None:
    (tmp_path / "_mgctl").write_text(script("zsh"))
    subprocess.run(["zsh", "-n", str(tmp_path / "_mgctl")], check=True)


async def test_the_scripts_are_printed(tmp_path: Path) -> None:
    for shell in ("bash", "zsh"):
        code, output, _ = await mgctl("completion", shell)
        assert (code, output) == (0, script(shell))
        assert "@" not in output.replace("COMPREPLY[@]", "").replace("a token, or @file", "")


def test_this_test_runs_where_terminals_exist() -> None:
    assert os.path.exists("/dev/ptmx")
