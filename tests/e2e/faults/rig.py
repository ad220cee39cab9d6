"""What the environment's faults are injected into: a daemon with everything on, kubelet's device manager, and two tenants.

With root the tenants are real: a process of each runs in a cgroup shaped as kubelet's, the runtime's socket names its
container, and the driver's stand-in says what it holds. The quiet one holds all that it was granted, and must live through
everything; the greedy one goes over its limit when `sound` asks whether limits are still held, and must die of it, alone.
"""

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio

from mortalgpu.model.pod import Container as RunningContainer
from mortalgpu.model.pod import Pod as RunningPod
from tests.e2e.client import Reply, call
from tests.e2e.daemon import EXAMPLE_COUNTS, SHARED, Daemon
from tests.e2e.device_manager import Admission, DeviceManager
from tests.e2e.faults.census import Census, at_rest, comes_to_rest
from tests.e2e.pods import Pod, pod_asking
from tests.e2e.story import check_complete, check_exclusive, device_of
from tests.e2e.waiting import eventually, until
from tests.standin.cgroups import Box, KubepodsTree
from tests.standin.cri import RuntimePeer, open_runtime
from tests.standin.nvml import Process

MIB = 1 << 20
SHARES = 40
BACK_SECONDS = 15.0
"""How long it may take until the counts are right again after a fault has passed, on a machine busy with other things."""
KILL_SECONDS = 30.0
IDLE_THREADS = 16
"""How many threads may idle, for ten seconds each, where there is no time to wait for their end."""
BUSY_THREADS = 2
"""How many more than at the quietest moment may be at work."""
SLEEPER = ("sleep", "100000")


@dataclass(slots=True)
class Tenant:
    """A pod with one container, and the process in it that uses the device."""

    admission: Admission
    limit_bytes: int
    device: str
    token: str
    box: Box | None = None
    process: "subprocess.Popen[bytes] | None" = None


