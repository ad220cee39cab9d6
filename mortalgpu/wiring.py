"""From the configuration to what the services take: rules, policies, settings. Used by the composition roots only."""

import os
import socket
from pathlib import Path

from mortalgpu.allocator import collocate, spread
from mortalgpu.allocator.base import Allocator, Policy, Terms
from mortalgpu.allocator.external import ExternalAllocator
from mortalgpu.config import Config
from mortalgpu.errors import HostError
from mortalgpu.model.grant import Mount
from mortalgpu.scan.discovery import DiscoverySettings
from mortalgpu.scan.health import DEFAULT_XIDS, HealthPolicy
from mortalgpu.sharing.layout import load_layout
from mortalgpu.sharing.rules import ShareRule, check_rules
from mortalgpu.statefile import read_state
from mortalgpu.units import from_mib

LAYOUT_FILE = "layout.json"


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


def resources_of_ours(settings: DiscoverySettings) -> tuple[str, ...]:
    """Return every resource name whose shares containers may hold: the configured ones, and those of the remembered layout.

    Reads one small file; one that cannot be read adds nothing, and discovery says so.
    """
    try:
        text = read_state(settings.layout_path)
    except HostError:
        text = None
    remembered = load_layout(text).entries if text else {}
    names = [*(rule.resource for rule in settings.rules), *(entry.resource for entry in remembered.values())]
    return tuple(dict.fromkeys(names))


def configured_mounts(config: Config) -> tuple[Mount, ...]:
    """Return the mounts of pluginMounts."""
    return tuple(Mount(mount.host_path, mount.container_path, mount.read_only) for mount in config.plugin_mounts)


def node_name(config: Config) -> str:
    """Return this node's name: configured, else the variable NODE_NAME (the chart sets it), else the host's name."""
    return config.node_name or os.environ.get("NODE_NAME", "") or socket.gethostname()
