"""The configuration as typed values: the same tree as the chart's `config.*`, every key with its default.

Rules:
1. A key's name here in snake case is its name in the file in camel case, unless a field says otherwise.
2. The defaults are the chart's; a test holds this file, the chart's values and the README table together.
3. A struct checks what one key can be by itself; what needs two keys, or the devices, is checked by who knows both.
4. Nothing but the composition roots imports this module: settings reach services as arguments.

How the tree is read from a file, the environment and flags is `configfile`.
"""

import os
import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, field

from mortalgpu.errors import ConfigError

Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0, le=1e9)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]
_PATH_PATTERN = "^/[^\\x00-\\x1f]*$"
_ADDRESS_PATTERN = r"^(\[[0-9A-Fa-f:.]*\]|[^:\[\]]*):[0-9]{1,5}$"
AbsolutePath = Annotated[str, Meta(pattern=_PATH_PATTERN)]
Address = Annotated[str, Meta(pattern=_ADDRESS_PATTERN)]

_URL_PATTERN = r"^https?://(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+)(:[0-9]{1,5})?(/[!-~]*)?$"

PATTERN_HINTS = {
    _ADDRESS_PATTERN: "is no address; write host:port, with an IPv6 host in brackets",
    _PATH_PATTERN: "is no absolute path; begin it with /, on one line",
}
"""What to say instead of the pattern when a value does not match it."""


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Base of every section: unknown keys are refused, keys are camel case."""


class Log(Section, frozen=True):
    """log.*"""

    verbose: bool = False
    json: bool = True


class DeviceSharing(Section, frozen=True):
    """deviceSharing[]: which devices are cut into which shares under which resource name."""

    resource_name: str
    metagpus_per_gpu: Count = 0
    chunk_mib: Count = field(default=0, name="metagpusPerGpuMemoryChunkMB")
    reserved_chunks: Count = 0
    uuid: tuple[str, ...] = ()
    model_name: tuple[str, ...] = ()
    migid: tuple[Count, ...] = ()


class ExternalConfig(Section, frozen=True):
    """allocator.externalConfig.*: the external allocator program."""

    path: str = ""
    args: tuple[str, ...] = ()
    env_vars: tuple[str, ...] = ()
    timeout_seconds: Annotated[float, Meta(gt=0, le=20)] = 3.0


class Allocator(Section, frozen=True):
    """allocator.*"""

    plugin: Literal["collocate", "spread", "external"] = "collocate"
    allow_collocation: bool = True
    no_split: bool = True
    external_config: ExternalConfig = ExternalConfig()


class HostMount(Section, frozen=True):
    """mgctl.hostMount.*: mgctl published on the host and mounted into containers that get a resource."""

    enabled: bool = True
    host_path: AbsolutePath = "/var/lib/mortalgpu/"
    container_path: AbsolutePath = "/usr/bin/"


class Mgctl(Section, frozen=True):
    """mgctl.*"""

    source_path: AbsolutePath = "/usr/bin/mgctl"
    host_mount: HostMount = HostMount()


class PluginMount(Section, frozen=True):
    """pluginMounts[]: one more mount for containers that get a resource."""

    host_path: AbsolutePath
    container_path: AbsolutePath
    read_only: bool = True


class Tls(Section, frozen=True):
    """deviceApi.tls.*: certificate files, read again when they change; both empty means no TLS."""

    cert_file: str = ""
    key_file: str = ""


class DeviceApi(Section, frozen=True):
    """deviceApi.*: where mgctl and other clients reach the daemon."""

    enabled: bool = True
    address: Address = "0.0.0.0:50052"
    advertise: str = ""
    """What containers get as MG_CTL_ADDR; empty: the Unix socket when it is mounted, else the node's address."""
    socket_mount: bool = True
    tls: Tls = Tls()


