"""The picture that `mgctl top` shows: bars, sparklines, kills. Pure; from messages and a history to lines."""

from collections import deque
from collections.abc import Hashable, Iterable, Sequence

from mortalgpu.mgctl.render import (
    all_kills,
    colour_of,
    index_of,
    kills,
    optional,
    pod_name,
    pods_with_several,
    share_percent,
    shown,
    troubles,
)
from mortalgpu.mgctl.text import BOLD, FAINT, RED, Paint, columns, cut, harmless, padded, start
from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb

MINUTE_SECONDS = 60.0
BAR_WIDTH = 20
SPARK_WIDTH = 15
_AMOUNT_WIDTH = 15
_PERCENT_WIDTH = 5
_FIXED = BAR_WIDTH + _AMOUNT_WIDTH + _PERCENT_WIDTH + 3
_SMALLEST_LABEL = 8
_NARROW = 76
"""Below this width sparklines are left out."""


class Signs:
    """The characters that pictures are made of."""

    __slots__ = ("empty", "full", "mark", "steps")

    def __init__(self, full: str, empty: str, mark: str, steps: str) -> None:
        self.full = full
        self.empty = empty
        self.mark = mark
        self.steps = steps


BLOCKS = Signs("█", "░", "┃", " ▁▂▃▄▅▆▇█")
ASCII = Signs("#", "-", "|", " .:-=+*%#")


class History:
    """The last minute's samples by what they are of; what is not sampled any more is forgotten with its last sample."""

    def __init__(self) -> None:
        self._samples: dict[Hashable, deque[tuple[float, float]]] = {}

    def note(self, key: Hashable, at: float, value: float) -> None:
        """Add a sample, between 0 and 1, taken at a monotonic time."""
        samples = self._samples.setdefault(key, deque())
        samples.append((at, value))
        while samples[0][0] <= at - MINUTE_SECONDS:
            samples.popleft()

    def forget_before(self, at: float) -> None:
        """Drop everything of which there is no sample after this time."""
        for key in [key for key, samples in self._samples.items() if samples[-1][0] <= at]:
            del self._samples[key]

    def sparkline(self, key: Hashable, now: float, signs: Signs, width: int = SPARK_WIDTH) -> str:
        """Return the last minute, oldest left: the highest sample of each part; blank where there was none."""
        step = MINUTE_SECONDS / width
        highest: list[float | None] = [None] * width
        for at, value in self._samples.get(key, ()):
            place = width - 1 - int((now - at) / step)
            if 0 <= place < width:
                highest[place] = max(value, highest[place] or 0.0)
        return "".join(" " if value is None else _step(value, signs) for value in highest)


def _step(value: float, signs: Signs) -> str:
    """Return the sign for a value; even the smallest one shows."""
    top = len(signs.steps) - 1
    return signs.steps[max(1, min(top, round(value * top)))]


