"""The device API on a real node: what a container is given, who it is to the daemon, and what mgctl shows in a bare image."""

import base64
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from mortalgpu.deviceapi import idlist
from mortalgpu.deviceapi.succession import SIBLING_SECONDS
from mortalgpu.simulation.driver import v100_uuid
from tests.e2e import build
from tests.e2e.daemon import EXAMPLE_COUNTS, SHARED, TEN, TWENTY, Daemon, example_config, program
from tests.e2e.execution import Outcome, execute
from tests.e2e.images import PAUSE_IMAGE
from tests.e2e.node import Node
from tests.e2e.pods import Container, Pod
from tests.e2e.stage import FAMILY, MIB, Actor, Life, Stage, asking, containers
from tests.e2e.visitors import in_cgroup, in_container, on_host, on_network, operator
from tests.e2e.waiting import eventually, until
from tests.frozen.built import mgctl_directory
from tests.needs import skipped_where_missing

pytestmark = [pytest.mark.e2e, pytest.mark.root]

V100 = v100_uuid(0)
BARE = {"runAsUser": 1000, "runAsGroup": 1000, "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False}
CAST = (
    Pod("mine", (Container("main", {SHARED: 20}, command=FAMILY), Container("side", {TWENTY: 10}, command=FAMILY))),
    asking("other", SHARED, 20),
    asking("gone", TEN, 100),
    Pod("plain", (Container(),)),
    Pod("bare", (Container("main", {SHARED: 30}, image=PAUSE_IMAGE, command=("/pause",), security=BARE),)),
)
MINE = ["mine-harness/main", "mine-harness/side"]
OTHER = ["other-harness/main"]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """The node and the daemon, with sockets and (where it was built) mgctl mounted, and the whole cast known to the daemon."""
    with skipped_where_missing():
        build.locate_node()
        program()
    with Node() as node:
        folder = node.folder / "daemon"
        config = example_config(
            folder,
            criSocket=str(node.containerd.socket),
            mgctl={"sourcePath": str(BUILT), "hostMount": {"enabled": True, "hostPath": str(folder / "state")}},
            deviceApi={"address": "127.0.0.1:0", "socketMount": True},
        )
        with Daemon(folder, node.socket_dir, config=config) as daemon:
            until("the worked example's counts", node.allocatable, EXAMPLE_COUNTS.__eq__, seconds=20)
            made = Stage(node, daemon)
            made.play(*CAST)
            for pod in CAST:
                for container in pod.containers if pod.name != "plain" else ():
                    made.known(made.actor(pod.name, container.name))
            yield made


BUILT = Path(__file__).parents[2] / "build" / "mgctl"


@pytest.fixture(autouse=True)
def _nobody_holds_anything(stage: Stage) -> Iterator[None]:
    yield
    stage.clear()


def claims(token: str) -> dict[str, Any]:
    """What a token says, whoever signed it."""
    found: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return found


def token_of(actor: Actor) -> str:
    return actor.env["MG_CTL_TOKEN"]


def test_a_container_is_told_its_device_its_limit_and_how_to_ask(stage: Stage) -> None:
    mine = stage.actor("mine")
    assert mine.env["NVIDIA_VISIBLE_DEVICES"] == V100
    assert mine.env["METAGPU_MAX_MEM"] == "1638"
    assert mine.env["MORTALGPU_MEMORY_LIMIT_MIB"] == f"{V100}=1638"
    assert mine.env["MG_CTL_ADDR"] == "unix:///run/mortalgpu/device.sock"
    told = claims(token_of(mine))
    assert told["visibilityLevel"] == "l1"
    (held,) = [held.ids for held in stage.node.held() if (held.pod, held.container) == ("mine-harness", "main")]
    assert frozenset(idlist.unpack(told["metaDevices"])) == held


def test_each_container_has_a_token_of_its_own(stage: Stage) -> None:
    main, side, other = stage.actor("mine"), stage.actor("mine", "side"), stage.actor("other")
    assert len({token_of(main), token_of(side), token_of(other)}) == 3


def test_of_the_daemons_state_a_container_sees_the_socket_alone_and_cannot_add_to_it(stage: Stage) -> None:
    mine = stage.actor("mine")
    assert inside(stage, mine, "ls", "/run/mortalgpu").stdout.split() == ["device.sock"]
    assert "Read-only file system" in inside(stage, mine, "touch", "/run/mortalgpu/mine").stderr


def test_the_socket_knows_its_caller_without_a_token(stage: Stage) -> None:
    visitor = in_container(stage, stage.actor("mine"))
    assert visitor.sees() == MINE
    assert visitor.devices() == [V100]
    assert in_container(stage, stage.actor("mine", "side")).devices() == [stage.actor("mine", "side").device]
    assert in_container(stage, stage.actor("other")).sees() == OTHER


def test_another_pods_token_changes_nothing_on_the_socket(stage: Stage) -> None:
    visitor = in_container(stage, stage.actor("mine"), token=token_of(stage.actor("other")))
    assert visitor.sees() == MINE
    assert visitor.sees("other-harness") == ["PERMISSION_DENIED"]


def test_on_the_network_a_token_opens_its_own_pod_and_nothing_opens_without_one(stage: Stage) -> None:
    mine = on_network(stage, token_of(stage.actor("mine")))
    assert mine.sees() == MINE
    assert mine.devices() == [V100]
    assert on_network(stage).sees() == ["UNAUTHENTICATED"]
    assert on_network(stage).ask("PingServer").code == "OK"


@pytest.mark.parametrize("name", ["other-harness", "default/other-harness", "nobody", "bare-harness"])
def test_a_forged_pod_name_opens_nothing(stage: Stage, name: str) -> None:
    mine = stage.actor("mine")
    assert in_container(stage, mine).sees(name) == ["PERMISSION_DENIED"]
    assert on_network(stage, token_of(mine)).sees(name) == ["PERMISSION_DENIED"]


def test_forged_tokens_are_all_refused_alike(stage: Stage) -> None:
    mine, other = stage.actor("mine"), stage.actor("other")
    header, body, signature = token_of(mine).split(".")
    theirs = token_of(other).split(".")
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
    node_level = base64.urlsafe_b64encode(json.dumps({**claims(token_of(mine)), "visibilityLevel": "l0"}).encode()).decode()
    forged = [
        f"{header}.{theirs[1]}.{signature}",
        f"{header}.{node_level.rstrip('=')}.{signature}",
        f"{unsigned}.{node_level.rstrip('=')}.",
        f"{header}.{body}.",
        jwt.encode({"email": "x", "visibilityLevel": "l0"}, "a key of somebody else, long enough", algorithm="HS256"),
    ]
    replies = [on_network(stage, token).ask("GetGpuContainers") for token in forged]
    assert {reply.code for reply in replies} == {"UNAUTHENTICATED"}
    assert len({reply.details for reply in replies}) == 1


def test_a_container_without_shares_is_shown_nothing(stage: Stage) -> None:
    plain = stage.node.pods()["plain"].container()
    pid = stage.node.pid(plain.id)
    visitor = in_cgroup(stage, Actor("plain", "main", plain.id, pid, {}))
    assert visitor.sees() == []
    assert visitor.devices() == []
    assert visitor.kill(stage.actor("mine").pid) == "PERMISSION_DENIED"


def test_a_process_of_the_host_needs_a_token_at_the_containers_door_and_root_none_at_its_own(stage: Stage) -> None:
    assert on_host(stage).sees() == ["UNAUTHENTICATED"]
    assert operator(stage).sees() == sorted([*MINE, *OTHER, "bare-harness/main", "gone-harness/main"])
    assert len(operator(stage).devices()) == 5


def test_a_container_may_end_its_own_gpu_process_and_no_other(stage: Stage) -> None:
    mine, side, other = stage.actor("mine"), stage.actor("mine", "side"), stage.actor("other")
    own, theirs = stage.sleepers(mine)[0], stage.sleepers(other)[0]
    with Life(own) as victim, Life(theirs) as spared:
        stage.hold(V100, {own: 100 * MIB, theirs: 100 * MIB})
        eventually("both processes", lambda: _known_pids(stage) >= {own, theirs}, seconds=10)
        for visitor in (in_container(stage, mine), on_network(stage, token_of(mine))):
            assert visitor.kill(theirs) == "PERMISSION_DENIED"
            assert visitor.kill(stage.daemon.pid) == "PERMISSION_DENIED"
            assert visitor.kill(mine.pid) == "PERMISSION_DENIED"
            assert visitor.kill(1) == "PERMISSION_DENIED"
        assert in_container(stage, side).kill(own) == "PERMISSION_DENIED"
        assert (victim.alive, spared.alive) == (True, True)
        assert in_container(stage, mine).kill(own) == "OK"
        victim.wait_end(1)
        assert spared.alive


def test_not_even_the_operator_ends_what_is_no_gpu_process_of_ours(stage: Stage) -> None:
    plain = stage.node.pid(stage.node.pods()["plain"].container().id)
    other = stage.actor("other")
    theirs = stage.sleepers(other)[0]
    with Life(theirs) as process, Life(plain) as stranger:
        stage.hold(V100, {theirs: 100 * MIB, plain: 100 * MIB})
        eventually("the process", lambda: theirs in _known_pids(stage), seconds=10)
        for pid in (plain, other.pid, stage.daemon.pid, os.getpid(), 1):
            assert operator(stage).kill(pid) == "PERMISSION_DENIED"
        assert operator(stage).kill(theirs) == "OK"
        process.wait_end(1)
        assert stranger.alive


def _known_pids(stage: Stage) -> set[int]:
    return {process.pid for each in containers(stage.daemon) for process in each.device_processes}


def test_the_token_of_a_pod_that_is_gone_opens_neither_nothing_nor_its_successor(stage: Stage) -> None:
    gone = stage.actor("gone")
    token, held = token_of(gone), _held_by(stage, "gone-harness")
    assert on_network(stage, token).sees() == ["gone-harness/main"]
    stage.node.remove("gone")
    # Two tokens that are minted within seconds may be of one pod, and live side by side: see `Succession`.
    eventually("the token's age", lambda: time.time() - claims(token)["iat"] > SIBLING_SECONDS + 1, seconds=20)
    until("the end of the token", on_network(stage, token).sees, ["UNAUTHENTICATED"].__eq__, seconds=15)
    # Both devices of the resource in two pods, so that one of them must get what the first pod held.
    heirs = [asking("heir", TEN, 100), asking("sibling", TEN, 100)]
    stage.play(*heirs)
    for heir in heirs:
        stage.known(stage.actor(heir.name))
    assert held in [_held_by(stage, f"{heir.name}-harness") for heir in heirs]
    assert on_network(stage, token).sees() == ["UNAUTHENTICATED"]
    assert on_network(stage, token_of(stage.actor("heir"))).sees() == ["heir-harness/main"]


def _held_by(stage: Stage, pod: str) -> frozenset[str]:
    (ids,) = [held.ids for held in stage.node.held() if held.pod == pod]
    return ids


def test_no_token_reaches_the_log(stage: Stage) -> None:
    log = stage.daemon.log()
    for actor in (stage.actor("mine"), stage.actor("other"), stage.actor("bare")):
        assert token_of(actor).split(".")[2] not in log


@pytest.fixture
def bare(stage: Stage) -> Actor:
    """A container of nothing but the mounts: no libc, no shell, a read-only root, uid 1000, no /tmp."""
    mgctl_directory()
    return stage.actor("bare")


def test_mgctl_cannot_be_changed_by_who_has_it_mounted(stage: Stage) -> None:
    mgctl_directory()
    for path in ("/usr/bin/mgctl", "/usr/lib/mortalgpu/mgctl/mgctl"):
        refused = inside(stage, stage.actor("mine"), "dd", "if=/dev/zero", f"of={path}", "conv=notrunc", "count=1")
        assert "Read-only file system" in refused.stderr


def inside(stage: Stage, actor: Actor, *command: str) -> Outcome:
    return execute(stage.node.containerd.socket, actor.id, *command)


def mgctl(stage: Stage, bare: Actor, *words: str) -> str:
    done = inside(stage, bare, "/usr/bin/mgctl", *words)
    assert (done.code, done.stderr) == (0, "")
    return done.stdout


def test_the_bare_container_has_nothing_of_its_own(stage: Stage, bare: Actor) -> None:
    root, about = Path(f"/proc/{bare.pid}/root"), Path(f"/proc/{bare.pid}")
    absent = ("bin", "lib", "lib64", "tmp", "etc/passwd", "usr/bin/env", "usr/bin/python3")
    assert [name for name in absent if (root / name).exists()] == []
    assert "Uid:\t1000\t1000" in (about / "status").read_text()
    mounts = [line.split() for line in (about / "mountinfo").read_text().splitlines()]
    (options,) = [mount[5] for mount in mounts if mount[4] == "/"]
    assert options.split(",")[0] == "ro"


def test_mgctl_runs_in_a_bare_container(stage: Stage, bare: Actor) -> None:
    assert mgctl(stage, bare, "version").startswith("mgctl ")
    assert mgctl(stage, bare, "ping")
    (row,) = json.loads(mgctl(stage, bare, "get", "devices", "-o", "json"))["device"].values()
    assert row["uuid"] == V100
    assert V100 in mgctl(stage, bare, "get", "devices")
    shown = json.loads(mgctl(stage, bare, "get", "processes", "-o", "json"))
    assert [each["pod_id"] for each in shown["gpu_containers"]] == ["bare-harness"]
    assert "bare-harness" in mgctl(stage, bare, "get", "processes")


def test_mgctl_ends_the_containers_own_gpu_process_and_no_other(stage: Stage, bare: Actor) -> None:
    watching = ["/usr/bin/mgctl", "get", "processes", "-w"]
    stage.node.containerd.ctr("tasks", "exec", "-d", "--exec-id", "watching", bare.id, *watching)
    own = eventually("the watching process", lambda: next(iter(stage.processes(bare) - {bare.pid}), 0), seconds=10)
    theirs = stage.sleepers(stage.actor("other"))[0]
    with Life(own) as victim, Life(theirs) as spared:
        stage.hold(V100, {own: 100 * MIB, theirs: 100 * MIB})
        eventually("both processes", lambda: _known_pids(stage) >= {own, theirs}, seconds=10)
        for words in ([], ["-t", token_of(stage.actor("other"))]):
            refused = inside(stage, bare, "/usr/bin/mgctl", "kill", str(theirs), *words)
            assert (refused.code, refused.stdout) == (1, "")
            assert "not allowed" in refused.stderr
        assert mgctl(stage, bare, "kill", str(own)) == f"killed {own}\n"
        victim.wait_end(1)
        assert spared.alive
    assert stage.status("bare").restarts == 0


def test_mgctl_with_another_pods_token_shows_its_own_pod(stage: Stage, bare: Actor) -> None:
    shown = mgctl(stage, bare, "get", "processes", "-o", "json", "-t", token_of(stage.actor("other")))
    assert [each["pod_id"] for each in json.loads(shown)["gpu_containers"]] == ["bare-harness"]
