"""The outside world as the daemon needs it, and the adapters that make it of this machine.

Adapters are built here and nowhere else in the daemon; tests and the demo hand in twins.
"""

import os
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from mortalgpu import wiring
from mortalgpu.cluster.base import Cluster
from mortalgpu.config import Config
from mortalgpu.deviceplugin.server import fresh_socket_name
from mortalgpu.deviceplugin.servicer import OPTIONS
from mortalgpu.driver.base import OpenDriver
from mortalgpu.driver.nvml import NvmlSettings, nvml_driver
from mortalgpu.errors import ConfigError, HostError
from mortalgpu.host.base import ProcessTable, ServiceManager, WallClock
from mortalgpu.host.clock import MachineClock
from mortalgpu.host.systemd import service_manager
from mortalgpu.host.table import ProcfsTable
from mortalgpu.kubelet.base import Assignments, Registrar
from mortalgpu.kubelet.podresources import PodResources
from mortalgpu.kubelet.registration import KubeletRegistrar
from mortalgpu.rpc.listener import MAX_PATH_BYTES


@dataclass(frozen=True, slots=True)
class Ports:
    """The outside world, as the daemon needs it."""

    open_driver: OpenDriver
    processes: ProcessTable
    registrar: Registrar
    assignments: Assignments
    cluster: Cluster
    clock: WallClock
    manager: ServiceManager


@asynccontextmanager
async def real_ports(config: Config, resources: Collection[str]) -> AsyncIterator[Ports]:
    """Build the adapters for this machine. `resources` are looked up at each use. Raises ConfigError, HostError."""
    driver = NvmlSettings(library=config.driver.library, call_seconds=config.driver.call_timeout_seconds)
    with ProcfsTable() as processes:
        yield Ports(
            open_driver=nvml_driver(driver),
            processes=processes,
            registrar=KubeletRegistrar(Path(config.kubelet.device_plugin_dir), OPTIONS),
            assignments=PodResources(Path(config.pod_resources_path), resources),
            cluster=wiring.cluster(config, os.environ),
            clock=MachineClock(),
            manager=service_manager(os.environ),
        )


def check_socket_directory(directory: str) -> None:
    """Refuse a directory in which we can or may not make a socket; one that is not there yet is kubelet's to make.

    Raises ConfigError, HostError.
    """
    room = MAX_PATH_BYTES - len(f"/{fresh_socket_name('')}")
    if len(os.fsencode(directory)) > room:
        problem = f"{directory!r} leaves no room for a socket's name; a path of at most {room} bytes is needed"
        raise ConfigError("config.kubelet.devicePluginDir", problem)
    if os.path.isdir(directory) and not os.access(directory, os.W_OK | os.X_OK):
        raise HostError(f"{directory}: no permission to make sockets there; run as root, or give another --kubelet-dir")