class GrpcSecurity(Section, frozen=True):
    """grpcSecurity.*: keys and tokens of the device API, each as text or as a file."""

    jwt_secret: str = ""
    jwt_secret_file: str = ""
    previous_jwt_secret: str = ""
    previous_jwt_secret_file: str = ""
    device_token: str = ""
    device_token_file: str = ""
    container_token: str = ""
    container_token_file: str = ""

    def __repr__(self) -> str:
        """Name what is set, never its value: a repr ends up in a log sooner or later."""
        return f"GrpcSecurity({', '.join(f'{name}=...' for name in self.__struct_fields__ if getattr(self, name))})"


class DeviceManager(Section, frozen=True):
    """deviceManager.*: the rhythms of looking at devices and processes, in seconds."""

    processes_discovery_period: Positive = 5
    device_cache_t_t_l: Positive = field(default=3600, name="deviceCacheTTL")
    quick_look_period: Annotated[float, Meta(ge=0.01, le=60)] = 0.1
    health_probe_period: Annotated[float, Meta(ge=0.05, le=60)] = 0.5


class Enforcer(Section, frozen=True):
    """enforcer.*: how the limit is held; whether at all is `memoryEnforcer`."""

    dry_run: bool = False
    grace_seconds: Seconds = 0
    max_overcommit: Seconds = 0
    """Highest limit the pod annotation may ask for, as a multiple of the request; 0: only the device caps it."""


class Exporter(Section, frozen=True):
    """exporter.*: the two metrics endpoints."""

    enabled: bool = True
    gpus: bool = True
    """Off: only the daemon's own metrics and probes are served."""
    address: Address = "0.0.0.0:2113"
    daemon_address: Address = "0.0.0.0:2112"
    metagpu_names: bool = False
    per_process: bool = False


class Kubelet(Section, frozen=True):
    """kubelet.*: where kubelet's sockets are."""

    device_plugin_dir: AbsolutePath = "/var/lib/kubelet/device-plugins"
    pod_resources_socket: str = ""
    """Empty: pod-resources/kubelet.sock beside the device-plugin directory, where kubelet has it."""


class Kubernetes(Section, frozen=True):
    """kubernetes.*: the Kubernetes API, where the daemon is no pod with a service account of its own (a systemd unit, say)."""

    api_server: str = ""
    ca_file: str = ""
    token_file: str = ""


class Driver(Section, frozen=True):
    """driver.*: how the GPU driver is found and called."""

    library: str = ""
    call_timeout_seconds: Annotated[float, Meta(gt=0, le=60)] = 2.0


class Health(Section, frozen=True):
    """health.*: what makes a device unhealthy, and for how long."""

    xids: dict[str, Literal["ignore", "untilClear", "untilReset"]] = {}
    """By XID number as text, or `default`; entries replace the built-in policy one by one."""
    quiet_seconds: Seconds = 60


class Config(Section, frozen=True):
    """The whole tree."""

    visible_devices: str = "all"
    mig_devices: str = "all"
    log: Log = Log()
    device_sharing: tuple[DeviceSharing, ...] = (DeviceSharing(resource_name="mortalgpu/v100", metagpus_per_gpu=320),)
    allocator: Allocator = Allocator()
    memory_enforcer: bool = True
    device_specs: bool = False
    mgctl: Mgctl = Mgctl()
    plugin_mounts: tuple[PluginMount, ...] = ()
    grpc_security: GrpcSecurity = GrpcSecurity()
    device_manager: DeviceManager = DeviceManager()
    # Keys of ours, beyond those the ancestors had.
    node_name: str = ""
    state_dir: str = ""
    """Where the daemon keeps its small files; empty: mgctl.hostMount.hostPath."""
    pod_source: Literal["auto", "kubernetes", "cri"] = "auto"
    cri_socket: str = ""
    kubernetes: Kubernetes = Kubernetes()
    kubelet: Kubelet = Kubelet()
    driver: Driver = Driver()
    enforcer: Enforcer = Enforcer()
    exporter: Exporter = Exporter()
    health: Health = Health()
    device_api: DeviceApi = DeviceApi()

    @property
    def state_path(self) -> str:
        """Directory of the daemon's small files (share layout, keys)."""
        return self.state_dir or self.mgctl.host_mount.host_path

    @property
    def pod_resources_path(self) -> str:
        """kubelet's pod-resources socket."""
        kubelet_root = self.kubelet.device_plugin_dir.rstrip("/").rpartition("/")[0]
        return self.kubelet.pod_resources_socket or f"{kubelet_root}/pod-resources/kubelet.sock"


