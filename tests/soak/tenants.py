"""Pods that come, work, sometimes take more than they were granted, and go. Each knows what the daemon may do to it.

A process is `condemned` when it takes its container over the limit, or works on a device that was not granted. Every
condemned process must die by SIGKILL, and no other may.
"""

import os
import random
import re
import subprocess
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import trio

from mortalgpu.cluster.base import LIMIT_ANNOTATION_PREFIX
from mortalgpu.simulation.kubelet import AdmissionRefused, Admitted
from mortalgpu.units import MIB
from tests.soak.node import NODE, Node
from tests.standin.apiserver.objects import container_status, pod_object
from tests.standin.cgroups import Box

SIZES = {"mortalgpu/a100-shared": (10, 150), "mortalgpu/a100-20g": (10, 80), "mortalgpu/a100-10g": (5, 40)}
KILL_SECONDS = 45.0
"""How soon a condemned process must be dead, whatever else is wrong on the node: no trouble lasts longer than 8 s."""
SLEEPER = ("sleep", "100000")


@dataclass(eq=False)
class Worker:
    """One GPU process of a tenant."""

    child: "subprocess.Popen[bytes]"
    device: str
    used: int = 0
    condemned: bool = False
    leaving: bool = False
    dead: trio.Event = field(default_factory=trio.Event)


@dataclass(eq=False)
class Tenant:
    """A pod with one container: what it was granted, and its processes."""

    name: str
    uid: str
    grant: Admitted
    box: Box | None
    factor: int = 1
    workers: list[Worker] = field(default_factory=list)
    left: bool = False
    """Its shares may be somebody else's by now, and its token is dead then."""

    @property
    def token(self) -> str:
        return self.grant.edits.envs["MG_CTL_TOKEN"]

    @property
    def device(self) -> str:
        return self.grant.edits.envs["NVIDIA_VISIBLE_DEVICES"].split(",")[0]

    @property
    def promised_bytes(self) -> int:
        """What its environment says it may use of its first device."""
        limits = dict(pair.split("=") for pair in self.grant.edits.envs["MORTALGPU_MEMORY_LIMIT_MIB"].split(","))
        return int(limits[self.device]) * MIB


