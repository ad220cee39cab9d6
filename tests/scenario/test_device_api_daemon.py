"""The whole daemon: what Allocate puts into a container is all that mgctl needs there, and all that it gets."""

import json
import os
import re
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from mortalgpu.deviceapi.keys import KEY_NAME
from mortalgpu.model.grant import ContainerEdits
from mortalgpu.simulation.kubelet import SimulatedKubelet, running
from tests.scenario.machine import SHARED, WORKED_EXAMPLE, Daemon, Machine, daemon, machine
from tests.scenario.mgctl import mgctl

SETTINGS = """
nodeName: test-node
exporter: {{enabled: false}}
podSource: cri
criSocket: /nowhere.sock
deviceManager: {{processesDiscoveryPeriod: 0.5}}
deviceApi: {{address: "127.0.0.1:0"}}
mgctl: {{sourcePath: {root}/mgctl, hostMount: {{hostPath: {root}/host}}}}
"""


METRICS_ON = ("exporter.enabled=true", "exporter.gpus=false", "exporter.daemonAddress=127.0.0.1:0")


@pytest.fixture
def node() -> Iterator[Machine]:
    with machine() as made:
        program = made.root / "mgctl"
        program.write_text("#!/bin/sh\necho published\n")
        program.chmod(0o755)
        made.config_path.write_text(SETTINGS.format(root=made.root) + WORKED_EXAMPLE)
        yield made


@asynccontextmanager
async def at_work(node: Machine, *more: str) -> AsyncIterator[tuple[Daemon, SimulatedKubelet]]:
    """Run the daemon with a kubelet until the resource is there; `more` are flags."""
    async with running(SimulatedKubelet(node.kubelet_root)) as kubelet, daemon(node, *more) as started:
        await started.until(lambda: kubelet.capacity(SHARED)[1] == 800, "all shares are offered")
        yield started, kubelet


async def network(started: Daemon) -> str:
    """Where it listens."""
    (line,) = await started.logged("device API serves")
    return str(line["address"][0])


async def admitted(kubelet: SimulatedKubelet, name: str, shares: int = 40) -> ContainerEdits:
    (container,) = await kubelet.admit(name, {"main": {SHARED: shares}})
    return container.edits


async def containers(address: str, token: str) -> tuple[int, Any]:
    """Ask for containers with a token; return the exit code and the answer."""
    code, output, _ = await mgctl("get", "p", "-o", "json", "-s", address, "-t", token)
    return code, json.loads(output) if output else None


async def test_a_containers_own_token_opens_its_pod_and_no_other(node: Machine) -> None:
    async with at_work(node) as (started, kubelet):
        first, second = await admitted(kubelet, "first"), await admitted(kubelet, "second", 10)
        address = await network(started)
        for edits, pod, shares in ((first, "first", 40), (second, "second", 10)):
            code, answer = await containers(address, edits.envs["MG_CTL_TOKEN"])
            assert (code, answer["visibility_level"]) == (0, "l1")
            assert [(found["pod_id"], found["metagpu_requests"]) for found in answer["gpu_containers"]] == [(pod, shares)]


async def test_mgctl_and_the_socket_are_mounted_and_nothing_secret_is(node: Machine) -> None:
    async with at_work(node) as (_, kubelet):
        edits = await admitted(kubelet, "pod")
        mounts = {mount.container_path: Path(mount.host_path) for mount in edits.mounts}
        assert edits.envs["MG_CTL_ADDR"] == "unix:///run/mortalgpu/device.sock"
        assert (await trio.run_process([mounts["/usr/bin/mgctl"]], capture_stdout=True)).stdout == b"published\n"
        assert stat.S_ISSOCK((mounts["/run/mortalgpu"] / "device.sock").stat().st_mode)
        secret = (node.state_dir / KEY_NAME).read_text().strip()
        for path in mounts.values():
            inside = [path] if path.is_file() else [found for found in path.rglob("*") if found.is_file()]
            assert KEY_NAME not in [found.name for found in inside]
            assert not any(secret.encode() in found.read_bytes() for found in inside)
        assert all(mount.read_only for mount in edits.mounts)


async def test_refused_calls_are_an_increase_that_operators_see(node: Machine) -> None:
    flags = [word for setting in METRICS_ON for word in ("--set", setting)]
    async with at_work(node, *flags) as (started, kubelet):
        edits = await admitted(kubelet, "pod")
        address, (line,) = await network(started), await started.logged("serving metrics")
        assert (await containers(address, edits.envs["MG_CTL_TOKEN"]))[0] == 0
        for _ in range(2):
            assert (await containers(address, "no-token"))[0] == 1
        async with httpx.AsyncClient() as client:
            page = (await client.get(f"http://{line['address']}/metrics")).text
        assert re.search(r'^mortalgpu_device_api_calls_total\{code="UNAUTHENTICATED",.*\} 2', page, re.MULTILINE), page
        assert re.search(r'^mortalgpu_device_api_calls_total\{code="OK",.*\} [1-9]', page, re.MULTILINE), page


async def test_root_of_the_node_and_a_minted_token_see_the_node(node: Machine) -> None:
    async with at_work(node) as (started, kubelet):
        await admitted(kubelet, "pod")
        token = node.ask("token", "--level", "l0", "--config", str(node.config_path), "--state-dir", str(node.state_dir))
        assert (token.returncode, token.stderr) == (0, "")
        address, minted = await network(started), token.stdout.strip()
        with trio.fail_after(10):
            while not (found := await containers(address, minted))[1]["gpu_containers"]:
                await trio.sleep(0.1)
        assert (found[0], found[1]["visibility_level"], len(found[1]["gpu_containers"])) == (0, "l0", 1)
        code, answer = await containers(f"unix://{node.state_dir}/admin.sock", "")
        if os.getuid() == 0:
            assert (code, answer["visibility_level"]) == (0, "l0")


async def test_tokens_outlive_the_daemon_and_die_with_their_pod(node: Machine) -> None:
    async with running(SimulatedKubelet(node.kubelet_root)) as kubelet:
        async with daemon(node) as started:
            await started.until(lambda: kubelet.capacity(SHARED)[1] == 800, "all shares are offered")
            token = (await admitted(kubelet, "pod")).envs["MG_CTL_TOKEN"]
            started.child.kill()
        async with daemon(node, number=1) as started:
            await started.until(lambda: kubelet.capacity(SHARED)[1] == 800, "all shares are offered")
            assert (await containers(await network(started), token))[0] == 0
            kubelet.delete("pod")
            with trio.fail_after(15):
                while (await containers(await network(started), token))[0] == 0:
                    await trio.sleep(0.1)


async def test_the_daemon_writes_no_token_or_key_anywhere(node: Machine) -> None:
    async with at_work(node) as (started, kubelet):
        token = (await admitted(kubelet, "pod")).envs["MG_CTL_TOKEN"]
        address = await network(started)
        for given in (token, token[:-4], "rubbish"):
            await containers(address, given)
        command = Path(f"/proc/{started.child.pid}/cmdline").read_bytes()
        await started.stop()
        secrets = [token, token.rpartition(".")[2], (node.state_dir / KEY_NAME).read_text().strip()]
        readable = [path for path in node.root.rglob("*") if path.is_file() and path.stat().st_mode & 0o044]
        assert started.log_path in readable
        for secret in secrets:
            assert secret.encode() not in command
            assert [path for path in readable if secret.encode() in path.read_bytes()] == []
