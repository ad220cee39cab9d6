"""The join process → container → assignment → limit. Pure.

The rules:
1. A process belongs to the container that its cgroup names. No container, an empty id, or a listing that cannot be this
   process's (listings.py): nobody's, and never touched.
2. A container counts when it holds shares of ours, or when its pod does while it uses a device of ours. Everybody else on
   the devices is a stranger: counted, and left alone.
3. On a device that it holds shares of, its limit is what limits.py says. On a shared device that it holds nothing of, the
   limit is 0, provided that kubelet's books list it. A container that they do not list (init and ephemeral containers;
   every container while kubelet has not answered since it began) has no known limit: nobody is judged on a guess.
4. Devices that are not shared are not our business, whoever uses them.
5. A container that holds shares has its entry with or without processes, and before anyone has told its container id.
6. An id that kubelet has handed on belongs to the pod that its newest books name. The one that had it before may still be
   seen, where the pods view is behind: its limit stays what it was, and the id is not its own any more.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from mortalgpu.cluster.base import PodsView
from mortalgpu.host.base import HostProcess, ProcessDetails
from mortalgpu.model.device import Fault, GpuProcess, Snapshot
from mortalgpu.model.pod import ContainerRef, Pod
from mortalgpu.model.share import Inventory, SharedDevice
from mortalgpu.model.usage import ContainerUsage, DeviceClaim, DeviceUsage, ProcessUsage
from mortalgpu.scan.ledger import Alive, Entry, HeldOn, Ledger, Name
from mortalgpu.scan.limits import LimitNotice, limit_on, limit_shares
from mortalgpu.scan.listings import Listing


@dataclass(frozen=True, slots=True)
class ScanFacts:
    """Everything one attribution is made of.

    `hosts` is by pid. `disbelieved` are the listings (device UUID, pid) that cannot be of the process with that pid now.
    `details` are for display only, and possibly of older scans.
    """

    inventory: Inventory
    snapshot: Snapshot
    hosts: Mapping[int, HostProcess]
    view: PodsView
    disbelieved: Set[Listing] = frozenset()
    details: Mapping[HostProcess, ProcessDetails] = field(default_factory=dict)
    max_overcommit: float = 0.0


@dataclass(frozen=True, slots=True)
class Attribution:
    """The result: devices, containers, and what pod owners should be told about their annotations."""

    devices: tuple[DeviceUsage, ...]
    containers: tuple[ContainerUsage, ...]
    notices: tuple[tuple[Pod, LimitNotice], ...] = ()

    @property
    def unknown_count(self) -> int:
        """How many entries of processes there are whose memory the driver does not tell."""
        return sum(process.used_bytes is None for holder in self.containers for process in holder.processes)


Work = dict[ContainerRef, dict[str, list[ProcessUsage]]]
"""Processes by container, then by device."""


def containers_with_processes(hosts: Iterable[HostProcess]) -> frozenset[ContainerRef]:
    """Return the containers that these processes run in (rule 1)."""
    refs = {found.container for found in hosts if found.container is not None}
    return frozenset(ref for ref in refs if ref.container_id and ref.pod_uid)


def attribute(facts: ScanFacts, ledger: Ledger) -> Attribution:
    """Join the facts of one scan; the ledger must have observed the same scan."""
    work = _group(facts)
    shared = facts.inventory.by_uuid()
    unreadable = frozenset(uuid for uuid in shared if not isinstance(facts.snapshot.processes.get(uuid), tuple))
    join = _Join(facts, shared, unreadable, ledger.holding, ledger.owners)
    containers = [found for alive in ledger.alive() if (found := join.container(alive, work.get(alive.ref, {})))]
    containers += join.waiting(ledger.entries, containers)
    containers.sort(key=_by_name)
    taken = _taken(ledger)
    devices = tuple(_device(each, facts.snapshot, containers, taken) for each in facts.inventory.devices)
    return Attribution(devices, tuple(containers), tuple(join.notices))


def _by_name(found: ContainerUsage) -> tuple[str, str, str, str]:
    return (found.pod_namespace, found.pod_name, found.container_name, found.container_id)


def _group(facts: ScanFacts) -> Work:
    work: Work = {}
    for shared in facts.inventory.devices:
        found = facts.snapshot.processes.get(shared.uuid)
        for process in found if isinstance(found, tuple) else ():
            host = facts.hosts.get(process.pid)
            container = host.container if host and (shared.uuid, process.pid) not in facts.disbelieved else None
            if host and container and container.container_id and container.pod_uid:
                usage = _process(process, host, container, shared.uuid, facts.details.get(host))
                work.setdefault(container, {}).setdefault(shared.uuid, []).append(usage)
    return work


def _process(
    found: GpuProcess, host: HostProcess, container: ContainerRef, uuid: str, details: ProcessDetails | None
) -> ProcessUsage:
    if details is None:
        return ProcessUsage(found.pid, host.start_ticks, container, uuid, found.used_bytes, found.gpu_percent)
    about = (details.user, details.command, details.pid_inside)
    return ProcessUsage(found.pid, host.start_ticks, container, uuid, found.used_bytes, found.gpu_percent, *about)


@dataclass(slots=True)
class _Join:
    facts: ScanFacts
    shared: Mapping[str, SharedDevice]
    unreadable: frozenset[str]
    holding: frozenset[Name]
    owners: Mapping[str, Name | None]
    notices: list[tuple[Pod, LimitNotice]] = field(default_factory=list)

    def container(self, alive: Alive, work: Mapping[str, Sequence[ProcessUsage]]) -> ContainerUsage | None:
        """Return the entry of a live container, or None when it is a stranger (rule 2)."""
        pod, binding = alive.pod, alive.binding
        if pod is None:
            return None
        entry = binding.entry if binding else None
        pod_holds = binding.pod_holds if binding else (pod.namespace, pod.name) in self.holding
        if not (entry and entry.held) and not (pod_holds and work):
            return None
        claims = self._claims(pod, entry, work)
        name = alive.container.name if alive.container else ""
        return ContainerUsage(pod.namespace, pod.name, name, alive.ref.pod_uid, alive.ref.container_id, claims)

    def waiting(self, entries: Iterable[Entry], shown: Sequence[ContainerUsage]) -> list[ContainerUsage]:
        """Return the containers that hold shares by kubelet's books and are known by nothing else (rule 5)."""
        seen = {(found.pod_namespace, found.pod_name, found.container_name) for found in shown}
        pods = {(pod.namespace, pod.name): pod for pod in self.facts.view.pods.values() if not pod.finished}
        found = []
        for entry in entries:
            pod = pods.get((entry.namespace, entry.pod_name))
            gone = self.facts.view.synced and pod is None
            if entry.held and not gone and (entry.namespace, entry.pod_name, entry.container_name) not in seen:
                claims = self._claims(pod, entry, {})
                uid = pod.uid if pod else ""
                found.append(ContainerUsage(entry.namespace, entry.pod_name, entry.container_name, uid, "", claims))
        return found

    def _claims(
        self, pod: Pod | None, entry: Entry | None, work: Mapping[str, Sequence[ProcessUsage]]
    ) -> tuple[DeviceClaim, ...]:
        held: dict[str, list[HeldOn]] = {}
        for each in entry.held if entry else ():
            held.setdefault(each.uuid, []).append(each)
        limits = self._limits(pod, entry) if entry else {}
        known = [uuid for uuid in self.shared if uuid in held or uuid in work]
        lost = [uuid for uuid in held if uuid not in self.shared]
        return tuple(
            self._claim(uuid, held.get(uuid, ()), limits.get(uuid, 0) if entry else None, work.get(uuid, ()), entry)
            for uuid in (*known, *lost)
        )

    def _claim(
        self,
        uuid: str,
        held: Sequence[HeldOn],
        limit_bytes: int | None,
        processes: Sequence[ProcessUsage],
        entry: Entry | None,
    ) -> DeviceClaim:
        count = sum(each.shares for each in held)
        mine = (entry.namespace, entry.pod_name) if entry else None
        ids = tuple(text for each in held for text in each.meta_devices if self.owners.get(text, mine) in (mine, None))
        shared = self.shared.get(uuid)
        if shared is None:
            return DeviceClaim(uuid, held[0].resource, count, 0, None, meta_devices=ids, readable=False)
        resource = held[0].resource if held else shared.resource
        worth = shared.limit_bytes(count)
        readable = uuid not in self.unreadable
        return DeviceClaim(uuid, resource, count, worth, limit_bytes, tuple(processes), ids, readable)

    def _limits(self, pod: Pod | None, entry: Entry) -> dict[str, int]:
        """Return the limit by device on which the container holds shares; notices are put aside."""
        totals: dict[str, int] = {}
        for each in entry.held:
            totals[each.resource] = totals.get(each.resource, 0) + each.shares
        annotations = pod.annotations if pod else {}
        wanted = {name: limit_shares(name, held, annotations, self.facts.max_overcommit) for name, held in totals.items()}
        if pod:
            self.notices.extend((pod, limit.notice) for limit in wanted.values() if limit.notice)
        limits: dict[str, int] = {}
        for each in entry.held:
            shared = self.shared.get(each.uuid)
            if shared is not None:
                part = limit_on(shared, each.shares, wanted[each.resource])
                limits[each.uuid] = min(shared.device.memory_bytes, limits.get(each.uuid, 0) + part)
        return limits


