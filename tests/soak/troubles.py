"""What befalls the node, one trouble after the other: of kubelet, devices, the driver, the configuration, the API server."""

import random
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import trio

from mortalgpu.simulation.driver import A100_UUID, partition_uuid, v100_uuid
from tests.e2e.daemon import EXAMPLE_SHARING
from tests.soak.node import CAPACITY, Node

RECOVERY_SECONDS = 40.0
"""How soon the whole node must be on offer again after a trouble has ended."""
XID = 63
"""One that makes a device unhealthy until it has been quiet for a while."""
UNKNOWN_ERROR = 999
EVENTS_KEPT = 4


class Troubles:
    """Makes trouble until cancelled, unless `resting`. Each trouble ends with the whole node on offer."""

    def __init__(self, node: Node, dice: random.Random, pause_seconds: float) -> None:
        self._node = node
        self._dice = dice
        self._pause_seconds = pause_seconds
        self._busy = trio.Lock()
        self.resting = False
        self._kinds: dict[str, tuple[int, Callable[[], Awaitable[None]]]] = {
            "kubelet restarted": (3, self._kubelet_restarts),
            "plugin dropped by kubelet": (3, self._kubelet_drops),
            "device reported XID": (3, self._xid),
            "device lost and back": (3, self._loss),
            "partition removed and back": (2, self._removal),
            "driver reloaded": (2, self._reload),
            "driver unloaded and back": (2, self._unload),
            "driver hung": (2, self._hang),
            "driver call failed": (2, self._failure),
            "configuration changed": (4, self._settings),
            "share layout changed": (1, self._layout),
            "configuration broken": (1, self._broken),
            "API server down": (3, self._api_down),
            "API server cut": (2, self._api_cut),
            "API history compacted": (1, self._api_compacted),
        }

    async def serve(self) -> None:
        """Go on for ever: every kind of trouble comes in a round, in an order of its own, some more than once."""
        while True:
            kinds = [name for name, (weight, _) in self._kinds.items() for _ in range(weight)]
            self._dice.shuffle(kinds)
            for name in kinds:
                await trio.sleep(self._dice.uniform(0.5, 1.5) * self._pause_seconds)
                async with self._busy:
                    if not self.resting:
                        await self._one(name)

    async def rest(self) -> None:
        """Stop making trouble; returns when the last one is over."""
        self.resting = True
        async with self._busy:
            return

    async def _one(self, name: str) -> None:
        node = self._node
        with node.in_trouble(name):
            try:
                await self._kinds[name][1]()
            except (OSError, KeyError) as error:
                node.ledger.wrong(f"no trouble {name!r} could be made: {error!r}")
            node.ledger.count(name)
            begun = trio.current_time()
            if not await node.until(node.whole, RECOVERY_SECONDS):
                found = {resource: node.kubelet.capacity(resource) for resource in CAPACITY}
                node.ledger.wrong(f"after {name!r} the node is not whole: {found}")
            node.ledger.took("recovery", trio.current_time() - begun)
        if node.kubelet.overlaps:
            node.ledger.wrong(f"registrations overlapped: {node.kubelet.overlaps}")
            node.kubelet.overlaps.clear()

    async def _kubelet_restarts(self) -> None:
        made = len(self._node.kubelet.registrations)
        await self._node.kubelet.restart()
        await self._node.until(lambda: len(self._node.kubelet.registrations) >= made + len(CAPACITY), RECOVERY_SECONDS)

    async def _kubelet_drops(self) -> None:
        made = len(self._node.kubelet.registrations)
        self._node.kubelet.drop(self._dice.choice(list(CAPACITY)))
        await self._node.until(lambda: len(self._node.kubelet.registrations) > made, RECOVERY_SECONDS)

    def _gpu(self) -> str:
        return self._dice.choice([v100_uuid(0), v100_uuid(1), A100_UUID])

    async def _sick(self) -> None:
        """Wait until kubelet has heard of it, or a while."""
        await self._node.until(lambda: not self._node.whole(), 2)

    async def _xid(self) -> None:
        driver = self._node.driver
        driver.push_event(self._gpu(), data=XID)
        # What was reported long ago is no part of the driver's answers, and would make the file longer and longer.
        driver.write(replace(driver.state, events=driver.state.events[-EVENTS_KEPT:]))
        await self._sick()

    async def _loss(self) -> None:
        gpu = self._gpu()
        self._node.driver.lose(gpu)
        await self._sick()
        await trio.sleep(self._dice.uniform(0, 4))
        self._node.driver.restore(gpu)

    async def _removal(self) -> None:
        driver = self._node.driver
        before = driver.state.partitions
        driver.remove(partition_uuid(self._dice.choice([3, 9, 10])))
        await self._sick()
        await trio.sleep(self._dice.uniform(0, 4))
        used = {part.uuid: part.used for part in driver.state.partitions}
        back = tuple(replace(part, used=used.get(part.uuid, part.used)) for part in before)
        driver.write(replace(driver.state, partitions=back))

    async def _reload(self) -> None:
        self._node.driver.reload_driver()
        await self._sick()

    async def _unload(self) -> None:
        self._node.driver.unload_driver()
        await trio.sleep(self._dice.uniform(1, 5))
        self._node.driver.reload_driver()

    async def _hang(self) -> None:
        device = self._dice.choice(["*", v100_uuid(0)])
        self._node.driver.add_fault(device=device, hang=0)
        await trio.sleep(self._dice.uniform(0.2, 4))
        self._node.driver.clear_faults()

    async def _failure(self) -> None:
        self._node.driver.add_fault(device=self._dice.choice(["*", v100_uuid(1)]), error=UNKNOWN_ERROR)
        await trio.sleep(self._dice.uniform(0.2, 3))
        self._node.driver.clear_faults()

    def _hang_up(self) -> None:
        self._node.daemon.process.child.send_signal(signal.SIGHUP)  # type: ignore[union-attr]

    async def _settings(self) -> None:
        """Change what does not change who may do what: policy, mounts, what the pages show, rhythms."""
        dice = self._dice
        sections: dict[str, Any] = {
            "allocator": {"plugin": dice.choice(["collocate", "spread"])},
            "exporter": {
                **self._node.config["exporter"],
                "perProcess": dice.random() < 0.5,
                "metagpuNames": dice.random() < 0.5,
            },
            "deviceManager": {"quickLookPeriod": dice.choice([0.1, 0.12]), "healthProbePeriod": dice.choice([0.5, 0.4])},
            "pluginMounts": [{"hostPath": "/tmp", "containerPath": f"/mnt/{dice.randrange(100)}"}],
        }
        self._node.configure(**sections)
        if dice.random() < 0.5:
            self._hang_up()
        await trio.sleep(5)

    async def _layout(self) -> None:
        """Cut the smallest partitions in another way: what containers hold stays as it is until they have gone."""
        now = self._node.config["deviceSharing"][-1]["metagpusPerGpu"]
        other = {**EXAMPLE_SHARING[-1], "metagpusPerGpu": 150 - now}
        self._node.configure(deviceSharing=[*EXAMPLE_SHARING[:-1], other])
        self._hang_up()
        await trio.sleep(2)

    async def _broken(self) -> None:
        self._node.write_config('{"deviceSharing": [')
        self._hang_up()
        await trio.sleep(3)
        self._node.configure()
        self._hang_up()
        await trio.sleep(1)

    async def _api_down(self) -> None:
        self._node.api.down = True
        self._node.api.cut()
        await trio.sleep(self._dice.uniform(1, 8))
        self._node.api.down = False

    async def _api_cut(self) -> None:
        self._node.api.cut()
        await trio.sleep(1)

    async def _api_compacted(self) -> None:
        self._node.api.compact()
        self._node.api.cut()
        await trio.sleep(1)
