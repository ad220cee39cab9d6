"""Every metric that the exporters offer: name, kind, labels and meaning. Dashboard and alert rules are held to this list.

Rules:
1. A name is `mortalgpu_<subject>_<what>_<unit>`, in base units (bytes, seconds, ratio from 0 to 1); `_total` for counters only.
2. Every series carries `node`; it is not repeated in `labels` here.
3. Every label is bounded: by the node's devices, by configured resources, by the pods that hold shares, or by a fixed list.
4. MetaGPU's names and units are its own, kept as they were for dashboards that exist.

How many series there are at most, with D devices in R resources, C pairs of a container and a device on which it holds shares,
and P processes of these containers: the page of the GPUs has 18 D + 8 C + 6, with `exporter.perProcess` 3 P more, with
`exporter.metagpuNames` 5 D + 2 C + 6 P more; the page of the daemon has 48 R + 92, and one for each device and XID
seen, and for each unusual gRPC code.
What is gone leaves with the next scrape, so nothing but the last of these grows with time.
"""

from dataclasses import dataclass

GAUGE, COUNTER, HISTOGRAM, UNTYPED = "gauge", "counter", "histogram", "unknown"
NODE = "node"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. The name of a counter ends in `_total`; a histogram's is the one before `_bucket`."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    node_label: str = NODE
    """The label that names the node; empty: none."""


# The page of the GPUs.

_DEVICE = ("device", "index", "model", "resource")


def _device(what: str, text: str, *more: str) -> Metric:
    return Metric(f"mortalgpu_device_{what}", GAUGE, text, (*_DEVICE, *more))


DEVICE_INFO = _device(
    "info", "Always 1: where a device is; a partition names its GPU and GPU instance.", "gpu", "gpu_instance", "profile", "pci"
)
DEVICE_MEMORY_SIZE = _device("memory_size_bytes", "Memory of the device.")
DEVICE_MEMORY_USED = _device("memory_used_bytes", "Memory in use, whoever uses it.")
DEVICE_MEMORY_FREE = _device("memory_free_bytes", "Memory free for use.")
DEVICE_UTILIZATION = _device("utilization_ratio", "Part of the last sample period in which the device was busy.")
DEVICE_MEMORY_UTILIZATION = _device(
    "memory_utilization_ratio", "Part of the last sample period in which its memory was read or written."
)
DEVICE_HEALTHY = _device("healthy", "1 while the device is healthy, 0 while it is not.")
DEVICE_HEALTH_CHANGED = _device(
    "health_changed_timestamp_seconds", "When the state of health began; absent if it never changed."
)
DEVICE_UNHEALTHY_REASON = _device(
    "unhealthy_reason", "Always 1: why the device is unhealthy; absent while it is healthy.", "reason"
)
DEVICE_SHARES = _device("shares", "Shares that the device is cut into, reserved ones included.")
DEVICE_SHARES_RESERVED = _device("shares_reserved", "Shares that are not advertised.")
DEVICE_SHARES_ALLOCATED = _device("shares_allocated", "Shares that containers hold, as kubelet says.")
DEVICE_SHARE_SIZE = _device("share_size_bytes", "Memory behind one share.")
DEVICE_PROCESSES = _device("processes", "Processes on the device, whoever they belong to.")
DEVICE_STRANGERS = _device("strangers", "Processes on the device that belong to no container with shares; never touched.")
DEVICE_READABLE = _device("readable", "1 if the last scan could read the device, else 0.")
DEVICE_LAYOUT_WAITING = _device(
    "layout_waiting", "1 while the configured shares wait for containers that hold shares of the layout in force."
)
DEVICE_LAYOUT_HELD = _device("layout_held_shares", "Shares of the layout in force that the waiting one waits for.")

