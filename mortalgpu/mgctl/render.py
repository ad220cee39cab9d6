"""What people read: tables of processes and devices, totals, and kills with their reasons. Pure; from messages to lines."""

import time
from collections.abc import Iterable, Sequence

from mortalgpu.mgctl.text import FAINT, GREEN, RED, YELLOW, Cell, Paint, columns, cut, harmless, table
from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb

UNKNOWN = "?"
NONE = "-"
SHOWN_KILLS = 5

_PROCESS_HEADER = ["POD", "NS", "DEVICE", "NODE", "GPU", "MEMORY", "PID", "CMD", "REQ/LIMITS"]
_PROCESS_ELASTIC = ((7, 12), (0, 24))
"""What gives way on a narrow terminal, and how far: the command, then a pod's long name."""
_DEVICE_HEADER = ["IDX", "UUID", "MODEL", "MEMORY", "SHARES", "SHARE SIZE", "RESOURCE", "HEALTH"]
_DEVICE_ELASTIC = ((2, 12),)
_NARROWEST = 40
_OUTCOMES = {"dry_run": "would be killed", "still_there": "killed, but has not ended"}


def processes(response: pb.GetGpuContainersResponse, paint: Paint, *, width: int = 0, ruled: bool = False) -> list[str]:
    """Return the lines of `get processes`. `width` 0: lines are as long as they are."""
    containers = sorted(response.gpu_containers, key=lambda found: (found.pod_namespace, found.pod_id, found.container_name))
    if not containers:
        lines = ["No container here holds shares of a GPU."]
    else:
        several = pods_with_several(containers)
        rows = [row for found in containers for row in _container_rows(found, several)]
        lines = table(_PROCESS_HEADER, rows, paint, width=width, elastic=_PROCESS_ELASTIC, ruled=ruled)
        lines.append(paint(_totals(containers), FAINT))
    return lines + kills(all_kills(response), paint, width=width) + troubles(response.troubles, paint)


def devices(response: pb.GetDevicesResponse, paint: Paint, *, width: int = 0, ruled: bool = False) -> list[str]:
    """Return the lines of `get devices`."""
    found = sorted(response.device.values(), key=lambda device: (device.index, device.mig_gpu_instance, device.uuid))
    if not found:
        return ["No device is visible from here."]
    lines = table(
        _DEVICE_HEADER, [_device_row(device) for device in found], paint, width=width, elastic=_DEVICE_ELASTIC, ruled=ruled
    )
    for device in found:
        if device.health_reason:
            text = harmless(f"device {index_of(device)} {device.uuid}: {device.health_reason}")
            lines.append(paint(text, RED if device.health == "Unhealthy" else YELLOW))
    return lines


def all_kills(response: pb.GetGpuContainersResponse) -> list[pb.Kill]:
    """Return the kills of all containers and of those that are gone, oldest first."""
    found = [kill for container in response.gpu_containers for kill in container.kills]
    return sorted([*found, *response.kills], key=lambda kill: kill.time)


def kills(found: Sequence[pb.Kill], paint: Paint, *, width: int = 0) -> list[str]:
    """Return the lines about recent kills; none when there were none."""
    if not found:
        return []
    lines = ["", "Recent kills:"]
    for kill in found[-SHOWN_KILLS:]:
        whose = f"{kill.pod_namespace}/{kill.pod_id}/{kill.container_name}"
        outcome = _OUTCOMES.get(kill.outcome, "killed")
        text = harmless(f"{_clock(kill.time)}  {whose}  PID {_pid(kill.pid, kill.container_pid)} {outcome}: {kill.cmdline}")
        lines.append(paint(cut(text, width) if width else text, RED))
        lines += [f"          {line}" for line in _wrapped(harmless(kill.reason), width - 10 if width else 0)]
    return lines


def troubles(found: Iterable[str], paint: Paint) -> list[str]:
    """Return a line for each neighbour that does not answer the daemon."""
    return [paint(f"Warning: {harmless(trouble)}", YELLOW) for trouble in found]


def colour_of(used: int | None, request: int, limit: int | None) -> str:
    """Return the colour of a use: green, yellow above the request, red above the limit."""
    if used is None:
        return ""
    if limit is not None and used > limit:
        return RED
    return YELLOW if used > request else GREEN


def share_percent(percent: int, device: pb.Device, shares: int) -> str:
    """Return how busy a share was kept, in per cent of it; unknown without a share."""
    return f"{percent * device.shares // shares}%" if shares and device.shares else UNKNOWN


def optional(message: object, field: str) -> int | None:
    """Return a field's number, or None where it is absent."""
    return getattr(message, field) if message.HasField(field) else None  # type: ignore[attr-defined]


def shown(number: int | None) -> str:
    """Return a number, or the sign for unknown."""
    return UNKNOWN if number is None else str(number)


