"""What a set of meta-devices is worth: the check that Allocate makes of the ids kubelet decided on.

kubelet may ignore a preference, so splitting is judged here again. Nothing depends on a previous call, and an id that was
granted before is granted again: kubelet passes the ids of a finished init container on without telling.
"""

from collections.abc import Sequence

from mortalgpu.errors import AllocationError, UnknownMetaDevice, WouldSplit
from mortalgpu.model.grant import Grant
from mortalgpu.model.share import SharedDevice
from mortalgpu.sharing.metaid import format_id, format_ids, named, numbers_by_device


def granted(resource: str, ids: Sequence[str], devices: Sequence[SharedDevice], *, no_split: bool) -> Grant:
    """Return the grant for these ids, ordered by device and number whatever the order of `ids`.

    `devices` are the resource's. Raises AllocationError when there is no id or one comes twice, UnknownMetaDevice when one is
    no advertised share of these devices, WouldSplit when they lie on several devices and `no_split` is set.
    """
    if not ids:
        raise AllocationError(f"{resource}: no meta-device was named in the request")
    numbers = numbers_by_device(ids)
    known = {shared.uuid: shared for shared in devices}
    for uuid, found in numbers.items():
        _check_numbers(resource, uuid, found, known.get(uuid))
    if no_split and len(numbers) > 1:
        raise WouldSplit(
            f"{resource}: {len(ids)} shares were chosen on {len(numbers)} devices ({', '.join(sorted(numbers))}); "
            "splitting over devices is off (allocator.noSplit)"
        )
    used = [shared for shared in devices if shared.uuid in numbers]
    return Grant(
        resource=resource,
        meta_devices=tuple(text for shared in used for text in format_ids(shared.uuid, sorted(numbers[shared.uuid]))),
        shares={shared.uuid: len(numbers[shared.uuid]) for shared in used},
        limit_bytes={shared.uuid: shared.limit_bytes(len(numbers[shared.uuid])) for shared in used},
    )


def _check_numbers(resource: str, uuid: str, numbers: Sequence[int], shared: SharedDevice | None) -> None:
    highest = named(uuid, max(numbers))
    if shared is None:
        raise UnknownMetaDevice(f"{resource}: {highest} is on a device that is not shared under this name on this node")
    if max(numbers) >= shared.advertised:
        offered = f"which has numbers 0 to {shared.advertised - 1}" if shared.advertised else "all of whose shares are reserved"
        raise UnknownMetaDevice(f"{resource}: {highest} is not a share of this device, {offered}")
    if len(set(numbers)) < len(numbers):
        twice = next(number for number in numbers if numbers.count(number) > 1)
        raise AllocationError(f"{resource}: {format_id(uuid, twice)} is named twice in the request")
