"""Discovery: what devices there are, how they are shared, and how they fare. The only writer of the inventory.

Rules:
1. Devices are enumerated at the start, at the latest every `cache_seconds`, and whenever a probe finds one back or gone.
2. A physical GPU that the driver no longer names is sick, not gone: its shares stay in the list, unhealthy, until it returns.
   A partition that its living parent no longer has is sick too; when a second look does not find it either, the operator
   took it away, and it is dropped. At once it is dropped when its GPU instance is another partition's now.
3. Every device is probed every `probe_seconds`; what the driver reports by itself is heard at once.
4. A device whose shares are held keeps the layout in force (`settling`); what was settled is published at once.
5. Trouble with the driver is a state of the devices, never the end of this service.

Reads the driver, the remembered layout and the holdings; publishes `Latest[Inventory]`.
"""

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio

from mortalgpu.driver.base import GpuDriver
from mortalgpu.errors import DriverError, DriverLost
from mortalgpu.host.base import WallClock
from mortalgpu.latest import Latest
from mortalgpu.model.counts import EventCounts
from mortalgpu.model.device import Device, Fault, Health, HealthEvent
from mortalgpu.model.share import Inventory
from mortalgpu.scan.health import (
    NO_TROUBLES,
    HealthPolicy,
    Troubles,
    after_event,
    after_policy,
    after_probes,
    after_reopening,
    fault_of_missing,
    judge,
)
from mortalgpu.scan.settling import AskHeld, Settling
from mortalgpu.sharing.partition import share, shareable
from mortalgpu.sharing.rules import ShareRule

log = logging.getLogger(__name__)

SHORTEST_ENUMERATION_PAUSE_SECONDS = 0.5
QUIET_LOG_SECONDS = 10.0
"""How often one and the same event of the driver is logged."""


@dataclass(frozen=True, slots=True)
class DiscoverySettings:
    """`layout_path` is the file of the remembered layout. Periods in seconds."""

    rules: tuple[ShareRule, ...]
    layout_path: Path
    policy: HealthPolicy = field(default_factory=HealthPolicy)
    cache_seconds: float = 3600.0
    probe_seconds: float = 0.5
    held_seconds: float = 2.0
    """How often to ask whether a layout that waits may take over."""
    longest_enumeration_pause_seconds: float = 10.0
    """Devices come and go by an operator's hand (MIG), and nobody tells us: look at least this often."""