DEVICE_METRICS = (
    *(DEVICE_INFO, DEVICE_MEMORY_SIZE, DEVICE_MEMORY_USED, DEVICE_MEMORY_FREE, DEVICE_UTILIZATION, DEVICE_MEMORY_UTILIZATION),
    *(DEVICE_HEALTHY, DEVICE_HEALTH_CHANGED, DEVICE_UNHEALTHY_REASON, DEVICE_SHARES, DEVICE_SHARES_RESERVED),
    *(DEVICE_SHARES_ALLOCATED, DEVICE_SHARE_SIZE, DEVICE_PROCESSES, DEVICE_STRANGERS, DEVICE_READABLE),
    *(DEVICE_LAYOUT_WAITING, DEVICE_LAYOUT_HELD),
)

_CONTAINER = ("namespace", "pod", "container", "device", "index", "resource")


def _container(what: str, text: str, kind: str = GAUGE) -> Metric:
    return Metric(f"mortalgpu_container_{what}", kind, text, _CONTAINER)


CONTAINER_SHARES = _container("shares", "Shares of the device that the container holds; 0 on a device it was not given.")
CONTAINER_MEMORY_USED = _container("memory_used_bytes", "Memory that the container's processes hold on the device.")
CONTAINER_MEMORY_REQUESTED = _container("memory_requested_bytes", "What its shares of the device are worth.")
CONTAINER_MEMORY_LIMIT = _container("memory_limit_bytes", "What it may use there before it is stopped; absent if not certain.")
CONTAINER_UTILIZATION = _container("utilization_ratio", "Part of the device that its processes kept busy.")
CONTAINER_PROCESSES = _container("processes", "Its processes on the device.")
CONTAINER_OVER_LIMIT = _container("over_limit", "1 while it certainly uses more than its limit, else 0.")
CONTAINER_KILLS = _container("over_limit_kills_total", "Its processes that were stopped for being over the limit.", COUNTER)

CONTAINER_METRICS = (
    *(CONTAINER_SHARES, CONTAINER_MEMORY_USED, CONTAINER_MEMORY_REQUESTED, CONTAINER_MEMORY_LIMIT, CONTAINER_UTILIZATION),
    *(CONTAINER_PROCESSES, CONTAINER_OVER_LIMIT, CONTAINER_KILLS),
)

_PROCESS = ("namespace", "pod", "container", "device", "resource", "pid")

PROCESS_INFO = Metric(
    "mortalgpu_process_info", GAUGE, "Always 1: whose process it is and what it runs.", (*_PROCESS, "user", "command")
)
PROCESS_MEMORY_USED = Metric("mortalgpu_process_memory_used_bytes", GAUGE, "Memory that it holds on the device.", _PROCESS)
PROCESS_UTILIZATION = Metric("mortalgpu_process_utilization_ratio", GAUGE, "Part of the device that it kept busy.", _PROCESS)

PROCESS_METRICS = (PROCESS_INFO, PROCESS_MEMORY_USED, PROCESS_UTILIZATION)

# Both pages.

FACTS_AGE = Metric("mortalgpu_exporter_facts_age_seconds", GAUGE, "Age of the scan that this page was made from.")
COLLECTOR_SUCCESS = Metric(
    "mortalgpu_exporter_collector_success",
    GAUGE,
    "1 if a part of this page could be made, 0 if its lines are missing.",
    ("collector",),
)

# The page of the daemon.

_RESOURCE = ("resource",)


def _resource(what: str, text: str) -> Metric:
    return Metric(f"mortalgpu_resource_{what}", GAUGE, text, _RESOURCE)


RESOURCE_META_DEVICES = _resource("meta_devices", "Shares of all devices of the resource, reserved ones included.")
RESOURCE_ADVERTISED = _resource("advertised_meta_devices", "Shares that kubelet is told of.")
RESOURCE_HEALTHY = _resource("healthy_meta_devices", "Advertised shares on healthy devices.")
RESOURCE_ALLOCATED = _resource("allocated_meta_devices", "Shares that containers hold; absent until kubelet has told.")
RESOURCE_RESERVED = _resource("reserved_meta_devices", "Shares that are not advertised.")
RESOURCE_DEVICES = _resource("devices", "Devices of the resource.")

