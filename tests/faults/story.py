"""One story for all faults: a node's life in half a minute, whatever fails meanwhile, and what must be so at its end.

What a step waits for may not come while the fault lasts; then the story goes on without it. Once everything is healthy again
the node must converge.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import trio
from google.protobuf.message import Message

from mortalgpu.model.device import HealthEvent
from mortalgpu.rpc.channel import open_channel
from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb
from mortalgpu.rpc.status import RpcError
from mortalgpu.simulation.driver import partition_uuid, v100_uuid
from tests.faults.lies import OTHER_CONTAINER
from tests.faults.supervisor import Supervisor
from tests.faults.world import DEVICE_TOKEN, GPUS, PARTS, Tenant, World

STEP_SECONDS = 6.0
"""How long a step waits for what it wants to see, while something may be wrong."""
CONVERGE_SECONDS = 30.0
"""How long after the end of the last fault the node may take: the longest back-offs, and a supervisor's restart."""
WATCHDOG_SECONDS = 60.0
"""How much longer when the daemon fell silent: its watchdog hears of that only then."""
GHOST_SECONDS = 2.0
"""How long the driver goes on listing a process that has ended."""
REACTION_SECONDS = 3.0
"""How soon, on a node that has converged, a process above its limit must be gone."""


@dataclass
class Story:
    """The story's state; `play` tells it."""

    world: World
    supervisor: Supervisor
    pids: dict[str, int] = field(default_factory=dict)
    """Processes by what they are in the story."""
    innocent: list[str] = field(default_factory=list)
    """Those that must live to the end."""

    async def play(self) -> None:
        """Tell the story up to its healthy end."""
        for step in (
            self.begin,
            self.admit,
            self.exceed,
            self.ask,
            self.restart_kubelet,
            self.sicken,
            self.reload,
            self.change,
        ):
            await step()

    async def begin(self) -> None:
        """The daemon starts on a node where strangers work already."""
        world = self.world
        self.start("stranger", world.run(None, 9000, v100_uuid(0)))
        self.start("container that no view names", world.run(OTHER_CONTAINER, 9000, v100_uuid(0)))
        await self.until(lambda: self.supervisor.is_ready and world.is_allocatable(), 12.0)

    async def admit(self) -> None:
        """Two tenants get their shares, and begin to work within them."""
        for name, resource, shares in (("alice", GPUS, 3), ("bob", PARTS, 2)):
            tenant = await self.admitted(name, resource, shares)
            if tenant:
                self.start(name, self.world.run(tenant.ref, self.world.mib(tenant, 0.6), tenant.uuid))
        await trio.sleep(1.0)

    async def exceed(self) -> None:
        """A second process takes alice above her limit."""
        alice = self.world.tenants.get("alice")
        if alice:
            self.world.culprit = self.world.run(alice.ref, self.world.mib(alice, 0.7), alice.uuid)
            await self.until(lambda: not self.world.alive(self.world.culprit) or bool(self.world.ghosts))
            if self.world.ghosts:
                self.start("heir of the culprit's number", self.world.culprit)
                await trio.sleep(GHOST_SECONDS)
            self.world.culprit = 0
            self.world.lay_ghosts()

    async def ask(self) -> None:
        """An operator looks at the node, ends a process of bob's, and Prometheus scrapes."""
        bob = self.world.tenants.get("bob")
        extra = self.world.run(bob.ref, self.world.mib(bob, 0.1), bob.uuid) if bob else 0
        await trio.sleep(1.0)
        await self.call("GetMetaDeviceInfo", pb.GetMetaDeviceInfoRequest())
        if extra:
            self.world.asked_for.add(extra)
            await self.call("KillGpuProcess", pb.KillGpuProcessRequest(pid=extra))
        if "alice" in self.world.tenants and not self.world.alive(os.getpid()):
            self.world.host.start(self.world.tenants["alice"].ref, pid=os.getpid())  # The kernel says who calls: this process.
        await self.call("GetDevices", pb.GetDevicesRequest(), "unix")
        for address in self.supervisor.heard.addresses.get("serving metrics", []):
            await scrape(address)

    async def restart_kubelet(self) -> None:
        """kubelet is started anew, and remembers."""
        await self.world.kubelet.restart()
        await self.until(self.world.is_allocatable)

    async def sicken(self) -> None:
        """A GPU falls off the bus and comes back, and a partition has an error that passes."""
        lost = v100_uuid(1)
        self.world.driver.lose(lost)
        self.world.driver.push_event(HealthEvent("xid", partition_uuid(2), 63))
        await self.until(lambda: not any(text.startswith(lost) for text in self.world.kubelet.healthy(GPUS)), 3.0)
        self.world.driver.restore(lost)
        await self.until(self.world.is_allocatable)

    async def reload(self) -> None:
        """The operator wants other shares: what is held waits for its holders."""
        self.world.shares[PARTS] = 20
        self.supervisor.hang_up()
        await self.until(self.world.is_allocatable)

    async def change(self) -> None:
        """bob goes, his number goes to somebody else, and carol comes."""
        if "bob" in self.world.tenants:
            number = self.pids["bob"]
            self.world.end("bob")
            self.innocent = [name for name in self.innocent if self.world.alive(self.pids[name])]
            self.start("heir of a number", self.world.run(None, 500, partition_uuid(3), pid=number))
        carol = await self.admitted("carol", GPUS, 2)
        if carol:
            self.start("carol", self.world.run(carol.ref, self.world.mib(carol, 0.9), carol.uuid))
        await self.until(self.world.is_allocatable)

    # The end.

    async def converge(self, seconds: float) -> None:
        """Everything is healthy: the node must be right within `seconds`, and hold a limit at once."""
        world = self.world
        if not self.supervisor.running and self.supervisor.codes and self.supervisor.codes[-1] in (78, 2):
            raise AssertionError(f"the daemon ended for good: {self.supervisor.errors[-1]!r}")
        if world.needs_reset:
            world.driver.reload()
        self.supervisor.hang_up()
        right = lambda: self.supervisor.is_ready and world.is_allocatable()  # noqa: E731
        assert await self.until(right, seconds), f"not converged: {world.count()}; codes {self.supervisor.codes}"
        dave = await self.admitted("dave", GPUS, 1)
        assert dave, "no pod is admitted on a healthy node"
        self.start("dave", world.run(dave.ref, world.mib(dave, 0.5), dave.uuid))
        await trio.sleep(1.0)  # Time for a reading of kubelet's books.
        tenants = [world.tenants[name] for name in ("alice", "carol", "dave") if name in world.tenants]
        for tenant in tenants:  # An order that hung must end first, and a daemon that fell silent be started anew.
            await self.exceeds(tenant, seconds)
        for tenant in tenants:
            await self.exceeds(tenant, REACTION_SECONDS)
        assert await self.call("GetMetaDeviceInfo", pb.GetMetaDeviceInfoRequest()), "the device API does not answer"
        pages = [await scrape(address) for address in self.supervisor.heard.addresses["serving metrics"]]
        # One that was started again has another address than before.
        assert sum(page.startswith("HTTP/1.1 200") for page in pages) == 2, f"pages: {[page[:40] for page in pages]}"
        world.check_holdings()
        for name in self.innocent:
            assert self.pids[name] in world.victims or world.alive(self.pids[name]), f"{name} did nothing, and is gone"

    async def exceeds(self, tenant: Tenant, seconds: float) -> None:
        """A process above the limit is stopped in time, and nobody else."""
        culprit = self.world.run(tenant.ref, self.world.mib(tenant, 1.1), tenant.uuid)
        assert await self.until(lambda: not self.world.alive(culprit), seconds), f"{tenant.pod.name} is above its limit"

    # The means.

    def start(self, name: str, pid: int) -> None:
        """Remember an innocent process."""
        self.pids[name] = pid
        self.innocent.append(name)

    async def admitted(self, name: str, resource: str, shares: int) -> Tenant | None:
        """Try to start a pod for a while, as its controller does."""
        tenant = None
        with trio.move_on_after(STEP_SECONDS):
            while tenant is None:
                tenant = await self.world.admit(name, resource, shares)
                if tenant is None:
                    await trio.sleep(0.5)
        return tenant

    async def until(self, probe: Callable[[], bool], seconds: float = STEP_SECONDS) -> bool:
        """Wait for something; tell whether it came."""
        with trio.move_on_after(seconds):
            while not probe():
                await trio.sleep(0.1)
            return True
        return probe()

    async def call(self, method: str, request: Message, scheme: str = "") -> bool:
        """Call the device API, on the network or on its Unix socket; tell whether it answered."""
        addresses = self.supervisor.heard.addresses.get("device API serves", [])
        address = next((each for each in reversed(addresses) if each.startswith("unix") == bool(scheme)), "")
        metadata = [] if scheme else [("authorization", DEVICE_TOKEN)]
        answer: type[Message] = getattr(pb, f"{method}Response")
        with suppress(RpcError, trio.TooSlowError):
            with trio.fail_after(STEP_SECONDS):
                async with open_channel(address) as channel:
                    path = f"/device.v1.DeviceService/{method}"
                    await channel.unary(path, request, answer, metadata=metadata, deadline_seconds=STEP_SECONDS)
                    return True
        return False


async def scrape(address: str) -> str:
    """Fetch a page of metrics; empty when nobody serves it."""
    host, _, port = address.rpartition(":")
    with suppress(OSError, trio.BrokenResourceError), trio.move_on_after(STEP_SECONDS):
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(f"GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            return b"".join([part async for part in stream]).decode()
    return ""