class Tenants:
    """All pods of the node. `serve` lets them come and go while `open` is set."""

    def __init__(self, node: Node, dice: random.Random, pause_seconds: float) -> None:
        self._node = node
        self._dice = dice
        self._pause_seconds = pause_seconds
        self._numbers = count(1)
        self._leave = trio.Event()
        self.living: list[Tenant] = []
        self.open = True

    async def serve(self) -> None:
        """Let pods arrive, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(self._dice.expovariate(1 / self._pause_seconds))
                if self.open and len(self.living) < 25:
                    nursery.start_soon(self._live)

    async def clear(self) -> None:
        """Send everybody away and let nobody in; returns when all have gone."""
        self.open = False
        self._leave.set()
        while self.living:
            await trio.sleep(0.1)

    def reopen(self) -> None:
        """Let pods in again."""
        self._leave = trio.Event()
        self.open = True

    async def _live(self) -> None:
        node, dice = self._node, self._dice
        resource = dice.choice(list(SIZES))
        size = dice.randint(*SIZES[resource])
        name = f"pod-{next(self._numbers)}"
        factor = 2 if dice.random() < 0.15 else 1
        try:
            (grant,) = await node.kubelet.admit(name, {"main": {resource: size}})
        except AdmissionRefused as refusal:
            node.ledger.count(f"admission refused: {_reason(str(refusal))}")
            return
        node.ledger.count("pods admitted")
        tenant = Tenant(name, str(uuid.UUID(int=dice.getrandbits(128), version=4)), grant, None, factor)
        self._check(tenant)
        tenant.box = node.tree.container(tenant.uid) if node.tree else None
        self.living.append(tenant)
        try:
            await self._work(tenant, {LIMIT_ANNOTATION_PREFIX + resource: str(size * factor)} if factor > 1 else None)
        except* (OSError, AssertionError, KeyError) as errors:
            node.ledger.wrong(f"{name} could not live: {errors.exceptions!r}")
        finally:
            self.living.remove(tenant)

    def _check(self, tenant: Tenant) -> None:
        """Hold a grant to its promises."""
        granted = {text.partition("::")[0] for text in tenant.grant.meta_devices}
        visible = set(tenant.grant.edits.envs["NVIDIA_VISIBLE_DEVICES"].split(","))
        if granted != visible:
            self._node.ledger.wrong(f"{tenant.name} was granted {granted} and sees {visible}")
        for text, owners in self._node.kubelet.held().items():
            if len(owners) > 1:
                self._node.ledger.wrong(f"{text} was granted to {owners}")
        if not tenant.grant.edits.mounts:
            self._node.ledger.wrong(f"{tenant.name} has no mounts, so no mgctl")

    async def _work(self, tenant: Tenant, annotations: dict[str, str] | None) -> None:
        node, dice = self._node, self._dice
        async with trio.open_nursery() as nursery:
            late = dice.random() < 0.3
            if not late:
                self._tell(tenant, annotations)
            for _ in range(dice.randint(1, 3)):
                await self._start(nursery, tenant, tenant.device, tenant.promised_bytes // 8)
            if late:
                await trio.sleep(dice.uniform(0.1, 1.5))
                self._tell(tenant, annotations)
            ends = trio.current_time() + dice.uniform(8, 45)
            while trio.current_time() < ends and not self._leave.is_set() and tenant.workers:
                with trio.move_on_after(dice.uniform(0.5, 4)):
                    await self._leave.wait()
                if not self._leave.is_set():
                    await self._step(nursery, tenant)
            await self._end(tenant)
        if tenant.box is not None:
            await trio.to_thread.run_sync(_remove, tenant.box)
        tenant.left = True
        node.kubelet.delete(tenant.name)
        await trio.sleep(dice.uniform(0, 0.5))
        node.api.delete(tenant.uid)
        node.ledger.count("pods gone")

    def _tell(self, tenant: Tenant, annotations: dict[str, str] | None) -> None:
        """Let the API server know the pod with its container."""
        container_id = tenant.box.ref.container_id if tenant.box else tenant.uid
        statuses = [container_status("main", container_id)]
        pod = pod_object(tenant.name, uid=tenant.uid, node=NODE, annotations=annotations, containers=statuses)
        self._node.api.put(pod)

    async def _step(self, nursery: trio.Nursery, tenant: Tenant) -> None:
        dice = self._dice
        working = [worker for worker in tenant.workers if not worker.dead.is_set()]
        if not working:
            return
        match dice.choices(["grow", "fork", "quit", "overstep", "stray"], [50, 12, 10, 16, 4])[0]:
            case "fork" if len(tenant.workers) < 5:
                await self._start(nursery, tenant, tenant.device, MIB)
            case "quit" if len(working) > 1:
                worker = dice.choice(working)
                if not worker.condemned:
                    await self._quit(worker)
            case "overstep" if tenant.box is not None:
                await self._overstep(tenant, dice.choice(working))
            case "stray" if tenant.box is not None:
                await self._stray(nursery, tenant)
            case _:
                self._grow(tenant, dice.choice(working))

    def _grow(self, tenant: Tenant, worker: Worker) -> None:
        """Use another amount of memory, within the limit."""
        rest = sum(each.used for each in tenant.workers if each is not worker and each.device == worker.device)
        room = int(tenant.promised_bytes * 0.97) - rest
        if room > MIB and not worker.condemned:
            self._use(worker, self._dice.randrange(MIB, room))
            self._node.ledger.count("memory moved")

    async def _overstep(self, tenant: Tenant, worker: Worker) -> None:
        """Take more than the limit, and be stopped for it."""
        limit = tenant.promised_bytes * tenant.factor
        whole = _whole(self._node, tenant.device)
        if limit >= whole * 0.9 or any(each.condemned for each in tenant.workers):
            return
        self._node.ledger.count("limits exceeded")
        # The daemon reckons in bytes, and the promise is in MiB, so the margin is more than one.
        await self._condemn(worker, limit + limit // 50 + 2 * MIB)

    async def _stray(self, nursery: trio.Nursery, tenant: Tenant) -> None:
        """Work on a device that was not granted, and be stopped for it."""
        others = [each for each in _devices(self._node) if each not in tenant.grant.edits.envs["NVIDIA_VISIBLE_DEVICES"]]
        if others and not any(each.condemned for each in tenant.workers):
            worker = await self._start(nursery, tenant, self._dice.choice(others), 0)
            self._node.ledger.count("devices used without a grant")
            await self._condemn(worker, 5 * MIB)

    async def _condemn(self, worker: Worker, used: int) -> None:
        troubles, was_calm, begun = self._node.troubles, not self._node.trouble, time.monotonic()
        worker.condemned = True
        self._use(worker, used)
        with trio.move_on_after(KILL_SECONDS):
            await worker.dead.wait()
        if not worker.dead.is_set():
            self._node.ledger.wrong(f"process {worker.child.pid} on {worker.device} was over and not stopped")
            await self._quit(worker)
        elif was_calm and troubles == self._node.troubles:
            self._node.ledger.took("kill", time.monotonic() - begun)

    def _use(self, worker: Worker, used: int) -> None:
        if not worker.dead.is_set():
            worker.used = used
            self._node.screen.use(worker.device, worker.child.pid, used)

    async def _start(self, nursery: trio.Nursery, tenant: Tenant, device: str, used: int) -> Worker:
        child = await trio.to_thread.run_sync(_spawn, self._node, tenant.box)
        worker = Worker(child, device)
        tenant.workers.append(worker)
        self._use(worker, used)
        nursery.start_soon(self._watch, tenant, worker)
        self._node.ledger.count("processes started")
        return worker

    async def _watch(self, tenant: Tenant, worker: Worker) -> None:
        """See a process end, judge that, and let the driver forget it a little later, as it does."""
        pidfd = os.pidfd_open(worker.child.pid)
        try:
            await trio.lowlevel.wait_readable(pidfd)
        finally:
            os.close(pidfd)
        code = worker.child.wait()
        worker.dead.set()
        ledger = self._node.ledger
        if not worker.leaving and not worker.condemned:
            ledger.wrong(f"process {worker.child.pid} of {tenant.name} ended with {code}; it was within its limit")
        elif not worker.leaving:
            ledger.count("processes stopped")
            if code != -9:
                ledger.wrong(f"process {worker.child.pid} ended with {code}, not by SIGKILL")
        await trio.sleep(self._dice.uniform(0.01, 0.2))
        self._node.screen.gone(worker.child.pid)
        tenant.workers.remove(worker)

    async def _quit(self, worker: Worker) -> None:
        worker.leaving = True
        worker.child.kill()
        await worker.dead.wait()

    async def _end(self, tenant: Tenant) -> None:
        for worker in list(tenant.workers):
            if not worker.dead.is_set():
                await self._quit(worker)
        while tenant.workers:
            await trio.sleep(0.02)


def _spawn(node: Node, box: Box | None) -> "subprocess.Popen[bytes]":
    if node.tree is not None:
        return node.tree.run(box, SLEEPER)
    return subprocess.Popen(SLEEPER, stdin=subprocess.DEVNULL)


def _remove(box: Box) -> None:
    """Remove a container's cgroup and its pod's, as soon as the kernel lets it go."""
    for path in (box.path, box.path.parent):
        for _ in range(100):
            with suppress(OSError):
                Path(path).rmdir()
                break
            time.sleep(0.02)


def _devices(node: Node) -> list[str]:
    """Devices that can be worked on: whole GPUs, and partitions of the others."""
    state = node.driver.state
    return [gpu.uuid for gpu in state.gpus if gpu.mig != 1] + [part.uuid for part in state.partitions]


def _whole(node: Node, uuid: str) -> int:
    state = node.driver.state
    sizes = {gpu.uuid: gpu.total for gpu in state.gpus} | {part.uuid: part.total for part in state.partitions}
    return sizes.get(uuid, 0)


def _reason(text: str) -> str:
    for word in ("unavailable", "unregistered", "unhealthy"):
        if word in text:
            return word
    return re.sub(r"\d+", "N", text)[:160]
