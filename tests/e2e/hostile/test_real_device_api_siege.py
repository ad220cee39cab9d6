"""The device API of a real daemon under attack from one container: the others, the operator, kubelet and enforcement go on.

The attackers are real processes in the tenant's cgroup, which reach the socket as the container has it mounted.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mortalgpu.simulation.driver import v100_uuid
from tests.campaign import Tally
from tests.e2e import build
from tests.e2e.daemon import EXAMPLE_COUNTS, SHARED, TEN, Daemon, example_config, program
from tests.e2e.execution import execute
from tests.e2e.node import Node
from tests.e2e.stage import MIB, Actor, Life, Stage, asking
from tests.e2e.visitors import CHECKOUT, JOIN, in_container, on_network, operator
from tests.e2e.waiting import until
from tests.hostile.attacker import ATTACKS

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.hostile]

V100 = v100_uuid(0)
BUILT = Path(__file__).parents[3] / "build" / "mgctl"
LAZIEST_SECONDS = 3.0
"""What an end may take under siege on a machine that is busy with other things; the aim is 0.2 s."""
ALSO_SHORT = {("knock", "socket"), ("watch", "socket"), ("deaf", "socket"), ("half", "network"), ("rapid-reset", "network")}
"""Attacks and doors of the short form."""


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A node whose containers get the socket, with a tenant that means harm, a victim and a neighbour."""
    try:
        build.locate_node()
        program()
    except build.Missing as missing:
        pytest.skip(str(missing))
    with Node() as node:
        own = node.folder / "daemon"
        config = example_config(
            own,
            criSocket=str(node.containerd.socket),
            mgctl={"sourcePath": str(BUILT), "hostMount": {"enabled": True, "hostPath": str(own / "state")}},
            deviceApi={"address": "127.0.0.1:0", "socketMount": True},
        )
        with Daemon(own, node.socket_dir, config=config) as daemon:
            until("the worked example's counts", node.allocatable, EXAMPLE_COUNTS.__eq__, seconds=20)
            made = Stage(node, daemon)
            made.play(asking("tenant", SHARED, 20), asking("victim", SHARED, 20))
            made.known(made.actor("tenant"), made.actor("victim"))
            yield made


@pytest.fixture(autouse=True)
def _nobody_holds_anything(stage: Stage) -> Iterator[None]:
    yield
    stage.clear()


@contextmanager
def besieged(stage: Stage, attack: str, address: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Let a process in the tenant's cgroup attack for the length of the block."""
    tenant = stage.actor("tenant")
    words = [sys.executable, "-m", "tests.hostile.attacker", attack, address]
    environment = {**os.environ, "LISTINGS": " ".join(map(str, stage.listings(tenant))), "TOKEN": tenant.env["MG_CTL_TOKEN"]}
    command = ["/bin/sh", "-c", JOIN, "sh", *words]
    with subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as attacker:
        try:
            assert attacker.stdout is not None
            assert attacker.stdout.readline() == b"attacking\n"
            yield attacker
            assert attacker.poll() is None, "the attacker gave up"
        finally:
            attacker.kill()


def door(stage: Stage, name: str) -> str:
    if name == "network":
        return on_network(stage).address
    return f"/proc/{stage.actor('tenant').pid}/root/run/mortalgpu/device.sock"


def mgctl_sees(stage: Stage, actor: Actor) -> list[str]:
    """What mgctl shows in a container, which waits its turn where a socket's queue is full."""
    listings = " ".join(str(path) for path in stage.listings(actor))
    address = f"unix:///proc/{actor.pid}/root/run/mortalgpu/device.sock"
    words = [str(Path(sys.executable).parent / "mgctl"), "get", "processes", "-o", "json"]
    environment = {**os.environ, "LISTINGS": listings, "MG_CTL_ADDR": address}
    command = ["/bin/sh", "-c", JOIN, "sh", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return [each["pod_id"] for each in json.loads(done.stdout)["gpu_containers"]]


@pytest.mark.parametrize("where", ["socket", "network"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_siege_by_one_container_is_felt_by_nobody_else(
    stage: Stage, tally: Tally, long_form: bool, attack: str, where: str
) -> None:
    if not long_form and (attack, where) not in ALSO_SHORT:
        pytest.skip("a part of the long form (--campaign long)")
    victim, tenant = stage.actor("victim"), stage.actor("tenant")
    child = stage.sleepers(tenant)[0]
    lines = len(stage.daemon.log().splitlines())
    began = time.monotonic()
    with besieged(stage, attack, door(stage, where)):
        assert mgctl_sees(stage, victim) == ["victim-harness"]
        assert operator(stage).sees() == ["tenant-harness/main", "victim-harness/main"]
        assert on_network(stage, victim.env["MG_CTL_TOKEN"]).sees() == ["victim-harness/main"]
        tally.add("neighbours served meanwhile", 3)
        with Life(child) as over, Life(victim.pid) as other:
            changed = stage.hold(V100, {child: tenant.limit_bytes + 2 * MIB, victim.pid: victim.limit_bytes})
            assert over.wait_end() - changed < LAZIEST_SECONDS
            assert other.alive
        stage.clear()
    seconds = time.monotonic() - began
    assert len(stage.daemon.log().splitlines()) - lines < 30 + 10 * seconds
    tally.add("attacks")


def test_kubelet_gets_its_allocation_under_siege(stage: Stage, tally: Tally) -> None:
    with besieged(stage, "knock", door(stage, "socket")), besieged(stage, "rapid-reset", door(stage, "network")):
        stage.play(asking("newcomer", TEN, 10))
        assert stage.actor("newcomer").env["METAGPU_MAX_MEM"]
    stage.node.remove("newcomer")
    tally.add("attacks", 2)


def test_what_containers_have_mounted_they_cannot_change(stage: Stage, tally: Tally) -> None:
    tenant = stage.actor("tenant")
    folder = stage.daemon.folder / "state" / "socket"
    before = sorted((path.name, path.lstat().st_ino, path.lstat().st_mode) for path in folder.iterdir())
    place = "/run/mortalgpu"
    for script in (
        f"echo x > {place}/mine", f"mkdir {place}/mine", f"rm {place}/device.sock", f"mv {place}/device.sock {place}/x",
        f"ln -s /tmp {place}/link", f"ln {place}/device.sock {place}/hard", f"chmod 0 {place}/device.sock", f"chown 1 {place}",
        f"mknod {place}/x p", f"mount -o remount,rw,bind {place}", f"unshare -U -r -m mount -o remount,rw,bind {place}",
        f"unshare -U -r -m umount {place}", f"dd if=/dev/zero of={place}/fill bs=1M count=1", f"ls {place}/../../state/",
        f"cat {place}/../admin.sock", f"ls /proc/1/root{place}/..//admin.sock",
    ):  # fmt: skip
        assert execute(stage.node.containerd.socket, tenant.id, "/bin/sh", "-c", script).code != 0, script
        tally.add("attacks")
    assert sorted((path.name, path.lstat().st_ino, path.lstat().st_mode) for path in folder.iterdir()) == before
    assert in_container(stage, tenant).sees() == ["tenant-harness/main"]
