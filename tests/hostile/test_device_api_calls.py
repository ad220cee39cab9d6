"""Calls that are to gain a container nothing: pids and names of others, replayed and forged tokens, the same again and again.

On the twins: the host says where callers run, and every signal that is sent to anybody is seen.
"""

import base64
import hmac
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from mortalgpu.deviceapi import tokens
from mortalgpu.deviceapi.identity import Door
from mortalgpu.deviceapi.refusals import LINES, PER_SECONDS
from mortalgpu.deviceapi.servicer import MOST_STREAMS_PER_CALLER, Streams
from mortalgpu.deviceapi.views import Caller
from mortalgpu.model.pod import ContainerRef
from mortalgpu.rpc.peer import Peer
from mortalgpu.rpc.status import Code, Refusal, RpcError
from mortalgpu.simulation.host import Temper
from tests.campaign import Tally
from tests.unit.deviceapi import node, rig
from tests.unit.deviceapi.rig import NOW, Client, Rig

pytestmark = pytest.mark.hostile

OWN = node.ids(node.GPU_B, 2, 3)
THEIRS = node.ids(node.GPU_A, 0, 1, 2, 3)
PIDS = (
    0, -1, 1, 2, -node.TRAIN_PID, node.TRAIN_PID, node.HELPER_PID, node.OTHER_TRAIN_PID, 999_999, 2**31 - 1, -(2**31),
    2**31, 2**32 + node.INFER_PID, 2**62, -(2**63),
)  # fmt: skip
NAMES = (
    "train", "team-a/train", "team-b/train", "team-b/young", "infer ", " infer", "INFER", "infer\n", "infer\0", "infer/main",
    "../infer", "team-a/infer", "team-b/infer/../train", "*", "%", "'; --", "\x1b[2J", "i\u0306nfer", "x" * 4000,
    node.INFER.pod_uid, node.TRAIN_MAIN.pod_uid, node.TRAIN_MAIN.container_id, node.INFER.container_id,
)  # fmt: skip


async def code(client: Client, method: str, **fields: object) -> Code:
    """How a call ends."""
    try:
        await client.ask(method, **fields)
    except RpcError as error:
        return error.code
    return Code.OK


async def test_no_pid_but_its_own_processes_is_ended_for_a_container(
    tmp_path: Path, autojump_clock: object, tally: Tally
) -> None:
    async with rig.rig(tmp_path) as made:
        made.populate()
        alive = {process.pid for process in made.host.processes()}
        async with made.client_inside(node.INFER) as client, made.client(made.token(*OWN)) as remote:
            for caller in (client, remote):
                for pid in PIDS:
                    try:
                        found = await code(caller, "KillGpuProcess", pid=pid)
                    except ValueError:
                        continue  # The wire has no such number.
                    assert found is Code.PERMISSION_DENIED, pid
                    tally.add("calls refused")
            assert made.host.signals == []
            assert alive <= {process.pid for process in made.host.processes()}
            assert await code(client, "KillGpuProcess", pid=node.INFER_PID) is Code.OK
    tally.add("attacks")


async def test_a_name_in_a_request_opens_nothing_but_the_callers_own_pod(tmp_path: Path, tally: Tally) -> None:
    async with rig.rig(tmp_path) as made:
        async with made.client_inside(node.INFER) as client, made.client(made.token(*OWN)) as remote:
            for caller in (client, remote):
                for name in NAMES:
                    for method in ("GetGpuContainers", "StreamGpuContainers"):
                        assert await code(caller, method, pod_id=name) is Code.PERMISSION_DENIED, name
                        tally.add("calls refused")
                answer = await caller.ask("GetGpuContainers", pod_id="team-b/infer")
                assert [found.pod_id for found in answer.gpu_containers] == ["infer"]
    tally.add("attacks")


