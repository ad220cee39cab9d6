"""The table of the chart's values: for each key another value than its default, and what the rendered objects show then.

Keys of `config` appear in the file the daemon reads, unless a row here says more.
"""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.chart.helm import MONITORING, Rendered

KEYS = "/etc/mortalgpu/keys"


@dataclass(frozen=True, slots=True)
class Row:
    """One key: a value for it, where to look, what is there by default, and what with the value."""

    key: str
    value: Any
    look: Callable[[Rendered], Any]
    default: Any
    then: Any
    beside: Mapping[str, Any] = field(default_factory=dict)
    """Other keys that are set in both renderings, dotted."""
    apis: tuple[str, ...] = ()


def tree(dotted: dict[str, Any]) -> dict[str, Any]:
    """Turn dotted keys into the tree they stand for."""
    root: dict[str, Any] = {}
    for path, value in dotted.items():
        *above, last = path.split(".")
        place = root
        for step in above:
            place = place.setdefault(step, {})
        place[last] = value
    return root


def metadata_name(kind: str) -> Callable[[Rendered], Any]:
    return lambda rendered: rendered.of(kind)["metadata"]["name"]


def has(kind: str) -> Callable[[Rendered], Any]:
    return lambda rendered: kind in rendered.kinds()


def pod(key: str) -> Callable[[Rendered], Any]:
    return lambda rendered: rendered.pod.get(key)


def container(key: str) -> Callable[[Rendered], Any]:
    return lambda rendered: rendered.container.get(key)


def env(*names: str) -> Callable[[Rendered], Any]:
    return lambda rendered: [rendered.env.get(name) for name in names]


def label_of(kind: str, name: str) -> Callable[[Rendered], Any]:
    return lambda rendered: rendered.of(kind)["metadata"]["labels"].get(name)


def probe(which: str, key: str) -> Callable[[Rendered], Any]:
    return lambda rendered: rendered.container[which][key]


def secret_keys(rendered: Rendered) -> list[str]:
    return sorted(rendered.of("Secret")["data"] or ())


def secret_is_ours(rendered: Rendered) -> bool:
    held: str = rendered.of("Secret")["data"]["jwtSecret"]
    return base64.b64decode(held).decode() == _SECRET


def security(key: str) -> Callable[[Rendered], Any]:
    return lambda rendered: rendered.config["grpcSecurity"][key]


def strategy(key: str) -> Callable[[Rendered], Any]:
    return lambda rendered: rendered.of("DaemonSet")["spec"]["updateStrategy"].get(key)


def probe_host(rendered: Rendered) -> Any:
    return rendered.container["livenessProbe"]["httpGet"].get("host")


def service_port(name: str) -> Callable[[Rendered], Any]:
    """The Service's port, the container's, and the one the daemon listens on."""
    address = {"grpc": "deviceApi.address", "mgdp-metrics": "exporter.daemonAddress", "exporter": "exporter.address"}[name]
    section, key = address.split(".")

    def look(rendered: Rendered) -> Any:
        inside = {port["name"]: port["containerPort"] for port in rendered.container["ports"]}
        return rendered.ports[name], inside[name], rendered.config[section][key]

    return look


def volume_names(rendered: Rendered) -> list[str]:
    return [volume["name"] for volume in rendered.pod["volumes"]]


def mount_names(rendered: Rendered) -> list[str]:
    return [mount["name"] for mount in rendered.container["volumeMounts"]]


def endpoint_interval(rendered: Rendered) -> Any:
    return {endpoint["interval"] for endpoint in rendered.of("ServiceMonitor")["spec"]["endpoints"]}


def peers(port: str) -> Callable[[Rendered], Any]:
    def look(rendered: Rendered) -> Any:
        rules = rendered.of("NetworkPolicy")["spec"]["ingress"]
        return [rule.get("from") for rule in rules if any(entry["port"] == port for entry in rule["ports"])]

    return look


_SECRET = "a-random-key-of-enough-length-for-once"
_PEER = [{"podSelector": {"matchLabels": {"app": "prometheus"}}}]
_STATE = {"/var/lib/mortalgpu": "/var/lib/mortalgpu"}

