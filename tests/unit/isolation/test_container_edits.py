"""What enters a container: whole MiB rounded down, the smallest limit as the figure, and nothing that is empty."""

import pytest

from mortalgpu.isolation.base import EditSettings
from mortalgpu.isolation.none import NoIsolation
from mortalgpu.model.grant import Grant
from mortalgpu.model.share import SharedDevice
from mortalgpu.simulation.driver import partition_uuid, v100_uuid, worked_example

R = "mortalgpu/a100-shared"
V100, _, PARTITION = worked_example(1)[:3]
DEVICES = {device.uuid: SharedDevice(device, R, 400) for device in (V100, PARTITION)}


def grant(**shares: int) -> Grant:
    """Return a grant of shares on `v100` and `partition`."""
    uuids = {"v100": v100_uuid(0), "partition": partition_uuid(2)}
    held = {uuids[name]: count for name, count in shares.items()}
    ids = tuple(f"{uuid}::{number}" for uuid, count in held.items() for number in range(count))
    return Grant(R, ids, held, {uuid: DEVICES[uuid].limit_bytes(count) for uuid, count in held.items()})


WORKED = {
    "40 shares of the V100": ({"v100": 40}, "3276", f"{v100_uuid(0)}=3276"),
    "40 shares of the partition": ({"partition": 40}, "4019", f"{partition_uuid(2)}=4019"),
    "one share": ({"partition": 1}, "100", f"{partition_uuid(2)}=100"),
    "the whole device": ({"v100": 400}, "32768", f"{v100_uuid(0)}=32768"),
    "two devices": ({"v100": 40, "partition": 40}, "3276", f"{v100_uuid(0)}=3276,{partition_uuid(2)}=4019"),
}


@pytest.mark.parametrize(("shares", "figure", "each"), WORKED.values(), ids=WORKED)
def test_the_limit_is_told_in_whole_mib_for_each_device_and_as_the_smallest(
    shares: dict[str, int], figure: str, each: str
) -> None:
    envs = NoIsolation(EditSettings()).edits(grant(**shares), DEVICES).envs
    assert envs["METAGPU_MAX_MEM"] == figure
    assert envs["MORTALGPU_MEMORY_LIMIT_MIB"] == each
    assert envs["NVIDIA_VISIBLE_DEVICES"].split(",") == [part.partition("=")[0] for part in each.split(",")]


def test_an_empty_address_or_token_is_left_out() -> None:
    envs = NoIsolation(EditSettings()).edits(grant(v100=1), DEVICES).envs
    assert not {"MG_CTL_ADDR", "MG_CTL_TOKEN"} & set(envs)


def test_a_node_that_two_devices_share_enters_once() -> None:
    settings = EditSettings(device_nodes=lambda device: ("/dev/nvidiactl", f"/dev/nvidia{device.minor}"))
    edits = NoIsolation(settings).edits(grant(v100=1, partition=1), DEVICES)
    assert edits.device_nodes == ("/dev/nvidiactl", "/dev/nvidia0", "/dev/nvidia1")
