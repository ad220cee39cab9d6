from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DeviceProcess(_message.Message):
    __slots__ = ("uuid", "pid", "memory", "cmdline", "user", "container_id", "gpu_utilization", "container_pid")
    UUID_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    CMDLINE_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    GPU_UTILIZATION_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_PID_FIELD_NUMBER: _ClassVar[int]
    uuid: str
    pid: int
    memory: int
    cmdline: str
    user: str
    container_id: str
    gpu_utilization: int
    container_pid: int
    def __init__(self, uuid: _Optional[str] = ..., pid: _Optional[int] = ..., memory: _Optional[int] = ..., cmdline: _Optional[str] = ..., user: _Optional[str] = ..., container_id: _Optional[str] = ..., gpu_utilization: _Optional[int] = ..., container_pid: _Optional[int] = ...) -> None: ...

class ContainerDevice(_message.Message):
    __slots__ = ("device", "allocated_shares", "memory_request", "memory_limit", "memory_used")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    ALLOCATED_SHARES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_REQUEST_FIELD_NUMBER: _ClassVar[int]
    MEMORY_LIMIT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USED_FIELD_NUMBER: _ClassVar[int]
    device: Device
    allocated_shares: int
    memory_request: int
    memory_limit: int
    memory_used: int
    def __init__(self, device: _Optional[_Union[Device, _Mapping]] = ..., allocated_shares: _Optional[int] = ..., memory_request: _Optional[int] = ..., memory_limit: _Optional[int] = ..., memory_used: _Optional[int] = ...) -> None: ...

class Kill(_message.Message):
    __slots__ = ("time", "pid", "container_pid", "cmdline", "uuid", "memory_used", "memory_limit", "reason", "pod_id", "pod_namespace", "container_name", "outcome")
    TIME_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_PID_FIELD_NUMBER: _ClassVar[int]
    CMDLINE_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USED_FIELD_NUMBER: _ClassVar[int]
    MEMORY_LIMIT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    POD_ID_FIELD_NUMBER: _ClassVar[int]
    POD_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_NAME_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    time: int
    pid: int
    container_pid: int
    cmdline: str
    uuid: str
    memory_used: int
    memory_limit: int
    reason: str
    pod_id: str
    pod_namespace: str
    container_name: str
    outcome: str
    def __init__(self, time: _Optional[int] = ..., pid: _Optional[int] = ..., container_pid: _Optional[int] = ..., cmdline: _Optional[str] = ..., uuid: _Optional[str] = ..., memory_used: _Optional[int] = ..., memory_limit: _Optional[int] = ..., reason: _Optional[str] = ..., pod_id: _Optional[str] = ..., pod_namespace: _Optional[str] = ..., container_name: _Optional[str] = ..., outcome: _Optional[str] = ...) -> None: ...

class GpuContainer(_message.Message):
    __slots__ = ("container_id", "container_name", "pod_id", "pod_namespace", "metagpu_requests", "resource_name", "node_name", "device_processes", "container_devices", "metagpu_limits", "kills")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_NAME_FIELD_NUMBER: _ClassVar[int]
    POD_ID_FIELD_NUMBER: _ClassVar[int]
    POD_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    METAGPU_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_NAME_FIELD_NUMBER: _ClassVar[int]
    NODE_NAME_FIELD_NUMBER: _ClassVar[int]
    DEVICE_PROCESSES_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_DEVICES_FIELD_NUMBER: _ClassVar[int]
    METAGPU_LIMITS_FIELD_NUMBER: _ClassVar[int]
    KILLS_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    container_name: str
    pod_id: str
    pod_namespace: str
    metagpu_requests: int
    resource_name: str
    node_name: str
    device_processes: _containers.RepeatedCompositeFieldContainer[DeviceProcess]
    container_devices: _containers.RepeatedCompositeFieldContainer[ContainerDevice]
    metagpu_limits: int
    kills: _containers.RepeatedCompositeFieldContainer[Kill]
    def __init__(self, container_id: _Optional[str] = ..., container_name: _Optional[str] = ..., pod_id: _Optional[str] = ..., pod_namespace: _Optional[str] = ..., metagpu_requests: _Optional[int] = ..., resource_name: _Optional[str] = ..., node_name: _Optional[str] = ..., device_processes: _Optional[_Iterable[_Union[DeviceProcess, _Mapping]]] = ..., container_devices: _Optional[_Iterable[_Union[ContainerDevice, _Mapping]]] = ..., metagpu_limits: _Optional[int] = ..., kills: _Optional[_Iterable[_Union[Kill, _Mapping]]] = ...) -> None: ...

