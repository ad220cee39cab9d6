"""From the configuration to what the services take: rules, policies, settings. Used by the composition roots only."""

import logging
import os
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import trio

from mortalgpu import __version__, threads
from mortalgpu.allocator import collocate, spread
from mortalgpu.allocator.base import Allocator, Policy, Terms
from mortalgpu.allocator.external import ExternalAllocator
from mortalgpu.cluster.access import ApiAccess, in_cluster
from mortalgpu.cluster.auto import AutoCluster
from mortalgpu.cluster.base import Cluster
from mortalgpu.cluster.cri import USUAL_SOCKETS, CriCluster
from mortalgpu.config import Config
from mortalgpu.deviceapi.keys import KeySettings, SecretSource
from mortalgpu.deviceapi.server import ADMIN_SOCKET_NAME, SOCKET_NAME, DeviceApiSettings
from mortalgpu.enforcer.service import EnforcerSettings
from mortalgpu.errors import ConfigError, HostError, KubeletError
from mortalgpu.exporter.checks import Patience
from mortalgpu.exporter.service import Switches
from mortalgpu.isolation import mgctl_mount
from mortalgpu.kubelet.checkpoint import FILE_NAME, resources_mounting
from mortalgpu.model.grant import Mount
from mortalgpu.scan.books import BooksTempo
from mortalgpu.scan.discovery import DiscoverySettings
from mortalgpu.scan.health import DEFAULT_XIDS, HealthPolicy
from mortalgpu.scan.rhythm import Tempo
from mortalgpu.scan.scanner import ScanSettings
from mortalgpu.sharing.layout import load_layout
from mortalgpu.sharing.rules import ShareRule, check_rules
from mortalgpu.statefile import read_state
from mortalgpu.units import from_mib

log = logging.getLogger(__name__)

LAYOUT_FILE = "layout.json"
SOCKET_DIRECTORY = "socket"
"""Below the state directory: what containers may see of it."""
TIDY_SECONDS = 3600.0
_NODE_NAME = re.compile(r"[!-+\--~]{1,253}")
"""What a selector takes as it is: printable, and no comma. Hosts beyond Kubernetes have names of more kinds than nodes."""


def share_rules(config: Config) -> tuple[ShareRule, ...]:
    """Return the entries of deviceSharing as rules. Raises ConfigError when they contradict themselves or each other."""
    rules = tuple(
        ShareRule(
            resource=entry.resource_name,
            metagpus_per_gpu=entry.metagpus_per_gpu,
            chunk_bytes=from_mib(entry.chunk_mib),
            reserved=entry.reserved_chunks,
            uuids=entry.uuid,
            models=entry.model_name,
            gi_ids=entry.migid,
            field=f"config.deviceSharing[{number}]",
        )
        for number, entry in enumerate(config.device_sharing)
    )
    check_rules(rules)
    return rules


def allocator(config: Config) -> Allocator:
    """Return the configured allocation policy."""
    settings = config.allocator
    terms = Terms(no_split=settings.no_split, allow_collocation=settings.allow_collocation)
    if settings.plugin == "external":
        external = settings.external_config
        extra_env = dict(pair.split("=", 1) for pair in external.env_vars)
        return ExternalAllocator((external.path, *external.args), terms, external.timeout_seconds, extra_env)
    return Policy({"collocate": collocate.choose, "spread": spread.choose}[settings.plugin], terms)


def discovery_settings(config: Config) -> DiscoverySettings:
    """Return what discovery takes. Raises ConfigError as `share_rules` does."""
    return DiscoverySettings(
        rules=share_rules(config),
        layout_path=Path(config.state_path) / LAYOUT_FILE,
        policy=HealthPolicy({**DEFAULT_XIDS, **config.health.xids}, config.health.quiet_seconds),
        cache_seconds=config.device_manager.device_cache_t_t_l,
        probe_seconds=config.device_manager.health_probe_period,
    )