ROWS = (
    # The daemon's container.
    Row("config.visibleDevices", "0,1", env("NVIDIA_VISIBLE_DEVICES"), ["all"], ["0,1"]),
    Row(
        "config.migDevices",
        "0:1",
        env("NVIDIA_MIG_CONFIG_DEVICES", "NVIDIA_MIG_MONITOR_DEVICES"),
        ["all", "all"],
        ["0:1", "0:1"],
    ),
    Row(
        "config.mgctl.hostMount.hostPath",
        "/srv/gpu/",
        lambda rendered: {path: to for path, to in rendered.mounts.items() if path in ("/srv/gpu", *_STATE)},
        _STATE,
        {"/srv/gpu": "/srv/gpu"},
    ),
    Row("config.stateDir", "/srv/s", lambda rendered: rendered.mounts.get("/srv/s"), None, "/srv/s"),
    Row(
        "config.kubelet.devicePluginDir",
        "/k/device-plugins",
        lambda rendered: [rendered.mounts.get(path) for path in ("/k/device-plugins", "/k/pod-resources")],
        [None, None],
        ["/k/device-plugins", "/k/pod-resources"],
    ),
    Row("config.kubelet.podResourcesSocket", "/r/k.sock", lambda rendered: rendered.mounts.get("/r"), None, "/r"),
    Row("config.podSource", "kubernetes", lambda rendered: "/run" in rendered.mounts, True, False),
    Row("config.podSource", "cri", has("ClusterRole"), True, False),
    Row("config.podSource", "cri", pod("automountServiceAccountToken"), True, False),
    Row(
        "config.criSocket",
        "unix:///srv/c/c.sock",
        lambda rendered: [path for path in ("/run", "/srv/c") if path in rendered.mounts],
        ["/run"],
        ["/srv/c"],
    ),
    Row("config.grpcSecurity.jwtSecret", _SECRET, secret_is_ours, False, True),
    Row("config.grpcSecurity.jwtSecretFile", "/x/k", secret_keys, ["jwtSecret"], []),
    *(
        Row(f"config.grpcSecurity.{name}", _SECRET, secret_keys, ["jwtSecret"], sorted(["jwtSecret", name]))
        for name in ("previousJwtSecret", "deviceToken", "containerToken")
    ),
    *(
        Row(
            f"config.grpcSecurity.{name}",
            _SECRET,
            security(f"{name}File"),
            "",
            f"{KEYS}/{name}",
        )
        for name in ("previousJwtSecret", "deviceToken", "containerToken")
    ),
    Row("config.deviceApi.enabled", False, lambda rendered: "grpc" in rendered.ports, True, False),
    Row(
        "config.exporter.enabled",
        False,
        lambda rendered: sorted(rendered.ports),
        ["exporter", "grpc", "mgdp-metrics"],
        ["grpc"],
    ),
    Row("config.exporter.enabled", False, lambda rendered: "livenessProbe" in rendered.container, True, False),
    Row("config.exporter.daemonAddress", "127.0.0.1:2112", probe_host, None, "127.0.0.1"),
    # Image, names, accounts.
    Row("image.repository", "local/gpu", container("image"), "mortalgpu:0.1.0", "local/gpu:0.1.0"),
    Row("image.tag", "7", container("image"), "mortalgpu:0.1.0", "mortalgpu:7"),
    Row("image.pullPolicy", "Always", container("imagePullPolicy"), "IfNotPresent", "Always"),
    Row("imagePullSecrets", [{"name": "s"}], pod("imagePullSecrets"), None, [{"name": "s"}]),
    Row("nameOverride", "other", metadata_name("DaemonSet"), "gpu-mortalgpu", "gpu-other"),
    Row("fullnameOverride", "other", metadata_name("DaemonSet"), "gpu-mortalgpu", "other"),
    Row("serviceAccount.create", False, has("ServiceAccount"), True, False),
    Row("serviceAccount.create", False, pod("serviceAccountName"), "gpu-mortalgpu", "default"),
    Row(
        "serviceAccount.annotations",
        {"a": "b"},
        lambda rendered: rendered.of("ServiceAccount")["metadata"].get("annotations"),
        None,
        {"a": "b"},
    ),
    Row("serviceAccount.name", "sa", metadata_name("ServiceAccount"), "gpu-mortalgpu", "sa"),
    Row("serviceAccount.name", "sa", pod("serviceAccountName"), "gpu-mortalgpu", "sa"),
    Row("rbac.create", False, has("ClusterRole"), True, False),
    Row("keysSecret.create", False, has("Secret"), True, False),
    Row("keysSecret.create", False, security("jwtSecretFile"), f"{KEYS}/jwtSecret", ""),
    Row(
        "keysSecret.name",
        "mine",
        lambda rendered: [volume["secret"]["secretName"] for volume in rendered.pod["volumes"] if "secret" in volume],
        [],
        ["mine"],
        {"keysSecret.create": False},
    ),
    # The pod.
    Row(
        "podAnnotations",
        {"a": "b"},
        lambda rendered: rendered.of("DaemonSet")["spec"]["template"]["metadata"]["annotations"].get("a"),
        None,
        "b",
    ),
    Row(
        "podLabels",
        {"a": "b"},
        lambda rendered: rendered.of("DaemonSet")["spec"]["template"]["metadata"]["labels"].get("a"),
        None,
        "b",
    ),
    Row("securityContext.privileged", False, lambda rendered: rendered.container["securityContext"]["privileged"], True, False),
    Row(
        "securityContext.readOnlyRootFilesystem",
        False,
        lambda rendered: rendered.container["securityContext"]["readOnlyRootFilesystem"],
        True,
        False,
    ),
    Row("scc", True, has("SecurityContextConstraints"), False, True),
    Row("priorityClassName", "high", pod("priorityClassName"), "system-node-critical", "high"),
    Row("runtimeClassName", "nvidia", pod("runtimeClassName"), None, "nvidia"),
    Row("hostNetwork", True, pod("hostNetwork"), None, True),
    Row("resources", {"limits": {"memory": "9Mi"}}, container("resources"), None, {"limits": {"memory": "9Mi"}}),
    Row("exporter.resources", {"limits": {"memory": "9Mi"}}, container("resources"), None, {"limits": {"memory": "9Mi"}}),
    Row("nodeSelector", {"gpu": "yes"}, pod("nodeSelector"), None, {"gpu": "yes"}),
    Row("tolerations", [{"key": "gpu"}], pod("tolerations"), None, [{"key": "gpu"}]),
    Row("affinity", {"nodeAffinity": {}}, pod("affinity"), None, {"nodeAffinity": {}}),
    Row("extraEnv", [{"name": "MORE", "value": "1"}], env("MORE"), [None], ["1"]),
    Row(
        "extraEnv",
        [{"name": "NVIDIA_DRIVER_CAPABILITIES", "value": "all"}],
        env("NVIDIA_DRIVER_CAPABILITIES"),
        ["utility"],
        ["all"],
    ),
    Row("extraVolumes", [{"name": "more", "emptyDir": {}}], lambda rendered: "more" in volume_names(rendered), False, True),
    Row("extraVolumeMounts", [{"name": "tmp", "mountPath": "/m"}], lambda rendered: mount_names(rendered).count("tmp"), 1, 2),
    Row("updateStrategy.type", "OnDelete", strategy("type"), "RollingUpdate", "OnDelete"),
    Row(
        "updateStrategy.rollingUpdate.maxUnavailable",
        "10%",
        strategy("rollingUpdate"),
        {"maxUnavailable": 1, "maxSurge": 0},
        {"maxUnavailable": "10%", "maxSurge": 0},
    ),
    *(
        Row(f"livenessProbe.{key}", 7, probe("livenessProbe", key), default, 7)
        for key, default in {"initialDelaySeconds": 10, "periodSeconds": 10, "timeoutSeconds": 3, "failureThreshold": 6}.items()
    ),
    *(
        Row(f"readinessProbe.{key}", 7, probe("readinessProbe", key), default, 7)
        for key, default in {"initialDelaySeconds": 1, "periodSeconds": 5, "timeoutSeconds": 3, "failureThreshold": 2}.items()
    ),
    # Service and monitoring.
    Row("service.type", "NodePort", lambda rendered: rendered.of("Service")["spec"]["type"], "ClusterIP", "NodePort"),
    Row("service.ports.grpc", 50099, service_port("grpc"), (50052, 50052, "0.0.0.0:50052"), (50099, 50099, "0.0.0.0:50099")),
    Row(
        "service.ports.mgdpMetrics",
        9112,
        service_port("mgdp-metrics"),
        (2112, 2112, "0.0.0.0:2112"),
        (9112, 9112, "0.0.0.0:9112"),
    ),
    Row("service.ports.exporter", 9113, service_port("exporter"), (2113, 2113, "0.0.0.0:2113"), (9113, 9113, "0.0.0.0:9113")),
    Row("exporter.enabled", False, lambda rendered: "exporter" in rendered.ports, True, False),
    Row("exporter.enabled", False, lambda rendered: rendered.config["exporter"]["gpus"], True, False),
    Row("exporter.serviceMonitor.enabled", False, has("ServiceMonitor"), True, False, apis=(MONITORING,)),
    Row("exporter.serviceMonitor.interval", "1m", endpoint_interval, {"15s"}, {"1m"}, apis=(MONITORING,)),
    Row("exporter.serviceMonitor.labels", {"a": "b"}, label_of("ServiceMonitor", "a"), None, "b", apis=(MONITORING,)),
    Row("prometheusRule.enabled", True, has("PrometheusRule"), False, True),
    Row("prometheusRule.labels", {"a": "b"}, label_of("PrometheusRule", "a"), None, "b", {"prometheusRule.enabled": True}),
    Row("dashboard.enabled", True, lambda rendered: sum(one["kind"] == "ConfigMap" for one in rendered.objects), 1, 2),
    Row(
        "dashboard.labels.grafana_dashboard",
        "yes",
        lambda rendered: {one["metadata"]["labels"].get("grafana_dashboard") for one in rendered.objects} - {None},
        {"1"},
        {"yes"},
        {"dashboard.enabled": True},
    ),
    Row("networkPolicy.enabled", True, has("NetworkPolicy"), False, True),
    Row("networkPolicy.apiFrom", _PEER, peers("grpc"), [None], [_PEER], {"networkPolicy.enabled": True}),
    Row("networkPolicy.metricsFrom", _PEER, peers("exporter"), [None], [_PEER], {"networkPolicy.enabled": True}),
)

