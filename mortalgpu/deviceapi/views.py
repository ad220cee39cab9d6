"""What each caller of the device API may see and do. Pure.

Rules:
1. `l0` sees every container that holds shares of ours, and may kill their GPU processes.
2. `l1` is one container. It sees the containers of its pod and the devices it holds itself, and may kill its own GPU
   processes; nothing else, and nothing tells it whether anything else exists.
3. A container is known by what the kernel says of it, or by the ids that its token names: all of them must be held, at this
   moment, within one pod. A token whose ids have gone back, or went to several pods, opens nothing. What was read of
   kubelet's books before the ids were granted tells of the container that had them before, and is not believed.
4. A name that a caller gives opens nothing by itself. If it gives one, it must be its own pod's.
5. Only the shared token, where the operator has set one, is believed the pod's name; in return it may not kill, and a name
   that two namespaces have opens nothing without the namespace.
6. An empty id never matches anything.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from mortalgpu.deviceapi.tokens import CONTAINER_LEVEL, NODE_LEVEL
from mortalgpu.errors import Forbidden, Unauthenticated
from mortalgpu.model.pod import ContainerRef
from mortalgpu.model.usage import ContainerUsage, ProcessUsage, Usage

_HOSTNAME_LENGTH = 63
"""Kubernetes cuts a pod's name to this for its host name, which is what older clients send as the pod's name."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller that has proved who it is: by its level, its container, or the ids of its token."""

    level: str
    container: ContainerRef | None = None
    """Of a caller on the Unix socket: where the kernel says it runs."""
    meta_devices: frozenset[str] = frozenset()
    """Of a caller with a container's own token: the ids it was granted."""
    granted_at: float = float("-inf")
    """When one of these was last granted, as far as that is known: monotonic seconds."""
    names_itself: bool = False
    """True for the shared token only."""
    email: str = ""
    """For the log."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What one caller may see of one Usage. `own` are the containers it is, as far as that is known."""

    level: str
    containers: tuple[ContainerUsage, ...]
    own: tuple[ContainerUsage, ...] = ()

    @property
    def sees_node(self) -> bool:
        """Whether nothing is hidden."""
        return self.level == NODE_LEVEL

    def sees_device(self, uuid: str) -> bool:
        """Whether the device as a whole may be shown."""
        return self.sees_node or any(claim.uuid == uuid and claim.shares for holder in self.own for claim in holder.devices)


def sight(caller: Caller, usage: Usage, pod_id: str = "") -> Sight:
    """Return what the caller may see. Raises Forbidden for a pod that is not its own, Unauthenticated for a dead token."""
    if caller.level == NODE_LEVEL:
        return Sight(NODE_LEVEL, usage.containers)
    if caller.names_itself:
        return Sight(CONTAINER_LEVEL, _named_pod(usage, pod_id))
    own = _by_kernel(caller.container, usage) if caller.container else _by_ids(caller, usage)
    containers = _pod_of(caller, own, usage)
    if pod_id and not any(_is_called(holder, pod_id) for holder in containers):
        raise Forbidden(f"{_quoted(pod_id)} is not the pod you are calling from")
    return Sight(CONTAINER_LEVEL, containers, own)


def process_to_kill(caller: Caller, usage: Usage, pid: int) -> ProcessUsage:
    """Return the GPU process that the caller may kill under this host pid. Raises Forbidden, always with the same words."""
    if caller.names_itself:
        raise Forbidden("the shared container token cannot kill; use the container's own token or the Unix socket")
    seen = sight(caller, usage)
    holders = seen.containers if seen.sees_node else seen.own
    own_ids = {holder.container_id for holder in holders} - {""}
    for process in usage.processes_of(pid):
        if process.container.container_id in own_ids:
            return process
    whose = "of a container that holds shares" if seen.sees_node else "of your container"
    raise Forbidden(f"{pid} is not the host pid of a GPU process {whose}")


def refuse_unless_node(caller: Caller) -> None:
    """Raise Forbidden unless the caller may see the whole node."""
    if caller.level != NODE_LEVEL:
        raise Forbidden("this needs visibility level l0, the node's")


def _by_kernel(ref: ContainerRef, usage: Usage) -> tuple[ContainerUsage, ...]:
    if not ref.pod_uid:
        return ()
    found = usage.container(ref.container_id)
    return (found,) if found is not None and found.pod_uid == ref.pod_uid else ()


def _by_ids(caller: Caller, usage: Usage) -> tuple[ContainerUsage, ...]:
    """Return the containers that hold the caller's ids: one, or those of a pod whose containers share them."""
    if usage.books_at is not None and usage.books_at <= caller.granted_at:
        raise Unauthenticated("kubelet has not told yet who holds the meta-devices of this token now")
    wanted = set(caller.meta_devices)
    held = {position: wanted & _ids_of(holder) for position, holder in enumerate(usage.containers)}
    holders = [position for position, common in held.items() if common]
    if not wanted or not wanted <= set().union(*held.values()):
        raise Unauthenticated("no container holds the meta-devices of this token")
    if len({_pod_key(usage.containers[position]) for position in holders}) > 1:
        raise Unauthenticated("the meta-devices of this token belong to several pods by now")
    complete = [position for position in holders if held[position] == wanted]
    return tuple(usage.containers[position] for position in complete or holders)


def _ids_of(holder: ContainerUsage) -> set[str]:
    return {text for claim in holder.devices for text in claim.meta_devices}


def _pod_of(caller: Caller, own: Iterable[ContainerUsage], usage: Usage) -> tuple[ContainerUsage, ...]:
    """Return every container of the caller's pod. The kernel knows the pod even before its container is known here."""
    keys = {_pod_key(holder) for holder in own}
    if caller.container and caller.container.pod_uid:
        keys |= {_pod_key(holder) for holder in usage.containers if holder.pod_uid == caller.container.pod_uid}
    uids = {holder.pod_uid for holder in usage.containers if _pod_key(holder) in keys and holder.pod_uid}
    if caller.container:
        uids &= {caller.container.pod_uid}
    return tuple(
        holder for holder in usage.containers if _pod_key(holder) in keys and (holder.pod_uid in uids or not holder.pod_uid)
    )


def _named_pod(usage: Usage, pod_id: str) -> tuple[ContainerUsage, ...]:
    if not pod_id:
        raise Forbidden("the shared container token needs the pod's name in the request (mgctl --pod)")
    found = tuple(holder for holder in usage.containers if _is_called(holder, pod_id))
    if len({_pod_key(holder) for holder in found}) > 1:
        raise Forbidden(f"several namespaces have a pod {_quoted(pod_id)}; name it as namespace/name")
    if not found:
        raise Forbidden(f"no pod {_quoted(pod_id)} holds shares on this node")
    return found


def _is_called(holder: ContainerUsage, pod_id: str) -> bool:
    hostname = holder.pod_name[:_HOSTNAME_LENGTH].rstrip("-.")
    return bool(holder.pod_name) and pod_id in (holder.pod_name, hostname, f"{holder.pod_namespace}/{holder.pod_name}")


def _pod_key(holder: ContainerUsage) -> tuple[str, str]:
    return holder.pod_namespace, holder.pod_name


def _quoted(text: str) -> str:
    return ascii(text if len(text) <= 80 else text[:77] + "...")
