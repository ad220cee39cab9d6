"""Which device nodes a container needs to use a device, for clusters whose CPUManager takes unlisted ones away.

Names and the capability files are the NVIDIA kernel driver's: /proc/driver/nvidia/capabilities/gpu<minor>/mig/gi<gi>/access
holds a line `DeviceFileMinor: <n>`, which stands for /dev/nvidia-caps/nvidia-cap<n>; a compute instance has its own below.
"""

import re
from pathlib import Path

from mortalgpu.model.device import Device

_CONTROL_NODES = ("dev/nvidiactl", "dev/nvidia-uvm", "dev/nvidia-uvm-tools", "dev/nvidia-modeset")
_CAPABILITY_MINOR = re.compile(r"^DeviceFileMinor:\s*(\d+)\s*$", re.MULTILINE)


def device_nodes(device: Device, root: Path = Path("/")) -> tuple[str, ...]:
    """Return the device's node, the control nodes and a partition's capability nodes, as far as they exist.

    Paths are as below `/`, whatever `root` is. Reads a few small files; blocks for microseconds.
    """
    names = [] if device.minor is None else [f"dev/nvidia{device.minor}"]
    names += [*_CONTROL_NODES, *_capability_nodes(device, root)]
    return tuple(f"/{name}" for name in names if (root / name).exists())


def _capability_nodes(device: Device, root: Path) -> list[str]:
    if device.mig is None or device.minor is None:
        return []
    instance = root / f"proc/driver/nvidia/capabilities/gpu{device.minor}/mig/gi{device.mig.gi_id}"
    files = (instance / "access", instance / f"ci{device.mig.ci_id}" / "access")
    minors = (_minor_in(path) for path in files)
    return [f"dev/nvidia-caps/nvidia-cap{minor}" for minor in minors if minor is not None]


def _minor_in(path: Path) -> str | None:
    try:
        found = _CAPABILITY_MINOR.search(path.read_text())
    except OSError:
        return None
    return found[1] if found else None
