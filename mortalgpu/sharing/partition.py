"""Into how many shares each device is cut, how many of them kubelet is told of, and whether kubelet can read the list.

The rules:
1. metagpusPerGpu shares a device; else as many whole chunks as the device's memory holds.
2. A share is the device's memory divided by its shares: the remainder of the chunks is not lost.
3. The last `reservedChunks` shares of each device are not advertised; the size of the others stays the same.
4. A GPU in MIG mode is offered through its partitions only.
5. Compute instances of one GPU instance have one memory between them, so only one of them may be shared.
6. The list of one resource must fit into one message to kubelet.
"""

from collections.abc import Callable, Iterable, Sequence

from mortalgpu.errors import ConfigError
from mortalgpu.model.device import Device
from mortalgpu.model.share import Inventory, SharedDevice
from mortalgpu.sharing.metaid import SEPARATOR
from mortalgpu.sharing.rules import ShareRule, first_match
from mortalgpu.units import MIB, mib_floor, quantity

KUBELET_MESSAGE_BYTES = 4194304
"""What kubelet's gRPC client takes in one message; a longer list makes it drop the plugin without a word."""

_HEALTH_FIELD_BYTES = 2 + len("Unhealthy")
"""The longer of the two words: a list must still fit when every device is sick."""


def share(devices: Iterable[Device], rules: Sequence[ShareRule]) -> Inventory:
    """Cut devices into shares as the entries say. Returns them in the house's order, and those that no entry takes.

    A GPU in MIG mode counts as left alone only while it has no partition. Raises ConfigError, which names the device, when
    one gets no share, fewer than the entry reserves, or memory that another one has too, and when a resource's list is longer
    than kubelet reads.
    """
    ordered = sorted(devices, key=device_order)
    parents = {device.gpu_uuid for device in ordered if device.mig}
    shared: list[SharedDevice] = []
    left_alone: list[Device] = []
    for device in ordered:
        rule = first_match(rules, device)
        if rule:
            _check_memory_is_its_own(device, rule, shared)
            shared.append(_cut(device, rule))
        elif not (device.mig_mode and device.uuid in parents):
            left_alone.append(device)
    check_list_sizes(shared, rules)
    return Inventory(tuple(shared), tuple(left_alone))


def shareable(
    devices: Sequence[Device], known: Sequence[Device], rules: Sequence[ShareRule]
) -> tuple[tuple[Device, ...], dict[str, ConfigError]]:
    """Return what to go on with of the devices found, in their order, and by UUID why the others cannot be shared.

    `known` are those that were shared beside each other before. What is new or has changed is refused when it contradicts
    those before it; of a device that has changed, the known description stays.
    """
    try:
        share(devices, rules)
    except ConfigError:
        pass
    else:
        return tuple(devices), {}
    found = {device.uuid for device in devices}
    accepted = {device.uuid: device for device in known if device.uuid in found}
    refusals: dict[str, ConfigError] = {}
    for device in devices:
        trial = {**accepted, device.uuid: device}
        try:
            share(trial.values(), rules)
        except ConfigError as error:
            refusals[device.uuid] = error
        else:
            accepted = trial
    return tuple(accepted[device.uuid] for device in devices if device.uuid in accepted), refusals


def device_order(device: Device) -> tuple[int, int, int, str]:
    """Return the sort key of the house's order: by place, and by UUID where two devices claim one."""
    return *device.place, device.uuid