RESOURCE_METRICS = (
    *(RESOURCE_META_DEVICES, RESOURCE_ADVERTISED, RESOURCE_HEALTHY, RESOURCE_ALLOCATED, RESOURCE_RESERVED, RESOURCE_DEVICES),
)

PLUGIN_REGISTERED = Metric(
    "mortalgpu_plugin_registered", GAUGE, "1 while kubelet listens to the resource's list, else 0.", _RESOURCE
)
PLUGIN_REGISTRATIONS = Metric(
    "mortalgpu_plugin_registrations_total",
    COUNTER,
    "Registrations that kubelet accepted; all but the first came again.",
    _RESOURCE,
)
PLUGIN_FAILED_REGISTRATIONS = Metric(
    "mortalgpu_plugin_failed_registrations_total", COUNTER, "Registrations that failed.", _RESOURCE
)
ALLOCATION_GRANTS = Metric("mortalgpu_allocation_grants_total", COUNTER, "Containers that got what they asked for.", _RESOURCE)
ALLOCATION_REFUSALS = Metric(
    "mortalgpu_allocation_refusals_total",
    COUNTER,
    "Requests for a container that were refused, by reason.",
    (*_RESOURCE, "reason"),
)
ALLOCATION_DURATION = Metric(
    "mortalgpu_allocation_duration_seconds", HISTOGRAM, "How long kubelet's Allocate took to decide.", _RESOURCE
)
PREFERENCE_DURATION = Metric(
    "mortalgpu_preference_duration_seconds", HISTOGRAM, "How long kubelet's GetPreferredAllocation took to decide.", _RESOURCE
)

ALLOCATION_METRICS = (
    *(PLUGIN_REGISTERED, PLUGIN_REGISTRATIONS, PLUGIN_FAILED_REGISTRATIONS, ALLOCATION_GRANTS, ALLOCATION_REFUSALS),
    *(ALLOCATION_DURATION, PREFERENCE_DURATION),
)

SCAN_DURATION = Metric("mortalgpu_scan_duration_seconds", HISTOGRAM, "How long full process scans took.")
SCAN_LOOKS = Metric("mortalgpu_scan_looks_total", COUNTER, "Quick looks at the memory in use.")
SCAN_OVERRUNS = Metric("mortalgpu_scan_overruns_total", COUNTER, "Scans that took longer than the quick look's period.")
SCAN_FAILURES = Metric(
    "mortalgpu_scan_failures_total", COUNTER, "Readings that failed, by whom they were asked of.", ("source",)
)
SCAN_LAST = Metric("mortalgpu_scan_last_timestamp_seconds", GAUGE, "When the last full scan began.")
SCAN_TROUBLES = Metric("mortalgpu_scan_troubles", GAUGE, "Neighbours that did not answer the last scan.")

SCAN_METRICS = (SCAN_DURATION, SCAN_LOOKS, SCAN_OVERRUNS, SCAN_FAILURES, SCAN_LAST, SCAN_TROUBLES)

ENFORCEMENT_ENABLED = Metric(
    "mortalgpu_enforcement_enabled", GAUGE, "1 while processes over the limit are stopped; 0 if off or only reported."
)
ENFORCEMENT_ACTIONS = Metric(
    "mortalgpu_enforcement_actions_total", COUNTER, "What became of the orders to stop a process.", ("outcome",)
)
ENFORCEMENT_REACTION = Metric(
    "mortalgpu_enforcement_reaction_seconds",
    HISTOGRAM,
    "From the look that saw a container over its limit to the process being gone.",
)

ENFORCEMENT_METRICS = (ENFORCEMENT_ENABLED, ENFORCEMENT_ACTIONS, ENFORCEMENT_REACTION)

