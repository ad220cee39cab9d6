"""mgctl against a serving daemon: results, messages, exit codes, terminals."""

import json
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
import trio
import yaml

from mortalgpu import __version__
from mortalgpu.mgctl import client
from mortalgpu.rpc.health import Health
from mortalgpu.rpc.listener import listen_tcp
from mortalgpu.rpc.server import Server
from mortalgpu.rpc.status import Code, RpcError
from tests.scenario.device_api import served
from tests.scenario.mgctl import COMMAND, environment, mgctl
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