def _taken(ledger: Ledger) -> dict[str, int] | None:
    """Count the shares that containers hold, by device; None before kubelet has answered."""
    if ledger.reading is None:
        return None
    ids: dict[str, set[str]] = {}
    for entry in ledger.entries:
        for each in entry.held:
            ids.setdefault(each.uuid, set()).update(each.meta_devices)
    return {uuid: len(found) for uuid, found in ids.items()}


def _device(
    shared: SharedDevice, snapshot: Snapshot, containers: Iterable[ContainerUsage], taken: Mapping[str, int] | None
) -> DeviceUsage:
    memory = snapshot.memory.get(shared.uuid)
    processes = snapshot.processes.get(shared.uuid)
    utilization = snapshot.utilization.get(shared.uuid)
    faults = [found.text for found in (memory, processes, utilization) if isinstance(found, Fault)]
    listed = processes if isinstance(processes, tuple) else ()
    ours = sum(len(claim.processes) for found in containers if (claim := found.claim_on(shared.uuid)))
    return DeviceUsage(
        shared,
        memory if not isinstance(memory, Fault) else None,
        utilization if not isinstance(utilization, Fault) else None,
        len(listed),
        len(listed) - ours,
        None if taken is None else taken.get(shared.uuid, 0),
        "; ".join(dict.fromkeys(faults)),
    )