BUILD_INFO = Metric("mortalgpu_build_info", GAUGE, "Always 1: which program this is.", ("version", "python"))
TASKS = Metric("mortalgpu_tasks", GAUGE, "Tasks of the daemon: about the same whenever the node is quiet, or something leaks.")
READY = Metric("mortalgpu_ready", GAUGE, "1 while every resource is registered and scans are recent, as /readyz says.")
SERVICE_RESTARTS = Metric(
    "mortalgpu_service_restarts_total", COUNTER, "Services that crashed and were started again.", ("service",)
)
DRIVER_ERRORS = Metric("mortalgpu_driver_errors_total", COUNTER, "Driver calls that failed, by kind.", ("kind",))
DRIVER_ABANDONED = Metric("mortalgpu_driver_abandoned_calls_total", COUNTER, "Driver calls that did not return in time.")
DRIVER_REOPENED = Metric("mortalgpu_driver_reopened_total", COUNTER, "How often a lost driver was opened anew.")
DRIVER_EVENTS = Metric(
    "mortalgpu_driver_events_total",
    COUNTER,
    "What the driver reported by itself; no device: all of them.",
    ("device", "kind", "xid"),
)
CLUSTER_SYNCED = Metric(
    "mortalgpu_cluster_synced", GAUGE, "1 while the source of pods answers, 0 while its last word is used.", ("source",)
)
CLUSTER_LISTS = Metric("mortalgpu_cluster_lists_total", COUNTER, "Complete lists of pods fetched.")
CLUSTER_FAILURES = Metric("mortalgpu_cluster_failures_total", COUNTER, "Requests for pods that failed.")
CLUSTER_NOTES = Metric(
    "mortalgpu_cluster_notes_total", COUNTER, "Events for pods and the node, by what became of them.", ("outcome",)
)
API_CALLS = Metric("mortalgpu_device_api_calls_total", COUNTER, "Calls of the device API that ended, by gRPC code.", ("code",))
CONFIG_RELOADS = Metric(
    "mortalgpu_config_reloads_total", COUNTER, "Times the configuration was read again, by outcome.", ("outcome",)
)
CONFIG_RELOAD_SUCCESS = Metric(
    "mortalgpu_config_reload_success", GAUGE, "1 if the configuration on disk is good and in force, else 0."
)
CONFIG_RELOAD_TIME = Metric(
    "mortalgpu_config_reload_timestamp_seconds", GAUGE, "When the configuration was last read and taken."
)

# What every Prometheus client offers of its process, under the usual names.
CPU = Metric("process_cpu_seconds_total", COUNTER, "User and system CPU time spent.", (), "")
RESIDENT_MEMORY = Metric("process_resident_memory_bytes", GAUGE, "Resident memory.", (), "")
VIRTUAL_MEMORY = Metric("process_virtual_memory_bytes", GAUGE, "Virtual memory.", (), "")
START_TIME = Metric("process_start_time_seconds", GAUGE, "When the process was started.", (), "")
OPEN_FILES = Metric("process_open_fds", GAUGE, "Open file descriptors.", (), "")
MAX_FILES = Metric("process_max_fds", GAUGE, "How many file descriptors may be open.", (), "")

OWN_PROCESS_METRICS = (CPU, RESIDENT_MEMORY, VIRTUAL_MEMORY, START_TIME, OPEN_FILES, MAX_FILES)
ITSELF_METRICS = (BUILD_INFO, TASKS, READY, SERVICE_RESTARTS)
DRIVER_METRICS = (DRIVER_ERRORS, DRIVER_ABANDONED, DRIVER_REOPENED, DRIVER_EVENTS)
CLUSTER_METRICS = (CLUSTER_SYNCED, CLUSTER_LISTS, CLUSTER_FAILURES, CLUSTER_NOTES)
CONFIG_METRICS = (CONFIG_RELOADS, CONFIG_RELOAD_SUCCESS, CONFIG_RELOAD_TIME)