def resources_of_ours(config: Config) -> tuple[str, ...]:
    """Return every resource name whose shares containers may hold: the configured ones, and those of the remembered layout.

    Where the layout was lost, kubelet's checkpoint tells the names of grants that mount mgctl from this installation's folder;
    another installation on the node has a folder of its own. Reads one or two small files; what cannot be read adds nothing,
    and discovery says so. Raises ConfigError as `share_rules` does.
    """
    settings, host_mount = discovery_settings(config), config.mgctl.host_mount
    try:
        text = read_state(settings.layout_path)
    except HostError:
        text = None
    loaded = load_layout(text) if text else None
    names = [rule.resource for rule in settings.rules]
    if loaded:
        names += [entry.resource for entry in loaded.entries.values()]
    if host_mount.enabled and (not loaded or loaded.problem):
        with suppress(KubeletError):
            names += resources_mounting(Path(config.kubelet.device_plugin_dir), Path(host_mount.host_path))
    return tuple(dict.fromkeys(names))


def key_settings(config: Config) -> KeySettings:
    """Return where the device API's secrets come from."""
    given = config.grpc_security
    return KeySettings(
        state_directory=config.state_path,
        jwt_secret=SecretSource("config.grpcSecurity.jwtSecret", given.jwt_secret, given.jwt_secret_file),
        previous_jwt_secret=SecretSource(
            "config.grpcSecurity.previousJwtSecret", given.previous_jwt_secret, given.previous_jwt_secret_file
        ),
        device_token=SecretSource("config.grpcSecurity.deviceToken", given.device_token, given.device_token_file),
        container_token=SecretSource("config.grpcSecurity.containerToken", given.container_token, given.container_token_file),
    )


def device_api_settings(config: Config) -> DeviceApiSettings:
    """Return where the device API listens: the network, the socket for containers, and the one for root of this node."""
    host, port = host_and_port(config.device_api.address)
    state = Path(config.state_path)
    return DeviceApiSettings(
        node=node_name(config),
        host=host,
        port=port,
        container_socket=state / SOCKET_DIRECTORY / SOCKET_NAME if _has_socket_mount(config) else None,
        admin_socket=state / ADMIN_SOCKET_NAME,
        cert_file=config.device_api.tls.cert_file,
        key_file=config.device_api.tls.key_file,
        kill_grace_seconds=config.enforcer.grace_seconds,
    )


def mgctl_address(config: Config) -> str:
    """Return what containers get as MG_CTL_ADDR; empty when there is no API."""
    if not config.device_api.enabled:
        return ""
    if config.device_api.advertise:
        return config.device_api.advertise
    if _has_socket_mount(config):
        return f"unix://{mgctl_mount.SOCKET_DIRECTORY}/{SOCKET_NAME}"
    return f"{_node_host(config)}:{config.device_api.address.rpartition(':')[2]}"


def _node_host(config: Config) -> str:
    """Return where this node is reached: the variable NODE_IP (an IPv6 address in brackets), else its name."""
    address = os.environ.get("NODE_IP", "")
    if not address:
        return node_name(config)
    if not _NODE_NAME.fullmatch(address):
        raise ConfigError("NODE_IP", f"{address[:80]!a} is no address; give the node's own, or leave the variable out")
    return f"[{address}]" if ":" in address and not address.startswith("[") else address


async def container_mounts(config: Config) -> tuple[Mount, ...]:
    """Publish mgctl on the host, and return every mount that containers get: mgctl, the API's socket, the configured ones.

    A missing mgctl is a warning: containers that start without it are better than none.
    """
    configured = tuple(Mount(mount.host_path, mount.container_path, mount.read_only) for mount in config.plugin_mounts)
    socket_directory = Path(config.state_path) / SOCKET_DIRECTORY
    socket = (mgctl_mount.socket_mount(socket_directory),) if _has_socket_mount(config) else ()
    host_mount = config.mgctl.host_mount
    if not host_mount.enabled:
        return configured
    source, host_path = Path(config.mgctl.source_path), Path(host_mount.host_path)
    try:
        published = await threads.run(mgctl_mount.publish, source, host_path, __version__)
    except HostError as error:
        log.warning("containers get no mgctl", extra={"cause": str(error)})
        return (*socket, *configured)
    return (*mgctl_mount.mounts(published, host_mount.container_path), *socket, *configured)


