"""The message definitions that clients of MetaGPU were generated from, written down from the table of its field numbers.

They know none of our fields, and no field of theirs is optional.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "DeviceProcess": {
        "uuid": (1, "string"), "pid": (2, "uint32"), "memory": (3, "uint64"), "cmdline": (4, "string"),
        "user": (5, "string"), "container_id": (6, "string"), "gpu_utilization": (10, "uint32"),
    },
    "ContainerDevice": {"device": (1, "Device"), "allocated_shares": (2, "int32")},
    "GpuContainer": {
        "container_id": (1, "string"), "container_name": (2, "string"), "pod_id": (3, "string"),
        "pod_namespace": (4, "string"), "metagpu_requests": (5, "int64"), "resource_name": (6, "string"),
        "node_name": (7, "string"), "device_processes": (8, "DeviceProcess*"), "container_devices": (9, "ContainerDevice*"),
    },
    "Device": {
        "uuid": (1, "string"), "index": (2, "uint32"), "shares": (3, "uint32"), "gpu_utilization": (4, "uint32"),
        "memory_utilization": (5, "uint32"), "memory_total": (6, "uint64"), "memory_free": (7, "uint64"),
        "memory_used": (8, "uint64"), "memory_share_size": (9, "uint64"), "resource_name": (10, "string"),
        "node_name": (11, "string"),
    },
    "GetGpuContainersRequest": {"pod_id": (1, "string")},
    "GetGpuContainersResponse": {"visibility_level": (1, "string"), "gpu_containers": (2, "GpuContainer*")},
    "GetDevicesRequest": {},
    "GetDevicesResponse": {"device": (1, "Device%")},
    "GetMetaDeviceInfoRequest": {},
    "GetMetaDeviceInfoResponse": {"node": (1, "string"), "metadata": (2, "string%"), "devices": (3, "Device*")},
    "KillGpuProcessRequest": {"pid": (1, "uint32")},
    "KillGpuProcessResponse": {},
}  # fmt: skip

_FIELD = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "string": _FIELD.TYPE_STRING,
    "uint32": _FIELD.TYPE_UINT32,
    "uint64": _FIELD.TYPE_UINT64,
    "int32": _FIELD.TYPE_INT32,
    "int64": _FIELD.TYPE_INT64,
}


def _add_field(message: Any, name: str, number: int, kind: str) -> None:
    """Add a field; `*` after the type means repeated, `%` a map from string."""
    plain = kind.rstrip("*%")
    field = message.field.add(name=name, number=number, label=_FIELD.LABEL_REPEATED if plain != kind else _FIELD.LABEL_OPTIONAL)
    if kind.endswith("%"):
        entry = message.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        _add_field(entry, "key", 1, "string")
        _add_field(entry, "value", 2, plain)
        field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".device.v1.{message.name}.{entry.name}"
    elif plain in _TYPES:
        field.type = _TYPES[plain]
    else:
        field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".device.v1.{plain}"


def classes() -> dict[str, Any]:
    """Return the message classes by name, from a pool of their own."""
    file = descriptor_pb2.FileDescriptorProto(name="metagpu.proto", package="device.v1", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            _add_field(message, field, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"device.v1.{name}")) for name in _MESSAGES}