def segment(value: object) -> str:
    text = json.dumps(value).encode() if not isinstance(value, bytes) else value
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def signed(header: Mapping[str, Any], claims: Mapping[str, Any], key: bytes, digest: str = "sha256") -> str:
    """A JWT as an attacker makes it."""
    body = f"{segment(header)}.{segment(claims)}"
    return f"{body}.{segment(hmac.new(key, body.encode(), digest).digest())}"


def forgeries(made: Rig) -> Mapping[str, str]:
    """Tokens that a tenant can make of its own, and of what it knows."""
    header, body, signature = made.token(*OWN).split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    node_level = {**claims, "visibilityLevel": "l0"}
    theirs = {**claims, "metaDevices": list(THEIRS)}
    hs = {"alg": "HS256", "typ": "JWT"}
    found = {
        f"alg {alg}": f"{segment({'alg': alg, 'typ': 'JWT'})}.{segment(node_level)}."
        for alg in ("none", "None", "NONE", "nOnE", "", "HS256", "HS512", "RS256", "ES256", "EdDSA", "dir")
    }
    found |= {
        f"alg {alg}, own signature": f"{segment({'alg': alg})}.{segment(node_level)}.{signature}" for alg in ("none", "HS512")
    }
    keys = (b"", b"\0", b"secret", b"topSecret", b"null", made.token(*OWN).encode(), b"container@mortalgpu", header.encode())
    found |= {f"key {key!r:.20}": signed(hs, node_level, key) for key in keys}
    found |= {f"key {key!r:.20}, theirs": signed(hs, theirs, key, "sha512") for key in keys}
    odd = (
        {"kid": "../../dev/null"}, {"kid": "' OR 1=1 --"}, {"jku": "http://127.0.0.1/keys"}, {"x5u": "http://127.0.0.1/"},
        {"jwk": {"kty": "oct", "k": segment(b"k")}}, {"crit": ["b64"], "b64": False}, {"zip": "DEF"}, {"kid": None},
    )  # fmt: skip
    found |= {f"header {extra!r:.40}": signed({**hs, **extra}, node_level, b"k") for extra in odd}
    found |= {
        "swapped body": f"{header}.{made.token(*THEIRS).split('.')[1]}.{signature}",
        "raised level": f"{header}.{segment(node_level)}.{signature}",
        "two bodies": f"{header}.{body}.{segment(node_level)}.{signature}",
        "no signature": f"{header}.{body}.",
        "cut signature": f"{header}.{body}.{signature[:-2]}",
        "other signature": f"{header}.{body}.{made.token(*THEIRS).split('.')[2]}",
        "a word": "l0",
        "nothing but dots": "..",
        "JSON serialisation": json.dumps({"payload": body, "protected": header, "signature": signature}),
        "a comma": f"x,{made.token(*OWN)}x",
        "very long": "x" * 14_000,
    }
    return found


async def test_no_forged_token_opens_anything(tmp_path: Path, tally: Tally) -> None:
    async with rig.rig(tmp_path) as made:
        made.populate()
        for what, token in forgeries(made).items():
            async with made.client(token) as client:
                for method in ("GetDevices", "GetGpuContainers", "GetMetaDeviceInfo", "StreamGpuContainers", "PatchConfigs"):
                    assert await code(client, method) is Code.UNAUTHENTICATED, what
                assert await code(client, "KillGpuProcess", pid=node.TRAIN_PID) is Code.UNAUTHENTICATED, what
                tally.add("calls refused", 6)
            async with made.client_inside(node.INFER, token=token) as client:
                shown = (await client.ask("GetGpuContainers")).gpu_containers
                assert [found.pod_id for found in shown] == ["infer"], what
                assert await code(client, "GetMetaDeviceInfo") is Code.PERMISSION_DENIED, what
                tally.add("calls refused")
            tally.add("attacks")
        assert made.host.signals == []