@dataclass(slots=True)
class Rig:
    """The parts, and what they are held to."""

    manager: DeviceManager
    daemon: Daemon
    runtime: RuntimePeer
    tree: KubepodsTree | None
    strict: bool
    """Whether to wait until idle threads have ended too."""
    tenants: dict[str, Tenant] = field(default_factory=dict)
    used: dict[str, dict[int, int]] = field(default_factory=dict)
    rest: Census | None = None
    kills: int = 0
    _running: list[RunningPod] = field(default_factory=list)

    def settle(self, *, ready: bool = True, seconds: float = BACK_SECONDS) -> None:
        """Wait until every service runs, let the tenants move in, and note what the daemon holds at rest.

        Without `ready` the last service, which only the log tells of, is not waited for.
        """
        eventually("the counts", self._right_while_running, seconds=seconds)
        if ready:
            eventually("both exporters", lambda: len(self.daemon.events('"serving metrics"')) >= 2, seconds=seconds)
        for name in ("quiet", "greedy"):
            self.move_in(name)
        self.hold("quiet", self.tenants["quiet"].limit_bytes)
        self.rest = at_rest(self.daemon.pid)

    def _right_while_running(self) -> bool:
        assert self.daemon.process is not None
        assert self.daemon.process.running, f"the daemon ended:\n{self.daemon.log()[-3000:]}"
        return self.is_right()

    def is_right(self) -> bool:
        """Whether kubelet has exactly the shares that there are, all of them allocatable."""
        found = {name: (each.capacity, each.allocatable) for name, each in self.manager.capacities().items()}
        return found == {name: (count, count) for name, count in EXAMPLE_COUNTS.items()}

    def move_in(self, name: str) -> None:
        """Admit a pod, and start its process where that can be done."""
        pod = pod_asking(name, main={SHARED: SHARES})
        admission = self.manager.admit(pod)
        assert admission.admitted, admission.message
        env = admission.edits().env
        tenant = Tenant(
            admission, int(env["METAGPU_MAX_MEM"]) * MIB, device_of(admission.ids(SHARED)[0]), env.get("MG_CTL_TOKEN", "")
        )
        self.tenants[name] = tenant
        tenant.box = self.runs(pod)
        if self.tree is not None and tenant.box is not None:
            tenant.process = self.tree.run(tenant.box, SLEEPER)

    def runs(self, pod: Pod) -> Box | None:
        """Let the runtime say that the pod's container runs, in a cgroup of its own; nothing without root."""
        if self.tree is None:
            return None
        box = self.tree.container(pod.uid)
        container = RunningContainer("main", box.ref.container_id)
        self._running.append(RunningPod(pod.uid, pod.name, pod.namespace, (container,)))
        self.runtime.hold(*self._running)
        return box

    def leaves(self, pod: Pod) -> None:
        """Delete a pod, and let the runtime forget its container."""
        self.manager.delete(pod)
        self._running[:] = [running for running in self._running if running.uid != pod.uid]
        self.runtime.hold(*self._running)

    def hold(self, name: str, used_bytes: int) -> None:
        """Let the driver say what a tenant's process holds; nothing without root."""
        tenant = self.tenants[name]
        if tenant.process is None:
            return
        held = self.used.setdefault(tenant.device, {})
        held[tenant.process.pid] = used_bytes
        if not used_bytes:
            del held[tenant.process.pid]
        self.daemon.driver.set_processes(tenant.device, *(Process(tenant.device, pid, used) for pid, used in held.items()))

    def over_the_limit(self) -> None:
        """Let the greedy tenant take too much."""
        self.hold("greedy", self.tenants["greedy"].limit_bytes + 8 * MIB)

    def greedy_dies(self, *, seconds: float = KILL_SECONDS) -> None:
        """Wait until the greedy tenant, who is over the limit, has died of it; then start it anew, holding nothing."""
        greedy = self.tenants["greedy"]
        if greedy.process is None or greedy.box is None or self.tree is None:
            return
        process = greedy.process
        eventually("the end of the greedy process", lambda: process.poll() is not None, seconds=seconds)
        assert process.returncode == -9
        self.kills += 1
        self.hold("greedy", 0)
        greedy.process = self.tree.run(greedy.box, SLEEPER)

    def check(self) -> None:
        """Check what must hold at every moment: nobody killed who was within the limit, nothing lost or doubled."""
        self.check_tenants()
        holdings = self.manager.holdings()
        check_exclusive(holdings, self.manager.pods)
        for pod in self.manager.pods.values():
            check_complete(pod, holdings)
        for tenant in self.tenants.values():
            mine = next(each for each in holdings if each.pod == tenant.admission.uid)
            assert mine.ids == tenant.admission.holdings[0].ids, "a tenant has other ids than before"
        assert self.manager.registrations.overlaps == []

    def check_tenants(self) -> None:
        """Check that the tenant who is within the limit lives."""
        quiet = self.tenants["quiet"].process
        assert quiet is None or quiet.poll() is None, f"a tenant within its limit was killed:\n{self.daemon.log()[-3000:]}"

    def sound(self, *, seconds: float = BACK_SECONDS) -> None:
        """Check that all is as before the fault: the counts, admission, the limit that is held, and what the daemon holds."""
        eventually("the counts", self._right_while_running, seconds=seconds)
        self.check()
        # A driver that answers late on a busy machine makes its devices sick for a moment: until then they are tried again.
        until("an admission", self._refusal, "".__eq__, seconds=seconds)
        self.over_the_limit()
        self.greedy_dies()
        self.check()
        until("an answer of the device API", lambda: self.ask("PingServer").code, "OK".__eq__, seconds=BACK_SECONDS)
        self.no_fault_of_ours()
        assert self.rest is not None
        threads = self.rest.threads + (BUSY_THREADS if self.strict else IDLE_THREADS)
        # The ended ones are let go of after some scans, which take long where nothing happens.
        processes = len(self.tenants) + self.kills
        comes_to_rest(self.daemon.pid, replace(self.rest, processes=processes, threads=threads))

    def _refusal(self) -> str:
        """Admit a pod and let it go; return why it was refused, empty when it was not."""
        extra = pod_asking("extra", main={SHARED: 1})
        admission = self.manager.admit(extra)
        if admission.admitted:
            self.manager.delete(extra)
        return "" if admission.admitted else admission.message

    def no_fault_of_ours(self) -> None:
        """Check that the log has no traceback: what the world does to us is told in a line."""
        found = self.daemon.events('"traceback"')
        assert found == [], found

    def ask(self, method: str, request: bytes = b"", *, token: str = "") -> Reply:
        """Call the device API on the network."""
        address = self.daemon.events('"device API serves"')[-1]["address"][0]
        return call(address, method, request, token=token)


@contextmanager
def a_rig(manager: DeviceManager, daemon: Daemon, *, strict: bool) -> Iterator[Rig]:
    """Make a rig of a started device manager and a daemon that is not yet started; the daemon asks `runtime.sock`."""
    runtime = RuntimePeer()
    daemon.config["criSocket"] = str(daemon.folder / "runtime.sock")
    with ExitStack() as stack:
        tree = stack.enter_context(_tree()) if os.geteuid() == 0 else None
        stack.enter_context(_serving(runtime, daemon.folder / "runtime.sock"))
        yield Rig(manager, daemon, runtime, tree, strict)


def _tree() -> KubepodsTree:
    root = Path("/sys/fs/cgroup")
    return (
        KubepodsTree.unified()
        if (root / "cgroup.controllers").exists() or (root / "unified").exists()
        else KubepodsTree.v1("pids")
    )


@contextmanager
def _serving(runtime: RuntimePeer, socket: Path) -> Iterator[None]:
    """Serve a runtime's socket from a thread of its own."""
    serving, token = threading.Event(), list[Any]()

    async def serve() -> None:
        with trio.CancelScope() as scope:
            async with open_runtime(socket, runtime):
                token.extend((trio.lowlevel.current_trio_token(), scope))
                serving.set()
                await trio.sleep_forever()

    thread = threading.Thread(target=trio.run, args=(serve,), daemon=True)
    thread.start()
    assert serving.wait(10)
    try:
        yield
    finally:
        trio.from_thread.run_sync(token[1].cancel, trio_token=token[0])
        thread.join(10)