class Device(_message.Message):
    __slots__ = ("uuid", "index", "shares", "gpu_utilization", "memory_utilization", "memory_total", "memory_free", "memory_used", "memory_share_size", "resource_name", "node_name", "model", "health", "allocated_shares", "reserved_shares", "parent_uuid", "mig_gpu_instance", "health_reason")
    UUID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    GPU_UTILIZATION_FIELD_NUMBER: _ClassVar[int]
    MEMORY_UTILIZATION_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FREE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USED_FIELD_NUMBER: _ClassVar[int]
    MEMORY_SHARE_SIZE_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_NAME_FIELD_NUMBER: _ClassVar[int]
    NODE_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    ALLOCATED_SHARES_FIELD_NUMBER: _ClassVar[int]
    RESERVED_SHARES_FIELD_NUMBER: _ClassVar[int]
    PARENT_UUID_FIELD_NUMBER: _ClassVar[int]
    MIG_GPU_INSTANCE_FIELD_NUMBER: _ClassVar[int]
    HEALTH_REASON_FIELD_NUMBER: _ClassVar[int]
    uuid: str
    index: int
    shares: int
    gpu_utilization: int
    memory_utilization: int
    memory_total: int
    memory_free: int
    memory_used: int
    memory_share_size: int
    resource_name: str
    node_name: str
    model: str
    health: str
    allocated_shares: int
    reserved_shares: int
    parent_uuid: str
    mig_gpu_instance: int
    health_reason: str
    def __init__(self, uuid: _Optional[str] = ..., index: _Optional[int] = ..., shares: _Optional[int] = ..., gpu_utilization: _Optional[int] = ..., memory_utilization: _Optional[int] = ..., memory_total: _Optional[int] = ..., memory_free: _Optional[int] = ..., memory_used: _Optional[int] = ..., memory_share_size: _Optional[int] = ..., resource_name: _Optional[str] = ..., node_name: _Optional[str] = ..., model: _Optional[str] = ..., health: _Optional[str] = ..., allocated_shares: _Optional[int] = ..., reserved_shares: _Optional[int] = ..., parent_uuid: _Optional[str] = ..., mig_gpu_instance: _Optional[int] = ..., health_reason: _Optional[str] = ...) -> None: ...

class GetGpuContainersRequest(_message.Message):
    __slots__ = ("pod_id",)
    POD_ID_FIELD_NUMBER: _ClassVar[int]
    pod_id: str
    def __init__(self, pod_id: _Optional[str] = ...) -> None: ...

class GetGpuContainersResponse(_message.Message):
    __slots__ = ("visibility_level", "gpu_containers", "kills", "server_version", "troubles")
    VISIBILITY_LEVEL_FIELD_NUMBER: _ClassVar[int]
    GPU_CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    KILLS_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    TROUBLES_FIELD_NUMBER: _ClassVar[int]
    visibility_level: str
    gpu_containers: _containers.RepeatedCompositeFieldContainer[GpuContainer]
    kills: _containers.RepeatedCompositeFieldContainer[Kill]
    server_version: str
    troubles: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, visibility_level: _Optional[str] = ..., gpu_containers: _Optional[_Iterable[_Union[GpuContainer, _Mapping]]] = ..., kills: _Optional[_Iterable[_Union[Kill, _Mapping]]] = ..., server_version: _Optional[str] = ..., troubles: _Optional[_Iterable[str]] = ...) -> None: ...

class StreamGpuContainersRequest(_message.Message):
    __slots__ = ("pod_id",)
    POD_ID_FIELD_NUMBER: _ClassVar[int]
    pod_id: str
    def __init__(self, pod_id: _Optional[str] = ...) -> None: ...

class StreamGpuContainersResponse(_message.Message):
    __slots__ = ("visibility_level", "gpu_containers", "kills", "server_version", "troubles")
    VISIBILITY_LEVEL_FIELD_NUMBER: _ClassVar[int]
    GPU_CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    KILLS_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    TROUBLES_FIELD_NUMBER: _ClassVar[int]
    visibility_level: str
    gpu_containers: _containers.RepeatedCompositeFieldContainer[GpuContainer]
    kills: _containers.RepeatedCompositeFieldContainer[Kill]
    server_version: str
    troubles: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, visibility_level: _Optional[str] = ..., gpu_containers: _Optional[_Iterable[_Union[GpuContainer, _Mapping]]] = ..., kills: _Optional[_Iterable[_Union[Kill, _Mapping]]] = ..., server_version: _Optional[str] = ..., troubles: _Optional[_Iterable[str]] = ...) -> None: ...

class GetDevicesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetDevicesResponse(_message.Message):
    __slots__ = ("device", "server_version")
    class DeviceEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Device
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Device, _Mapping]] = ...) -> None: ...
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    device: _containers.MessageMap[str, Device]
    server_version: str
    def __init__(self, device: _Optional[_Mapping[str, Device]] = ..., server_version: _Optional[str] = ...) -> None: ...

class GetMetaDeviceInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetMetaDeviceInfoResponse(_message.Message):
    __slots__ = ("node", "metadata", "devices")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NODE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    node: str
    metadata: _containers.ScalarMap[str, str]
    devices: _containers.RepeatedCompositeFieldContainer[Device]
    def __init__(self, node: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., devices: _Optional[_Iterable[_Union[Device, _Mapping]]] = ...) -> None: ...

class KillGpuProcessRequest(_message.Message):
    __slots__ = ("pid",)
    PID_FIELD_NUMBER: _ClassVar[int]
    pid: int
    def __init__(self, pid: _Optional[int] = ...) -> None: ...

class KillGpuProcessResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PatchConfigsRequest(_message.Message):
    __slots__ = ("meta_gpus",)
    META_GPUS_FIELD_NUMBER: _ClassVar[int]
    meta_gpus: int
    def __init__(self, meta_gpus: _Optional[int] = ...) -> None: ...

class PatchConfigsResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PingServerRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PingServerResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