async def test_a_token_in_time_of_another_time_is_refused(tmp_path: Path, tally: Tally) -> None:
    async with rig.rig(tmp_path) as made:
        keyring = made.keys.secrets.keyring
        expired = tokens.mint(keyring, "l0", now=NOW - 100, lifetime_seconds=99)
        early = tokens.mint(keyring, "l0", now=NOW + 60, lifetime_seconds=600)
        for token in (expired, early):
            async with made.client(token) as client:
                assert await code(client, "GetDevices") is Code.UNAUTHENTICATED
                tally.add("calls refused")
    tally.add("attacks")


async def test_the_token_of_a_container_that_ended_opens_nothing_of_who_got_its_ids(tmp_path: Path, tally: Tally) -> None:
    async with rig.rig(tmp_path) as made:
        old = made.token(*OWN, at=NOW - 100)
        made.succession.minted(OWN, NOW)
        async with made.client(old) as client, made.client(made.token(*OWN, at=NOW)) as heir:
            assert await code(client, "GetDevices") is Code.UNAUTHENTICATED
            assert await code(client, "KillGpuProcess", pid=node.INFER_PID) is Code.UNAUTHENTICATED
            assert await code(heir, "GetDevices") is Code.OK
        tally.add("calls refused", 2)
    tally.add("attacks")


async def test_the_streams_of_many_containers_leave_everybody_else_one(tmp_path: Path, tally: Tally) -> None:
    """A tenant may have many pods on a node."""
    streams = Streams()
    tenants = [Caller("l1", container=ContainerRef(node.uid(number), node.cid(number))) for number in range(100, 120)]
    async with AsyncExitStack() as stack:
        refused = 0
        for tenant in tenants:
            for _ in range(MOST_STREAMS_PER_CALLER + 1):
                try:
                    await stack.enter_async_context(streams.place(tenant))
                except Refusal:
                    refused += 1
        assert refused >= len(tenants)
        for caller in (Caller("l1", container=node.INFER), Caller("l0", email="root"), Caller("l0", email="op@site")):
            await stack.enter_async_context(streams.place(caller))
        tally.add("calls refused", refused)
    tally.add("attacks")


@pytest.mark.parametrize("uid", [0, 1000])
async def test_the_operators_socket_makes_no_container_an_operator(tmp_path: Path, tally: Tally, uid: int) -> None:
    """As if it had got there, by a folder of the host that somebody mounted."""
    async with rig.rig(tmp_path) as made:
        with closing_fd(os.pidfd_open(os.getpid())) as descriptor:
            peer = Peer("unix", f"uid {uid}", made.host.start(node.INFER).pid, uid, uid, descriptor)
            async with made.client("", Door.ADMIN_SOCKET, peer) as client:
                assert [found.pod_id for found in (await client.ask("GetGpuContainers")).gpu_containers] == ["infer"]
                assert await code(client, "GetMetaDeviceInfo") is Code.PERMISSION_DENIED
    tally.add("calls refused")
    tally.add("attacks")


@contextmanager
def closing_fd(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    "temper", [Temper(), Temper(protected=True), Temper(kill_seconds=1e9)], ids=["ends", "refuses", "sticks"]
)
async def test_asking_without_end_for_the_end_of_one_process_does_not_fill_the_log(
    tmp_path: Path, autojump_clock: object, caplog: pytest.LogCaptureFixture, tally: Tally, temper: Temper
) -> None:
    caplog.set_level(logging.INFO)
    asked = 200
    async with rig.rig(tmp_path) as made:
        made.populate(**{f"pid{node.INFER_PID}": temper})
        began = trio.current_time()
        async with made.client_inside(node.INFER) as client:
            codes = [await code(client, "KillGpuProcess", pid=node.INFER_PID) for _ in range(asked)]
        periods = 1 + (trio.current_time() - began) // PER_SECONDS
    assert codes.count(Code.OK) == (temper == Temper())
    assert len(caplog.records) <= 1 + periods * (LINES + 1)
    tally.add("calls refused", asked - codes.count(Code.OK))
    tally.add("attacks")