# MetaGPU's names, behind a switch. MiB and per cent; `node_name` in the place of `node`.

_METAGPU_DEVICE = ("device_uuid", "device_index", "resource_name")
_METAGPU_PROCESS = ("uuid", "pid", "cmdline", "user", "pod_name", "pod_namespace", "resource_name")
_METAGPU_POD = ("pod_name", "pod_namespace", "resource_name")


def _metagpu(subject: str, what: str, labels: tuple[str, ...], text: str) -> Metric:
    # Untyped where MetaGPU's gauge has a counter's name, which Prometheus' linter would complain of.
    kind = UNTYPED if what.endswith("_total") else GAUGE
    return Metric(f"metagpu_{subject}_{what}", kind, text, labels, "node_name")


METAGPU_SHARES = _metagpu("device", "shares", _METAGPU_DEVICE, "Shares of the device.")
METAGPU_MEMORY_TOTAL = _metagpu("device", "memory_total", _METAGPU_DEVICE, "Memory of the device in MiB.")
METAGPU_MEMORY_FREE = _metagpu("device", "memory_free", _METAGPU_DEVICE, "Free memory in MiB.")
METAGPU_MEMORY_USED = _metagpu("device", "memory_used", _METAGPU_DEVICE, "Used memory in MiB.")
METAGPU_SHARE_SIZE = _metagpu("device", "memory_share_size", _METAGPU_DEVICE, "Memory of one share in MiB.")
METAGPU_GPU = _metagpu("process", "absolute_gpu_utilization", _METAGPU_PROCESS, "Per cent of the device kept busy.")
METAGPU_MEMORY = _metagpu("process", "memory_usage", _METAGPU_PROCESS, "Memory in use in MiB.")
METAGPU_MAX_GPU = _metagpu(
    "process", "max_allowed_metagpu_gpu_utilization", _METAGPU_PROCESS, "Per cent of the device that the shares stand for."
)
METAGPU_RELATIVE_GPU = _metagpu(
    "process", "metagpu_relative_gpu_utilization", _METAGPU_PROCESS, "Utilisation as per cent of the shares."
)
METAGPU_MAX_MEMORY = _metagpu("process", "max_allowed_metagpu_memory", _METAGPU_PROCESS, "Memory behind the shares in MiB.")
METAGPU_RELATIVE_MEMORY = _metagpu(
    "process", "metagpu_relative_memory_utilization", _METAGPU_PROCESS, "Memory in use as per cent of that behind the shares."
)
METAGPU_REQUESTS = _metagpu("process", "metagpu_requests", _METAGPU_POD, "Shares that the pod requested.")
METAGPU_LIMITS = _metagpu("process", "metagpu_limits", _METAGPU_POD, "Shares that the pod may use.")

METAGPU_METRICS = (
    *(METAGPU_SHARES, METAGPU_MEMORY_TOTAL, METAGPU_MEMORY_FREE, METAGPU_MEMORY_USED, METAGPU_SHARE_SIZE),
    *(METAGPU_GPU, METAGPU_MEMORY, METAGPU_MAX_GPU, METAGPU_RELATIVE_GPU, METAGPU_MAX_MEMORY, METAGPU_RELATIVE_MEMORY),
    *(METAGPU_REQUESTS, METAGPU_LIMITS),
)

GPU_PAGE = (*DEVICE_METRICS, *CONTAINER_METRICS, *PROCESS_METRICS, FACTS_AGE, COLLECTOR_SUCCESS)
DAEMON_PAGE = (
    *OWN_PROCESS_METRICS,
    *(*ITSELF_METRICS, *RESOURCE_METRICS, *ALLOCATION_METRICS, *SCAN_METRICS, *ENFORCEMENT_METRICS, *DRIVER_METRICS),
    *(*CLUSTER_METRICS, API_CALLS, *CONFIG_METRICS, FACTS_AGE, COLLECTOR_SUCCESS),
)