async def keep_mgctl_tidy(config: Config) -> None:
    """Remove published versions of mgctl that nobody needs any more, now and every hour, until cancelled."""
    checkpoint = Path(config.kubelet.device_plugin_dir) / FILE_NAME
    while True:
        try:
            await threads.run(mgctl_mount.clean_up, Path(config.mgctl.host_mount.host_path), checkpoint)
        except HostError as error:
            log.warning("old versions of mgctl are kept", extra={"cause": str(error)})
        await trio.sleep(TIDY_SECONDS)


def _has_socket_mount(config: Config) -> bool:
    return config.device_api.enabled and config.device_api.socket_mount and config.mgctl.host_mount.enabled


def scan_settings(config: Config) -> ScanSettings:
    """Return what the scanner takes."""
    period_seconds = config.device_manager.processes_discovery_period
    return ScanSettings(
        look_seconds=config.device_manager.quick_look_period,
        idle_look_seconds=max(ScanSettings().idle_look_seconds, config.device_manager.quick_look_period),
        max_overcommit=config.enforcer.max_overcommit,
        tempo=Tempo(period_seconds=period_seconds),
        books=BooksTempo(period_seconds=period_seconds),
    )


def enforcer_settings(config: Config) -> EnforcerSettings:
    """Return what the enforcer takes."""
    given = config.enforcer
    return EnforcerSettings(enabled=config.memory_enforcer, dry_run=given.dry_run, grace_seconds=given.grace_seconds)


def exporter_switches(config: Config) -> Switches:
    """Return what the metrics pages show beyond the usual, and how much patience the checks of health have."""
    longest_scan_pause_seconds = 3 * config.device_manager.processes_discovery_period
    return Switches(
        metagpu_names=config.exporter.metagpu_names,
        per_process=config.exporter.per_process,
        enforces=config.memory_enforcer and not config.enforcer.dry_run,
        patience=Patience(scan_seconds=max(Patience().scan_seconds, longest_scan_pause_seconds)),
    )


def host_and_port(address: str) -> tuple[str, int]:
    """Split a configured address. No host means every address of this machine, as in Go; an IPv6 host is in brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]") or "0.0.0.0", int(port)


def cluster(config: Config, environ: Mapping[str, str]) -> Cluster:
    """Return the configured source of pods. Raises ConfigError when the API is wanted and nobody says where it is."""
    sockets = (Path(config.cri_socket.removeprefix("unix://")),) if config.cri_socket else USUAL_SOCKETS
    access = _api_access(config, environ)
    if config.pod_source == "cri" or (config.pod_source == "auto" and access is None):
        return CriCluster(sockets)
    if access is None:
        raise ConfigError(
            "config.podSource",
            "is kubernetes, but this is no pod with a service account, and kubernetes.apiServer is empty; set one of them",
        )
    # Imported only where it is used: the HTTP client is a sixth of the daemon's memory and of its start.
    from mortalgpu.cluster.api import ApiCluster

    api = ApiCluster(access, node_name(config))
    return api if config.pod_source == "kubernetes" else AutoCluster(api, CriCluster(sockets))


def _api_access(config: Config, environ: Mapping[str, str]) -> ApiAccess | None:
    given = config.kubernetes
    if not given.api_server:
        return in_cluster(environ)
    return ApiAccess(
        given.api_server.rstrip("/"),
        Path(given.ca_file) if given.ca_file else None,
        Path(given.token_file) if given.token_file else None,
    )


def node_name(config: Config) -> str:
    """Return this node's name: configured, else the variable NODE_NAME (the chart sets it), else the host's name.

    Raises ConfigError for one that no node can have: it goes into selectors of pods, where a comma would begin another one.
    """
    name = config.node_name or os.environ.get("NODE_NAME", "") or socket.gethostname()
    if not _NODE_NAME.fullmatch(name):
        raise ConfigError("config.nodeName", f"{name[:80]!a} is no node's name; give the one that kubectl get nodes shows")
    return name