def bar(used: int | None, size: int, signs: Signs, *, mark: int | None = None, width: int = BAR_WIDTH) -> str:
    """Return a bar for `used` of `size`, with a sign where `mark` lies in it."""
    if used is None or size <= 0:
        return ("?" * width) if used is None else signs.full * width if used else signs.empty * width
    filled = min(width, -(-used * width // size))
    cells = [signs.full if place < filled else signs.empty for place in range(width)]
    if mark is not None and 0 < mark < size:
        cells[min(width - 1, mark * width // size)] = signs.mark
    return "".join(cells)


class View:
    """Draws snapshots; keeps the history between them."""

    def __init__(self, signs: Signs = BLOCKS) -> None:
        self._signs = signs
        self._history = History()

    def draw(
        self,
        snapshot: pb.GetGpuContainersResponse,
        devices: Iterable[pb.Device],
        paint: Paint,
        *,
        now: float,
        clock: str,
        width: int,
        remark: str = "",
    ) -> list[str]:
        """Return the lines of one picture. `now` is monotonic, `clock` the time of day, `remark` what else to say."""
        listed = sorted(devices, key=lambda device: (device.index, device.mig_gpu_instance, device.uuid))
        held = [(container, device) for container in snapshot.gpu_containers for device in container.container_devices]
        lines = [*_head(snapshot, listed, clock, width), paint(cut(remark, width), RED)]
        lines.append(paint(cut(_heading("DEVICE", width), width), BOLD))
        lines += [self._device(device, paint, now, width) for device in listed]
        lines += ["", paint(cut(_heading("CONTAINER", width), width), BOLD)]
        several = pods_with_several(snapshot.gpu_containers)
        lines += [self._container(container, device, several, paint, now, width) for container, device in held]
        lines += [] if held else ["no container here holds shares"]
        self._history.forget_before(now - MINUTE_SECONDS)
        return lines + kills(all_kills(snapshot), paint, width=width) + troubles(snapshot.troubles, paint)

    def _device(self, device: pb.Device, paint: Paint, now: float, width: int) -> str:
        used, percent = optional(device, "memory_used"), optional(device, "gpu_utilization")
        key = ("device", device.uuid)
        if used is not None and device.memory_total:
            self._history.note(key, now, used / device.memory_total)
        sick = "" if device.health != "Unhealthy" else "!"
        label = f"{sick}{index_of(device)} {device.model or device.uuid}"
        amount = f"{shown(used)}/{device.memory_total}"
        cells = bar(used, device.memory_total, self._signs), amount, "?" if percent is None else f"{percent}%"
        return self._line(label, cells, RED if sick else "", key, paint, now, width)

    def _container(
        self,
        container: pb.GpuContainer,
        held: pb.ContainerDevice,
        several: frozenset[tuple[str, str]],
        paint: Paint,
        now: float,
        width: int,
    ) -> str:
        used, limit = optional(held, "memory_used"), optional(held, "memory_limit")
        size = held.memory_request if limit is None else limit
        key = ("container", container.pod_namespace, container.pod_id, container.container_name, held.device.uuid)
        if used is not None:
            self._history.note(key, now, min(1.0, used / size) if size else float(used > 0))
        percent = _percent_of_share(container, held)
        place = f"{index_of(held.device)} {container.pod_namespace}/"
        label = f"{place}{container.pod_id}/{container.container_name}"
        if columns(label) > _label_width(width):
            # A pod is known by its name, most have but one container.
            label = f"{place}{pod_name(container, several)}"
        cells = bar(used, size, self._signs, mark=held.memory_request), f"{shown(used)}/{size}", percent
        return self._line(label, cells, colour_of(used, held.memory_request, limit), key, paint, now, width)

    def _line(
        self, label: str, cells: tuple[str, str, str], colour: str, key: Hashable, paint: Paint, now: float, width: int
    ) -> str:
        pictured, amount, percent = cells
        room = _label_width(width)
        spark = self._history.sparkline(key, now, self._signs) if width >= _NARROW else ""
        tail = f" {cut(amount, _AMOUNT_WIDTH):>{_AMOUNT_WIDTH}} {cut(percent, _PERCENT_WIDTH):>{_PERCENT_WIDTH}} "
        named = padded(_end(harmless(label), room), room)
        return f"{named} {paint(pictured, colour)}{tail}{paint(spark.rstrip(), FAINT)}".rstrip()


def _head(snapshot: pb.GetGpuContainersResponse, devices: Sequence[pb.Device], clock: str, width: int) -> list[str]:
    named = [*(found.node_name for found in devices), *(found.node_name for found in snapshot.gpu_containers)]
    count = len(snapshot.gpu_containers)
    scope = "this node" if snapshot.visibility_level == "l0" else "this pod"
    containers = f"{scope}: {count} container{'' if count == 1 else 's'}"
    return [cut(harmless(f"mgctl top  {', '.join(dict.fromkeys(filter(None, named)))}  {clock}  {containers}"), width)]


def _percent_of_share(container: pb.GpuContainer, held: pb.ContainerDevice) -> str:
    here = (found for found in container.device_processes if found.uuid == held.device.uuid)
    busy = [percent for found in here if (percent := optional(found, "gpu_utilization")) is not None]
    return share_percent(sum(busy), held.device, held.allocated_shares) if busy else "-"


def _label_width(width: int) -> int:
    return max(_SMALLEST_LABEL, width - _FIXED - (SPARK_WIDTH + 1 if width >= _NARROW else 0))


def _heading(name: str, width: int) -> str:
    minute = " LAST MINUTE" if width >= _NARROW else ""
    return f"{name:<{_label_width(width)}} {'MEMORY':<{BAR_WIDTH}} {'MiB':>{_AMOUNT_WIDTH}} {'GPU':>{_PERCENT_WIDTH}}{minute}"


def _end(text: str, width: int) -> str:
    """Cut a label in its middle: its number and its last name tell most."""
    if columns(text) <= width:
        return text
    head = start(text, max(2, width // 3))
    tail = start(text[::-1], width - columns(head) - 1)[::-1]
    return f"{head}…{tail}"