def index_of(device: pb.Device) -> str:
    """Return a device's index; a partition's has its GPU instance after it, since several have the same index."""
    return f"{device.index}:{device.mig_gpu_instance}" if device.HasField("mig_gpu_instance") else str(device.index)


def pod_name(container: pb.GpuContainer, several: frozenset[tuple[str, str]]) -> str:
    """Return the pod's name, with the container's where the pod has several."""
    pod = (container.pod_namespace, container.pod_id)
    return f"{container.pod_id}/{container.container_name}" if pod in several else container.pod_id


def pods_with_several(containers: Iterable[pb.GpuContainer]) -> frozenset[tuple[str, str]]:
    """Return the pods, as namespace and name, that have more than one of these containers."""
    names: dict[tuple[str, str], set[str]] = {}
    for found in containers:
        names.setdefault((found.pod_namespace, found.pod_id), set()).add(found.container_name)
    return frozenset(pod for pod, inside in names.items() if len(inside) > 1)


def _container_rows(container: pb.GpuContainer, several: frozenset[tuple[str, str]]) -> list[list[Cell]]:
    """Return a row for each process, and one for each device that no process of the container works on."""
    rows = []
    for held in container.container_devices:
        found: list[pb.DeviceProcess | None] = [
            process for process in container.device_processes if process.uuid == held.device.uuid
        ]
        rows += [_process_row(container, held, process, several) for process in found or [None]]
    return rows


def _process_row(
    container: pb.GpuContainer,
    held: pb.ContainerDevice,
    process: pb.DeviceProcess | None,
    several: frozenset[tuple[str, str]],
) -> list[Cell]:
    limit, total = optional(held, "memory_limit"), optional(held, "memory_used")
    used = 0 if process is None else optional(process, "memory")
    return [
        Cell(pod_name(container, several)),
        Cell(container.pod_namespace),
        Cell(index_of(held.device)),
        Cell(container.node_name),
        Cell(NONE if process is None else _gpu(process, held)),
        Cell(f"{shown(used)}/{held.memory_request}/{shown(limit)}", colour_of(total, held.memory_request, limit)),
        Cell(NONE if process is None else _pid(process.pid, process.container_pid)),
        Cell(NONE if process is None else process.cmdline),
        Cell(f"{container.metagpu_requests}/{container.metagpu_limits}"),
    ]


def _gpu(process: pb.DeviceProcess, held: pb.ContainerDevice) -> str:
    percent = optional(process, "gpu_utilization")
    return UNKNOWN if percent is None else share_percent(percent, held.device, held.allocated_shares)


def _pid(outside: int, inside: int) -> str:
    return f"{outside} ({inside})" if inside else str(outside)


def _totals(containers: Sequence[pb.GpuContainer]) -> str:
    held = [device for container in containers for device in container.container_devices]
    pids = {process.pid for container in containers for process in container.device_processes}
    used = [optional(device, "memory_used") for device in held]
    limits = [optional(device, "memory_limit") for device in held]
    memory = f"{_sum(used)}/{sum(device.memory_request for device in held)}/{_sum(limits)} MiB"
    who = f"{_count(len(pids), 'process', 'processes')} in {_count(len(containers), 'container', 'containers')}"
    return f"{who}, {memory} used/requested/limit"


def _sum(numbers: Sequence[int | None]) -> str:
    """Return the sum of what is known; a plus after it says that there is more."""
    known = [number for number in numbers if number is not None]
    return f"{sum(known)}{'' if len(known) == len(numbers) else '+'}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _device_row(device: pb.Device) -> list[Cell]:
    healthy = device.health != "Unhealthy"
    return [
        Cell(index_of(device)),
        Cell(device.uuid),
        Cell(device.model),
        Cell(f"{shown(optional(device, 'memory_used'))}/{device.memory_total}"),
        Cell(f"{shown(optional(device, 'allocated_shares'))}/{device.shares}"),
        Cell(f"{device.memory_share_size} MiB"),
        Cell(device.resource_name),
        Cell(device.health or UNKNOWN, GREEN if healthy else RED),
    ]


def _clock(seconds: int) -> str:
    """Return local time of day, with the date when it is not today's; the number where no calendar reaches."""
    try:
        moment, today = time.localtime(seconds), time.localtime()
    except (OverflowError, OSError, ValueError):
        return str(seconds)
    same_day = (moment.tm_year, moment.tm_yday) == (today.tm_year, today.tm_yday)
    return time.strftime("%H:%M:%S" if same_day else "%Y-%m-%d %H:%M:%S", moment)


def _wrapped(text: str, width: int) -> list[str]:
    """Break a text between words; a width below the narrowest useful one breaks nothing."""
    if width < _NARROWEST:
        return [text]
    lines = [""]
    for word in text.split():
        if lines[-1] and columns(lines[-1]) + 1 + columns(word) > width:
            lines.append("")
        lines[-1] += f"{' ' if lines[-1] else ''}{word}"
    return lines