CONFIG_VALUES: Mapping[str, Any] = {
    "log.verbose": True,
    "log.json": False,
    "allocator.plugin": "spread",
    "allocator.allowCollocation": False,
    "allocator.noSplit": False,
    "allocator.externalConfig.path": "/bin/choose",
    "allocator.externalConfig.args": ["-v"],
    "allocator.externalConfig.envVars": ["A=b"],
    "allocator.externalConfig.timeoutSeconds": 1.5,
    "memoryEnforcer": False,
    "deviceSpecs": True,
    "mgctl.sourcePath": "/opt/mgctl",
    "mgctl.hostMount.enabled": False,
    "mgctl.hostMount.hostPath": "/srv/gpu",
    "mgctl.hostMount.containerPath": "/opt",
    "pluginMounts": [{"hostPath": "/a", "containerPath": "/b", "readOnly": False}],
    "grpcSecurity.jwtSecretFile": "/x/k",
    "grpcSecurity.previousJwtSecretFile": "/x/p",
    "grpcSecurity.deviceTokenFile": "/x/d",
    "grpcSecurity.containerTokenFile": "/x/c",
    "deviceManager.processesDiscoveryPeriod": 9,
    "deviceManager.deviceCacheTTL": 10000000,
    "deviceManager.quickLookPeriod": 0.5,
    "deviceManager.healthProbePeriod": 5,
    "visibleDevices": "0",
    "migDevices": "",
    "nodeName": "node-1",
    "stateDir": "/srv/s",
    "podSource": "cri",
    "criSocket": "/srv/c.sock",
    "kubernetes.apiServer": "https://127.0.0.1:6443",
    "kubernetes.caFile": "/x/ca",
    "kubernetes.tokenFile": "/x/t",
    "kubelet.devicePluginDir": "/k/device-plugins",
    "kubelet.podResourcesSocket": "/r/k.sock",
    "driver.library": "/l/libnvidia-ml.so.1",
    "driver.callTimeoutSeconds": 5,
    "enforcer.dryRun": True,
    "enforcer.graceSeconds": 3,
    "enforcer.maxOvercommit": 2.5,
    "exporter.enabled": False,
    "exporter.gpus": False,
    "exporter.address": "[::]:2113",
    "exporter.daemonAddress": "[::]:2112",
    "exporter.metagpuNames": True,
    "exporter.perProcess": True,
    "health.xids": {"31": "untilClear", "default": "ignore"},
    "health.quietSeconds": 5,
    "deviceApi.enabled": False,
    "deviceApi.address": "[::]:50052",
    "deviceApi.advertise": "gpu:1",
    "deviceApi.socketMount": False,
    "deviceApi.tls.certFile": "/x/c",
    "deviceApi.tls.keyFile": "/x/k",
    "deviceSharing": [
        {
            "resourceName": "a.example/gpu",
            "metagpusPerGpu": 0,
            "metagpusPerGpuMemoryChunkMB": 512,
            "reservedChunks": 1,
            "uuid": ["GPU-1"],
            "modelName": ["NVIDIA A100 80GB PCIe"],
            "migid": [2, 3],
        }
    ],
}
"""Keys of `config` and another value for each: it must reach the daemon as it is."""

SECRETS = ("jwtSecret", "previousJwtSecret", "deviceToken", "containerToken")
"""Keys of config.grpcSecurity that must never reach it that way."""