def share_count(memory_bytes: int, rule: ShareRule) -> int:
    """Return the shares of a device of that size; 0 when not one chunk fits."""
    return rule.metagpus_per_gpu or (memory_bytes // rule.chunk_bytes if rule.chunk_bytes else 0)


def list_bytes(devices: Iterable[SharedDevice]) -> int:
    """Return the size of the ListAndWatch message for these devices when all are unhealthy, the longest it can get."""
    return sum(_device_list_bytes(shared.device, shared.advertised) for shared in devices)


def check_list_sizes(devices: Sequence[SharedDevice], rules: Sequence[ShareRule]) -> None:
    """Raise ConfigError, with the figure and what would fit, when a resource's list is longer than kubelet reads."""
    for resource in dict.fromkeys(shared.resource for shared in devices):
        members = [shared for shared in devices if shared.resource == resource]
        size = list_bytes(members)
        if size > KUBELET_MESSAGE_BYTES:
            raise _list_too_long(resource, members, size, rules)


def _cut(device: Device, rule: ShareRule) -> SharedDevice:
    shares = share_count(device.memory_bytes, rule)
    if shares == 0:
        raise ConfigError(
            f"{rule.field}.metagpusPerGpuMemoryChunkMB",
            f"{_chunk_text(rule)} does not fit once into {_named(device)}: "
            "choose a smaller chunk, or keep the device out with uuid, modelName or migid",
        )
    if shares > device.memory_bytes:
        raise ConfigError(f"{rule.field}.metagpusPerGpu", f"{shares} shares of {_named(device)} would be empty: choose fewer")
    if rule.reserved > shares:
        raise ConfigError(
            f"{rule.field}.reservedChunks",
            f"reserves {rule.reserved} shares, but {_named(device)} has only {shares}: reserve {shares} or fewer",
        )
    return SharedDevice(device, rule.resource, shares, rule.reserved)


def _check_memory_is_its_own(device: Device, rule: ShareRule, before: Sequence[SharedDevice]) -> None:
    for other in before:
        twin = other.device.mig
        if device.mig and twin and (twin.parent_uuid, twin.gi_id) == (device.mig.parent_uuid, device.mig.gi_id):
            raise ConfigError(
                f"{rule.field}.uuid",
                f"{_named(device)} is a compute instance that has its memory in common with {other.uuid}, which is shared "
                "already: the same memory would be given out twice; name one of the two by uuid",
            )


def _named(device: Device) -> str:
    partition = f", GPU instance {device.mig.gi_id}" if device.mig else ""
    return f"{device.uuid} ({device.model}{partition}, {quantity(device.memory_bytes)})"


def _chunk_text(rule: ShareRule) -> str:
    return f"a chunk of {mib_floor(rule.chunk_bytes)} MiB"


def _list_too_long(resource: str, members: Sequence[SharedDevice], size: int, rules: Sequence[ShareRule]) -> ConfigError:
    """Say what would fit, on the key in force of the entry that contributes most."""
    weights: dict[str, int] = {}
    by_field = {rule.field: rule for rule in rules}
    for shared in members:
        rule = first_match(rules, shared.device)
        if rule:
            weights[rule.field] = weights.get(rule.field, 0) + list_bytes([shared])
    heaviest = by_field[max(weights, key=lambda field: weights[field])]
    key = "metagpusPerGpu" if heaviest.metagpus_per_gpu else "metagpusPerGpuMemoryChunkMB"
    ids = sum(shared.advertised for shared in members)
    return ConfigError(
        f"{heaviest.field}.{key}",
        f"the list of {resource} would be {size} bytes for {ids} meta-devices, and kubelet reads at most "
        f"{KUBELET_MESSAGE_BYTES}: for all of its devices use metagpusPerGpuMemoryChunkMB {_smallest_chunk_mib(members)} "
        f"or more, or metagpusPerGpu {_largest_count(members)} or less",
    )


def _smallest_chunk_mib(members: Sequence[SharedDevice]) -> int:
    largest = max(shared.device.memory_bytes for shared in members) // MIB + 1
    return _first_that_fits(members, 1, largest, lambda shared, chunk: shared.device.memory_bytes // (chunk * MIB))


def _largest_count(members: Sequence[SharedDevice]) -> int:
    most = max(shared.shares for shared in members)
    return most - _first_that_fits(members, 0, most, lambda _, fewer: most - fewer)


def _first_that_fits(members: Sequence[SharedDevice], low: int, high: int, shares: Callable[[SharedDevice, int], int]) -> int:
    """Return the smallest figure from `low` to `high` with which the list fits, where a larger one never makes it longer."""
    while low < high:
        middle = (low + high) // 2
        size = sum(_device_list_bytes(member.device, max(0, shares(member, middle) - member.reserved)) for member in members)
        low, high = (low, middle) if size <= KUBELET_MESSAGE_BYTES else (middle + 1, high)
    return low


def _device_list_bytes(device: Device, advertised: int) -> int:
    """Return the bytes that a device's shares take in the message: one `Device` entry each, in proto3's encoding."""
    head = len(device.uuid.encode()) + len(SEPARATOR)
    fixed = _HEALTH_FIELD_BYTES + _topology_field_bytes(device.numa_node)
    total = 0
    for digits, count in _numbers_by_length(advertised):
        total += count * _field_bytes(_field_bytes(head + digits) + fixed)
    return total


def _numbers_by_length(count: int) -> Iterable[tuple[int, int]]:
    """Yield, for the numbers from 0 up to `count`, each length in digits and how many have it."""
    digits, start = 1, 0
    while start < count:
        stop = min(count, 10**digits)
        yield digits, stop - start
        digits, start = digits + 1, stop


def _topology_field_bytes(numa_node: int | None) -> int:
    if numa_node is None or numa_node < 0:
        return 0
    # proto3 leaves a zero out: node 0 is an empty message.
    node = 1 + _varint_bytes(numa_node) if numa_node else 0
    return _field_bytes(_field_bytes(node))


def _field_bytes(length: int) -> int:
    """Return the bytes of a length-delimited field: one of tag, the length, the content."""
    return 1 + _varint_bytes(length) + length


def _varint_bytes(value: int) -> int:
    return max(1, -(-value.bit_length() // 7))
