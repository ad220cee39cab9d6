"""Those who ask the daemon: Prometheus, operators, tenants with good and bad tokens, and the rude."""

import json
import random
import subprocess
import time
from collections.abc import Awaitable, Callable

import trio

from mortalgpu.rpc.channel import open_channel
from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb
from mortalgpu.rpc.status import Code, RpcError
from tests.scenario.mgctl import COMMAND
from tests.soak.node import ADMIN_TOKEN, Node
from tests.soak.tenants import Tenant, Tenants

SERVICE = "/device.v1.DeviceService"
SCRAPE_SECONDS = 5.0
PATIENCE_SECONDS = 60.0
KNOWN_SECONDS = 45.0
"""How soon a tenant's token must open what is its own: the API server may be away for a while, and is asked again seldom."""


async def fetch(address: str, path: str) -> str:
    """Fetch a page on a connection of its own; return the body. Raises AssertionError when the status is not 200."""
    host, _, port = address.rpartition(":")
    with trio.fail_after(PATIENCE_SECONDS):
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            head, _, body = b"".join([part async for part in stream]).decode().partition("\r\n\r\n")
    assert " 200 " in head.partition("\r\n")[0], head
    return body


async def scrape(node: Node, page: str) -> str:
    """Scrape a page as Prometheus does, and note how long it took."""
    begun = time.perf_counter()
    body = await fetch(node.metrics[page], "/metrics")
    node.ledger.took(f"scrape {page}", time.perf_counter() - begun)
    node.ledger.count("scrapes")
    return body