class Discovery:
    """Keeps the inventory true. Its state is private to its own tasks; the outside reads `inventory`."""

    def __init__(
        self,
        driver: GpuDriver,
        held: AskHeld,
        inventory: Latest[Inventory],
        settings: DiscoverySettings,
        clock: WallClock,
        events: EventCounts | None = None,
    ) -> None:
        self._driver = driver
        self._inventory = inventory
        self._settings = settings
        self._clock = clock
        self._devices: tuple[Device, ...] = ()
        self._missing: frozenset[str] = frozenset()
        self._troubles: Troubles = NO_TROUBLES
        self._health: Mapping[str, Health] = {}
        self._settling = Settling(held, settings.layout_path)
        self._one_at_a_time = trio.Lock()
        self._enumerate_now = trio.Event()
        self._events: EventCounts = Counter() if events is None else events
        self._told_events: dict[tuple[str, str, int], tuple[float, int]] = {}
        self._driver_silent = False
        self._driver_gone = False
        self._refused: dict[str, str] = {}

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Publish the first inventory, then keep it true until cancelled.

        Raises DriverError when the first enumeration fails, ConfigError when the devices cannot be shared as configured.
        """
        await self._settling.load()
        await self._enumerate()
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_enumerating)
            nursery.start_soon(self._keep_probing)
            nursery.start_soon(self._keep_listening)
            nursery.start_soon(self._keep_settling)

    async def take(self, settings: DiscoverySettings) -> None:
        """Go on with other settings; the path of the layout stays. Returns once the inventory follows them.

        Raises ConfigError when the present devices cannot be shared so; then nothing has changed.
        """
        share(self._devices, settings.rules)
        self._settings = replace(settings, layout_path=self._settings.layout_path)
        self._troubles = after_policy(self._troubles, settings.policy)
        await self._settle()

    # Devices.

    async def _keep_enumerating(self) -> None:
        while True:
            pause = min(self._settings.cache_seconds, self._settings.longest_enumeration_pause_seconds)
            with trio.move_on_after(pause):
                await self._enumerate_now.wait()
            self._enumerate_now = trio.Event()
            try:
                await self._enumerate()
            except DriverError as error:
                log.debug("enumeration failed", extra={"error": str(error)})
            # A storm of faults, or a GPU that stays away, must not become a storm of enumerations.
            await trio.sleep(SHORTEST_ENUMERATION_PAUSE_SECONDS)

    async def _enumerate(self) -> None:
        found = await self._driver.devices()
        devices, missing = merged(self._devices, found, self._missing)
        if not self._inventory.version:
            share(devices, self._settings.rules)  # At the start a device that cannot be shared is a mistake to be told.
        devices = self._without_refused(devices)
        changed = devices != self._devices or missing != self._missing
        self._devices, self._missing = devices, missing
        known = {device.uuid for device in devices}
        self._troubles = {uuid: troubles for uuid, troubles in self._troubles.items() if uuid in known}
        if changed or not self._inventory.version:
            await self._settle()

    def _without_refused(self, devices: tuple[Device, ...]) -> tuple[Device, ...]:
        """Leave out newcomers that cannot be shared as configured, and say so once: the others must not wait for them."""
        fitting, refusals = shareable(devices, self._devices, self._settings.rules)
        for uuid, error in refusals.items():
            if self._refused.get(uuid) != str(error):
                log.error(
                    "new device cannot be shared as configured",
                    extra={"device": uuid, "config_field": error.field, "error": str(error)},
                )
        self._refused = {uuid: str(error) for uuid, error in refusals.items()}
        return fitting

    # Layout.

    async def _keep_settling(self) -> None:
        while True:
            await trio.sleep(self._settings.held_seconds)
            if self._settling.waits:
                # Published anew even when nothing changes: kubelet then rewrites its checkpoint and forgets dead pods.
                await self._settle()
            else:
                async with self._one_at_a_time:
                    await self._settling.save_again()

    async def _settle(self) -> None:
        async with self._one_at_a_time:
            wanted = share(self._devices, self._settings.rules)
            await self._settling.settle(wanted, first=not self._inventory.version)
            self._publish(always=True)

    # Health.

    async def _keep_probing(self) -> None:
        while True:
            await trio.sleep(self._settings.probe_seconds)
            try:
                probes = await self._driver.probe([device.uuid for device in self._devices])
            except DriverError as error:
                self._on_driver_trouble(error)
                continue
            self._on_driver_answer()
            self._on_probes({**probes, **{uuid: fault_of_missing(probes.get(uuid)) for uuid in self._missing}})

    def _on_driver_answer(self) -> None:
        if self._driver_silent:
            log.info("driver answers again")
        if self._driver_gone:
            self._troubles = after_reopening(self._troubles)
        self._driver_silent = self._driver_gone = False

    def _on_driver_trouble(self, error: DriverError) -> None:
        if not self._driver_silent:
            log.error("driver does not answer", extra={"error": str(error)})
        self._driver_silent = True
        self._driver_gone = self._driver_gone or isinstance(error, DriverLost)
        self._on_probes({device.uuid: Fault(f"driver: {error}") for device in self._devices})

    def _on_probes(self, probes: Mapping[str, Fault | None]) -> None:
        now, monotonic = self._clock.now(), self._clock.monotonic()
        before = self._troubles
        self._troubles = after_probes(before, probes, now, monotonic, self._settings.policy.quiet_seconds)
        if self._missing or set(before) != set(self._troubles):
            self._enumerate_now.set()
        self._publish()

    async def _keep_listening(self) -> None:
        while True:
            try:
                event = await self._driver.health_event()
            except DriverError as error:
                log.debug("waiting for driver events failed", extra={"error": str(error)})
                await trio.sleep(self._settings.probe_seconds)
                continue
            self._tell_event(event)
            now, monotonic = self._clock.now(), self._clock.monotonic()
            self._troubles = after_event(self._troubles, event, self._devices, self._settings.policy, now, monotonic)
            self._publish()

    def _tell_event(self, event: HealthEvent) -> None:
        """Count an event and log it, but not each one of a storm."""
        key, now = (event.uuid or "", event.kind, event.code), self._clock.monotonic()
        self._events[key] += 1
        told_at, told = self._told_events.get(key, (float("-inf"), 0))
        if now - told_at >= QUIET_LOG_SECONDS:
            self._told_events[key] = now, self._events[key]
            log.warning(
                "driver reported an event",
                extra={
                    "kind": event.kind,
                    "code": event.code,
                    "device": event.uuid,
                    "count": self._events[key] - told,
                },
            )

    def _publish(self, *, always: bool = False) -> None:
        health = judge(
            (shared.device for shared in self._settling.layout.devices), self._troubles, self._health, self._clock.now()
        )
        if health != self._health or always:
            _tell_changes(self._health, health)
            self._health = health
            self._inventory.publish(replace(self._settling.layout, health=health))


def merged(
    known: Sequence[Device], found: Sequence[Device], missing_before: Collection[str]
) -> tuple[tuple[Device, ...], frozenset[str]]:
    """Return the devices to go on with after an enumeration, and the UUIDs of those among them that are missing (rule 2).

    `missing_before` are those that the enumeration before did not find.
    """
    present = {device.uuid for device in found}
    instances = {(device.gpu_uuid, device.mig.gi_id) for device in found if device.mig}

    def taken_away(device: Device) -> bool:
        if device.mig is None or device.gpu_uuid not in present:
            return False
        return device.uuid in missing_before or (device.gpu_uuid, device.mig.gi_id) in instances

    missing = [device for device in known if device.uuid not in present and not taken_away(device)]
    everything = sorted([*found, *missing], key=lambda device: device.place)
    return tuple(everything), frozenset(device.uuid for device in missing)


def _tell_changes(before: Mapping[str, Health], after: Mapping[str, Health]) -> None:
    for uuid, health in after.items():
        was = before.get(uuid)
        if not health.healthy and (was is None or was.healthy):
            log.error("device became unhealthy", extra={"device": uuid, "reason": health.reason})
        elif health.healthy and was is not None and not was.healthy:
            log.info("device is healthy again", extra={"device": uuid})
