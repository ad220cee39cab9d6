"""Which entry of deviceSharing takes which device, and whether the entries make sense together.

The rules:
1. An entry takes a device that passes all of its lists: uuid AND modelName AND migid; an empty list lets all pass.
2. A UUID in the list names a MIG device, or a physical GPU and with it all of its partitions.
3. migid is NVIDIA's GPU-instance id, so only partitions pass a list of them.
4. A GPU in MIG mode is never offered whole.
5. The first entry that takes a device has it.

An entry that these rules leave without any device it could ever take is an error, since its author meant something else.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mortalgpu.errors import ConfigError
from mortalgpu.model.device import Device

_DNS_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_DOMAIN = re.compile(rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*")
_NAME = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?")
_LONGEST_DOMAIN = 244
"""253, a DNS name's limit, less the `requests.` that Kubernetes puts in front in quotas."""
_LONGEST_NAME = 63


@dataclass(frozen=True, slots=True)
class ShareRule:
    """One entry of deviceSharing, in the house's units.

    `metagpus_per_gpu` wins over `chunk_bytes`; 0 means not given. `reserved` shares of each device are not advertised. `gi_ids`
    is the key migid. `field` is the entry's path (`config.deviceSharing[1]`) for error texts.
    """

    resource: str
    metagpus_per_gpu: int = 0
    chunk_bytes: int = 0
    reserved: int = 0
    uuids: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    gi_ids: tuple[int, ...] = ()
    field: str = "config.deviceSharing[0]"


def matches(rule: ShareRule, device: Device) -> bool:
    """Say whether an entry takes a device, were it the only entry."""
    if device.mig_mode:
        return False
    if rule.uuids and device.uuid not in rule.uuids and device.gpu_uuid not in rule.uuids:
        return False
    if rule.models and device.model not in rule.models:
        return False
    return not rule.gi_ids or (device.mig is not None and device.mig.gi_id in rule.gi_ids)


def first_match(rules: Sequence[ShareRule], device: Device) -> ShareRule | None:
    """Return the entry that has a device; None when it is left alone."""
    return next((rule for rule in rules if matches(rule, device)), None)


def check_rules(rules: Sequence[ShareRule]) -> None:
    """Refuse entries that contradict themselves or each other, without knowing the devices.

    Raises ConfigError whose field is the exact key at fault.
    """
    for rule in rules:
        _check_resource(rule)
        _check_counts(rule)
        _check_lists(rule)
    for position, rule in enumerate(rules):
        for earlier in rules[:position]:
            _check_claims(earlier, rule)
            _check_reachable(earlier, rule)


def resource_problem(name: str) -> str | None:
    """Say why Kubernetes would refuse `name` as an extended resource; None when it takes it.

    The rules are those that kubelet's Register applies: a qualified name, with and without `requests.` in front.
    """
    domain, _, rest = name.partition("/")
    if name.count("/") != 1:
        return "must have exactly one '/', as in example.com/gpu"
    if "kubernetes.io/" in name:
        return "must not end its domain part in kubernetes.io, which Kubernetes keeps for itself"
    if name.startswith("requests."):
        return "must not start with 'requests.', which Kubernetes keeps for quotas"
    if len(domain) > _LONGEST_DOMAIN or not _DOMAIN.fullmatch(domain):
        return f"needs a lower-case DNS name of at most {_LONGEST_DOMAIN} characters before the '/'"
    if len(rest) > _LONGEST_NAME or not _NAME.fullmatch(rest):
        return (
            f"needs 1 to {_LONGEST_NAME} letters, digits, '-', '_' or '.' after the '/', "
            "beginning and ending with a letter or digit"
        )
    return None


def _check_resource(rule: ShareRule) -> None:
    problem = resource_problem(rule.resource)
    if problem:
        raise ConfigError(f"{rule.field}.resourceName", f"{rule.resource!a} {problem}")


def _check_counts(rule: ShareRule) -> None:
    figures = (
        ("metagpusPerGpu", rule.metagpus_per_gpu),
        ("metagpusPerGpuMemoryChunkMB", rule.chunk_bytes),
        ("reservedChunks", rule.reserved),
    )
    for key, value in figures:
        if value < 0:
            raise ConfigError(f"{rule.field}.{key}", "must not be negative")
    if not rule.metagpus_per_gpu and not rule.chunk_bytes:
        raise ConfigError(
            f"{rule.field}.metagpusPerGpu",
            "is 0 and so is metagpusPerGpuMemoryChunkMB: give the number of shares of a device or the MiB of one share",
        )
    if 0 < rule.metagpus_per_gpu < rule.reserved:
        raise ConfigError(
            f"{rule.field}.reservedChunks",
            f"reserves {rule.reserved} shares of each device, but metagpusPerGpu makes only {rule.metagpus_per_gpu}",
        )


def _check_lists(rule: ShareRule) -> None:
    lists: tuple[tuple[str, Sequence[object]], ...] = (
        ("uuid", rule.uuids),
        ("modelName", rule.models),
        ("migid", rule.gi_ids),
    )
    for key, values in lists:
        for position, value in enumerate(values):
            field = f"{rule.field}.{key}[{position}]"
            if value == "":
                raise ConfigError(field, "is empty and would match no device: remove it")
            if value in values[:position]:
                raise ConfigError(field, f"{value} is listed twice: remove one")
    for position, gi_id in enumerate(rule.gi_ids):
        if gi_id < 0:
            raise ConfigError(f"{rule.field}.migid[{position}]", f"{gi_id} is negative: expected a GPU-instance id")


def _check_claims(earlier: ShareRule, later: ShareRule) -> None:
    """Refuse a UUID that two entries claim for the same partitions; told apart by model or migid it is fine."""
    if earlier.models and later.models and not set(earlier.models) & set(later.models):
        return
    # An earlier entry for some partitions and a later one for the rest of the GPU is how "all others" is written.
    if earlier.gi_ids and not set(earlier.gi_ids) & set(later.gi_ids):
        return
    for position, uuid in enumerate(later.uuids):
        if uuid in earlier.uuids:
            raise ConfigError(
                f"{later.field}.uuid[{position}]",
                f"{uuid} is already claimed by {earlier.field}.uuid[{earlier.uuids.index(uuid)}]: "
                "name it in one entry, or give the two different lists of migid",
            )


def _check_reachable(earlier: ShareRule, later: ShareRule) -> None:
    if _covers(earlier.uuids, later.uuids) and _covers(earlier.models, later.models) and _covers(earlier.gi_ids, later.gi_ids):
        raise ConfigError(
            later.field,
            f"can never match a device, because {earlier.field} takes every such device first: "
            "put the narrower entry first, or remove one",
        )


def _covers(earlier: Sequence[object], later: Sequence[object]) -> bool:
    """Say whether every device that passes the later filter passes the earlier one."""
    return not earlier or (bool(later) and set(later) <= set(earlier))