class Clients:
    """Callers of every kind, until cancelled."""

    def __init__(self, node: Node, tenants: Tenants, dice: random.Random, pause_seconds: float) -> None:
        self._node = node
        self._tenants = tenants
        self._dice = dice
        self._pause_seconds = pause_seconds
        self.resting = False
        self._calls = 0

    async def serve(self) -> None:
        """Scrape in Prometheus' rhythm, and let callers come at random."""
        kinds: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            *((10, self._operator), (6, self._tenant), (4, self._forger), (4, self._watcher), (2, self._leaver)),
            *((2, self._rude), (2, self._silent), (1, self._inside)),
        ]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._prometheus)
            while True:
                await trio.sleep(self._dice.expovariate(1 / self._pause_seconds))
                if not self.resting and self._calls < 20:
                    weights, choices = zip(*kinds, strict=True)
                    nursery.start_soon(self._one, self._dice.choices(choices, weights)[0])

    async def rest(self) -> None:
        """Let nobody call any more but Prometheus; returns when the last caller has gone."""
        self.resting = True
        while self._calls:
            await trio.sleep(0.1)

    async def _one(self, call: Callable[[], Awaitable[None]]) -> None:
        self._calls += 1
        try:
            with trio.fail_after(PATIENCE_SECONDS):
                await call()
        except (OSError, trio.BrokenResourceError) as error:
            self._node.ledger.count(f"callers cut off: {type(error).__name__}")
        except RpcError as error:
            self._node.ledger.wrong(f"{call.__name__}: {error.code.name} {error.details}")
        except trio.TooSlowError:
            self._node.ledger.wrong(f"{call.__name__} had no answer in {PATIENCE_SECONDS} s while: {self._node.trouble!r}")
        finally:
            self._calls -= 1

    async def _prometheus(self) -> None:
        while True:
            try:
                for page in self._node.metrics:
                    await scrape(self._node, page)
                await fetch(self._node.metrics["daemon"], "/healthz")
            except (OSError, AssertionError, trio.TooSlowError) as error:
                self._node.ledger.wrong(f"a scrape failed while {self._node.trouble!r}: {error!r}")
            await trio.sleep(SCRAPE_SECONDS)

    def _someone(self) -> Tenant | None:
        return self._dice.choice(self._tenants.living) if self._tenants.living else None

    async def _operator(self) -> None:
        """Ask as root of the node, or with the operator's token."""
        node = self._node
        by_socket = self._dice.random() < 0.7
        metadata = [] if by_socket else [("authorization", ADMIN_TOKEN)]
        begun = time.perf_counter()
        async with open_channel(node.admin_socket if by_socket else node.network) as channel:
            method = f"{SERVICE}/GetGpuContainers"
            answer = await channel.unary(method, pb.GetGpuContainersRequest(), pb.GetGpuContainersResponse, metadata=metadata)
        node.ledger.took("device API call", time.perf_counter() - begun)
        node.ledger.count("device API calls")
        if answer.visibility_level != "l0":
            node.ledger.wrong(f"the operator's level is {answer.visibility_level}")

    async def _tenant(self) -> None:
        """Ask as a tenant asks, who must see itself only, and must be let in soon."""
        tenant = self._someone()
        if tenant is None:
            return
        ends = trio.current_time() + KNOWN_SECONDS
        while not tenant.left:
            try:
                self._own(tenant, await self._containers(tenant.token))
            except RpcError as error:
                if error.code is not Code.UNAUTHENTICATED or (not tenant.left and trio.current_time() > ends):
                    raise
                self._node.ledger.count("tenants' calls before they are known, or after they left")
                await trio.sleep(2)
            else:
                self._node.ledger.count("tenants' calls")
                return

    async def _containers(self, token: str) -> pb.GetGpuContainersResponse:
        async with open_channel(self._node.network) as channel:
            return await channel.unary(
                f"{SERVICE}/GetGpuContainers",
                pb.GetGpuContainersRequest(),
                pb.GetGpuContainersResponse,
                metadata=[("authorization", token)],
            )

    def _own(self, tenant: Tenant, answer: pb.GetGpuContainersResponse) -> None:
        foreign = {each.pod_id for each in answer.gpu_containers} - {tenant.name}
        if foreign or answer.visibility_level == "l0":
            self._node.ledger.wrong(f"{tenant.name} saw {foreign} at {answer.visibility_level}")

    async def _forger(self) -> None:
        """Ask with a token that is none, or one that was changed."""
        tenant = self._someone()
        token = f"{tenant.token[:-6]}AAAAAA" if tenant and self._dice.random() < 0.7 else "no token at all"
        try:
            async with open_channel(self._node.network) as channel:
                metadata = [("authorization", token)]
                await channel.unary(f"{SERVICE}/GetDevices", pb.GetDevicesRequest(), pb.GetDevicesResponse, metadata=metadata)
        except RpcError as error:
            if error.code is not Code.UNAUTHENTICATED:
                raise
            self._node.ledger.count("bad tokens refused")
        else:
            self._node.ledger.wrong(f"a forged token was accepted: {token[:12]}")

    async def _watch(self, answers_wanted: int) -> None:
        metadata = [("authorization", ADMIN_TOKEN)]
        async with (
            open_channel(self._node.network) as channel,
            channel.stream(
                f"{SERVICE}/StreamGpuContainers",
                pb.StreamGpuContainersRequest(),
                pb.GetGpuContainersResponse,
                metadata=metadata,
            ) as answers,
        ):
            for _ in range(answers_wanted):
                await answers.receive()
                self._node.ledger.count("stream answers")

    async def _watcher(self) -> None:
        """Watch for some answers, and leave in good order."""
        await self._watch(self._dice.randint(1, 4))
        self._node.ledger.count("streams")

    async def _leaver(self) -> None:
        """Watch, and leave in the middle of it."""
        with trio.move_on_after(self._dice.uniform(0.2, 5)):
            await self._watch(1000)
        self._node.ledger.count("streams")

    async def _rude(self) -> None:
        """Send what is no HTTP/2, and go without a word."""
        host, _, port = self._node.network.rpartition(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(self._dice.randbytes(self._dice.randrange(1, 300)))
            await trio.sleep(self._dice.uniform(0, 1))
        self._node.ledger.count("rude connections")

    async def _silent(self) -> None:
        """Connect somewhere, and say nothing for a while."""
        host, _, port = self._dice.choice([self._node.network, *self._node.metrics.values()]).rpartition(":")
        async with await trio.open_tcp_stream(host, int(port)):
            await trio.sleep(self._dice.uniform(0.5, 8))
        self._node.ledger.count("silent connections")

    async def _inside(self) -> None:
        """Run mgctl in a tenant's cgroup, on the socket for containers: the kernel says who asks."""
        tenant, tree = self._someone(), self._node.tree
        if tenant is None or tree is None or tenant.box is None or not self._tenants.open:
            return
        words = [*COMMAND, "get", "p", "-o", "json", "-s", self._node.container_socket]

        def ask() -> tuple[int, bytes]:
            process = tree.run(tenant.box, words, stdout=subprocess.PIPE)
            assert process.stdout is not None
            with process.stdout:
                output = process.stdout.read()
            return process.wait(), output

        try:
            code, output = await trio.to_thread.run_sync(ask)
        except (OSError, AssertionError):
            return  # The tenant left meanwhile, and its cgroup with it.
        self._node.ledger.count("calls from containers")
        found = json.loads(output)["gpu_containers"] if code == 0 and output else []
        if foreign := {each["pod_id"] for each in found} - {tenant.name}:
            self._node.ledger.wrong(f"from within {tenant.name}, {foreign} was seen")