def check(config: Config) -> None:
    """Refuse contradictions between keys, which no type can express. Raises ConfigError naming the key to change."""
    if not config.device_sharing:
        raise ConfigError("config.deviceSharing", "is empty, so nothing would be shared; give at least one entry")
    _check_external(config.allocator)
    _check_paths(config)
    _check_secrets(config.grpc_security)
    _check_ports(config)
    for xid in config.health.xids:
        if xid != "default" and not xid.isdecimal():
            raise ConfigError(f"config.health.xids.{xid}", 'is no XID; write a number as text, or "default"')


def _check_external(allocator: Allocator) -> None:
    external = allocator.external_config
    if allocator.plugin == "external" and not external.path.startswith("/"):
        raise ConfigError(
            "config.allocator.externalConfig.path",
            f"{external.path!r} is no absolute path, and allocator.plugin is external; name the program to ask",
        )
    for number, pair in enumerate(external.env_vars):
        if not pair.partition("=")[0] or "=" not in pair:
            raise ConfigError(f"config.allocator.externalConfig.envVars[{number}]", f"{pair!r} is not of the form NAME=value")


def _check_paths(config: Config) -> None:
    optional = {
        "config.stateDir": config.state_dir,
        "config.kubelet.podResourcesSocket": config.kubelet.pod_resources_socket,
        "config.criSocket": config.cri_socket.removeprefix("unix://"),
        "config.driver.library": config.driver.library,
        "config.kubernetes.caFile": config.kubernetes.ca_file,
        "config.kubernetes.tokenFile": config.kubernetes.token_file,
    }
    for name, path in optional.items():
        if path and not re.match(_PATH_PATTERN, path):
            raise ConfigError(name, f"{path!r} is no absolute path; begin it with /, or leave it empty")
    seen: dict[str, int] = {}
    for number, mount in enumerate(config.plugin_mounts):
        first = seen.setdefault(os.path.normpath(mount.container_path), number)
        if first != number:
            raise ConfigError(
                f"config.pluginMounts[{number}].containerPath",
                f"{mount.container_path!r} is used by pluginMounts[{first}] already; one container path takes one mount",
            )
    if config.pod_source == "kubernetes" and config.kubernetes.token_file and not config.kubernetes.api_server:
        raise ConfigError("config.kubernetes.apiServer", "is empty, and kubernetes.tokenFile is set; name the server's URL")
    api_server = config.kubernetes.api_server
    if api_server and not re.fullmatch(_URL_PATTERN, api_server):
        problem = f"{api_server[:80]!r} is no address of an API server; write https://host:port"
        raise ConfigError("config.kubernetes.apiServer", problem)
    tls = config.device_api.tls
    if bool(tls.cert_file) != bool(tls.key_file):
        raise ConfigError("config.deviceApi.tls", "certFile and keyFile go together; give both or neither")


def _check_ports(config: Config) -> None:
    used: dict[int, str] = {}
    addresses = {
        "config.deviceApi.address": config.device_api.address,
        "config.exporter.daemonAddress": config.exporter.daemon_address,
        "config.exporter.address": config.exporter.address,
    }
    for name, address in addresses.items():
        port = int(address.rpartition(":")[2])
        if port > 65535:
            raise ConfigError(name, f"{address!r} has a port above 65535")
        if port and used.setdefault(port, name) != name:
            raise ConfigError(name, f"has port {port}, which {used[port]} has too; give each its own")


def _check_secrets(security: GrpcSecurity) -> None:
    values: dict[str, Any] = msgspec.to_builtins(security)
    for name, value in values.items():
        if name.endswith("File") and value and values[name.removesuffix("File")]:
            twin = name.removesuffix("File")
            raise ConfigError(
                f"config.grpcSecurity.{name}", f"contradicts grpcSecurity.{twin}, which is set too; keep one of them"
            )
