"""What the answers say: MiB, absent where unknown, one entry a resource, and kills with their reasons."""

from dataclasses import replace

import pytest

from mortalgpu import __version__
from mortalgpu.deviceapi.views import Caller, Sight, sight
from mortalgpu.deviceapi.wire import MOST_KILLS, WireFacts
from mortalgpu.model.device import Device, Memory, MigPlacement, Utilization
from mortalgpu.model.kill import NO_ENFORCEMENT, Enforcement
from mortalgpu.model.share import Inventory, SharedDevice
from mortalgpu.model.usage import ContainerUsage, DeviceClaim, Usage
from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb
from mortalgpu.units import MIB
from tests.unit.deviceapi import node

OPERATOR = Caller("l0")


def facts(
    usage: Usage | None = None, enforcement: Enforcement = NO_ENFORCEMENT, inventory: Inventory = node.INVENTORY
) -> WireFacts:
    return WireFacts("node-1", inventory, usage or node.usage(), enforcement)


def whole(usage: Usage | None = None) -> Sight:
    return sight(OPERATOR, usage or node.usage())


def container(name: str, found: WireFacts, seen: Sight | None = None) -> pb.GpuContainer:
    """The entry of namespace/pod/container."""
    entries = found.containers(seen or whole(found.usage))
    return next(entry for entry in entries if f"{entry.pod_namespace}/{entry.pod_id}/{entry.container_name}" == name)


def test_a_container_tells_its_shares_limits_and_processes() -> None:
    main = container("team-a/train/main", facts())
    assert (main.metagpu_requests, main.metagpu_limits, main.resource_name, main.node_name) == (4, 5, node.RESOURCE, "node-1")
    (held,) = main.container_devices
    assert (held.allocated_shares, held.memory_request, held.memory_limit, held.memory_used) == (4, 400, 500, 250)
    (process,) = main.device_processes
    assert (process.pid, process.container_pid, process.memory, process.gpu_utilization) == (1001, 1, 250, 7)
    assert (process.cmdline, process.user, process.container_id) == ("python job-1001.py", "alice", node.cid(11))


def test_what_the_driver_does_not_tell_is_absent() -> None:
    infer = container("team-b/infer/main", facts())
    assert not infer.device_processes[0].HasField("memory")
    assert not infer.container_devices[0].HasField("memory_used")
    helper = container("team-a/train/helper", facts())
    assert not helper.device_processes[0].HasField("gpu_utilization")
    device = facts().devices(whole())[node.GPU_B]
    assert not any(device.HasField(name) for name in ("memory_used", "memory_free", "gpu_utilization", "memory_utilization"))


@pytest.mark.parametrize("figure", [-1, 2**70], ids=["less than nothing", "more than there is"])
def test_a_figure_that_cannot_be_is_absent_and_the_rest_is_told(figure: int) -> None:
    process = replace(node.process(7, node.INFER, node.GPU_A, 1), used_bytes=figure, gpu_percent=figure)
    claim = DeviceClaim(node.GPU_A, node.RESOURCE, 1, 2 * MIB, 2 * MIB, (process,))
    holder = ContainerUsage("n", "p", "c", node.uid(3), node.cid(31), (claim,))
    busy = replace(node.usage().devices[0], memory=Memory(figure, figure, figure), utilization=Utilization(figure, figure))
    assert busy.uuid == node.GPU_A
    found = facts(node.usage(containers=(holder,), devices=(busy,)))
    entry = container("n/p/c", found)
    (held,), (shown,) = entry.container_devices, entry.device_processes
    assert (held.memory_limit, shown.pid, held.device.uuid) == (2, 7, node.GPU_A)
    assert not any(shown.HasField(name) for name in ("memory", "gpu_utilization"))
    assert not held.HasField("memory_used")
    names = ("memory_used", "memory_free", "gpu_utilization", "memory_utilization")
    assert not any(found.devices(whole())[node.GPU_A].HasField(name) for name in names)


def test_a_limit_that_is_not_known_is_absent_and_counts_as_the_request() -> None:
    unsure = DeviceClaim(node.GPU_A, node.RESOURCE, 3, 300 * MIB, None)
    usage = node.usage(containers=(ContainerUsage("n", "p", "c", node.uid(1), node.cid(1), (unsure,)),))
    entry = container("n/p/c", facts(usage))
    assert not entry.container_devices[0].HasField("memory_limit")
    assert entry.metagpu_limits == 3


def test_a_device_not_given_has_limit_zero() -> None:
    stray = DeviceClaim(node.GPU_A, node.RESOURCE, 0, 0, 0, (node.process(1, node.INFER, node.GPU_A, 5),))
    usage = node.usage(containers=(ContainerUsage("n", "p", "c", node.uid(3), node.cid(31), (stray,)),))
    entry = container("n/p/c", facts(usage))
    assert entry.container_devices[0].HasField("memory_limit")
    assert (entry.container_devices[0].memory_limit, entry.metagpu_limits, entry.metagpu_requests) == (0, 0, 0)


def test_sizes_are_rounded_down_and_uses_up() -> None:
    process = replace(node.process(7, node.INFER, node.GPU_A, 1), used_bytes=MIB + 1)
    odd = DeviceClaim(node.GPU_A, node.RESOURCE, 1, 2 * MIB - 1, 2 * MIB - 1, (process,))
    usage = node.usage(containers=(ContainerUsage("n", "p", "c", node.uid(3), node.cid(31), (odd,)),))
    entry = container("n/p/c", facts(usage))
    held = entry.container_devices[0]
    assert (entry.device_processes[0].memory, held.memory_request, held.memory_limit, held.memory_used) == (2, 1, 1, 2)


@pytest.mark.parametrize("shares", [1, 3, 7, 100, 320, 9999])
def test_the_limit_in_shares_is_the_inverse_of_the_limit_in_bytes(shares: int) -> None:
    shared = SharedDevice(Device("GPU-x", 0, "M", 32_510 * MIB + 12_345), node.RESOURCE, shares)
    for held in {1, shares // 2, shares - 1, shares}:
        claim = DeviceClaim("GPU-x", node.RESOURCE, held, shared.limit_bytes(held), shared.limit_bytes(held))
        usage = node.usage(containers=(ContainerUsage("n", "p", "c", node.uid(1), node.cid(1), (claim,)),))
        assert container("n/p/c", facts(usage, inventory=Inventory((shared,)))).metagpu_limits == held


def test_a_container_with_two_resources_is_two_entries() -> None:
    claims = (node.claim(node.GPU_A, (0,)), replace(node.claim(node.GPU_B, (0, 1)), resource="mortalgpu/other"))
    usage = node.usage(containers=(ContainerUsage("n", "p", "c", node.uid(1), node.cid(1), claims),))
    entries = facts(usage).containers(whole(usage))
    assert [(entry.resource_name, entry.metagpu_requests) for entry in entries] == [(node.RESOURCE, 1), ("mortalgpu/other", 2)]


def test_a_container_without_processes_still_has_its_entry() -> None:
    young = container("team-b/young/main", facts())
    assert (young.metagpu_requests, len(young.device_processes), young.container_id) == (1, 0, "")


def test_devices_tell_shares_memory_and_health() -> None:
    devices = facts().devices(whole())
    first, second = devices[node.GPU_A], devices[node.GPU_B]
    assert (first.index, first.shares, first.allocated_shares, first.memory_share_size) == (0, 10, 6, 100)
    assert (first.memory_total, first.memory_used, first.memory_free, first.gpu_utilization) == (1000, 480, 520, 35)
    assert (first.health, second.health, second.health_reason) == ("Healthy", "Unhealthy", "XID 79: fallen off the bus")


def test_a_missing_figure_of_a_healthy_device_is_explained() -> None:
    device = facts(inventory=replace(node.INVENTORY, health={})).devices(whole())[node.GPU_B]
    assert (device.health, device.health_reason) == ("Healthy", "driver: Unknown Error")


def test_a_partition_tells_its_gpu() -> None:
    placed = Device("MIG-1", 2, "A100", 1000 * MIB, mig=MigPlacement("GPU-p", 9, 0))
    device = facts(inventory=Inventory((SharedDevice(placed, "r/x", 10, 2),))).devices(whole())["MIG-1"]
    assert (device.parent_uuid, device.mig_gpu_instance, device.reserved_shares) == ("GPU-p", 9, 2)


def test_a_device_that_left_the_inventory_is_still_named_where_it_is_held() -> None:
    entry = container("team-a/train/main", facts(inventory=Inventory()))
    assert (entry.container_devices[0].device.uuid, entry.container_devices[0].device.shares) == (node.GPU_A, 0)
    assert facts(inventory=Inventory()).devices(whole()) == {}


# Kills.


def killed(*records: object) -> WireFacts:
    return facts(enforcement=Enforcement(history=tuple(records)))  # type: ignore[arg-type]


def test_a_kill_reaches_its_container_even_after_a_restart_of_it() -> None:
    before = replace(node.kill(node.TRAIN_MAIN), container_id=node.cid(99))
    (kill,) = container("team-a/train/main", killed(before)).kills
    assert (kill.pid, kill.container_pid, kill.memory_used, kill.memory_limit, kill.outcome) == (999, 99, 510, 500, "killed")
    assert (kill.reason, kill.time) == ("The container used 510 MiB of 500 MiB.", 1_699_999_990)
    assert container("team-a/train/helper", killed(before)).kills == []
    assert container("team-b/train/main", killed(before)).kills == []


def test_a_kill_in_a_pod_that_is_gone_is_told_to_the_node_only() -> None:
    gone = replace(node.kill(node.TRAIN_MAIN, name="gone"), pod_uid=node.uid(77))
    assert [kill.pod_id for kill in killed(gone).response(whole()).kills] == ["gone"]
    inside = sight(Caller("l1", container=node.TRAIN_MAIN), node.usage())
    assert killed(gone).response(inside).kills == []


def test_a_kill_in_a_container_of_the_pod_that_is_gone_is_told_to_the_pod() -> None:
    gone = replace(node.kill(node.TRAIN_MAIN), container_name="init")
    inside = sight(Caller("l1", container=node.TRAIN_MAIN), node.usage())
    assert [kill.container_name for kill in killed(gone).response(inside).kills] == ["init"]


def test_a_kill_without_a_pod_uid_matches_no_container_without_one() -> None:
    nameless = replace(node.kill(node.TRAIN_MAIN), pod_uid="", pod_name="young", pod_namespace="team-b", uuid=node.GPU_B)
    assert container("team-b/young/main", killed(nameless)).kills == []
    inside = sight(Caller("l1", meta_devices=frozenset(node.ids(node.GPU_B, 4))), node.usage())
    assert killed(replace(nameless, container_name="gone")).response(inside).kills == []


@pytest.mark.parametrize(
    ("outcome", "shown"), [("killed", 1), ("still_there", 1), ("dry_run", 1), ("already_gone", 0), ("withdrawn", 0)]
)
def test_only_what_happened_is_told(outcome: str, shown: int) -> None:
    assert len(container("team-a/train/main", killed(node.kill(node.TRAIN_MAIN, outcome=outcome))).kills) == shown


def test_of_many_kills_the_newest_are_told_oldest_first() -> None:
    records = [node.kill(node.TRAIN_MAIN, at=float(number)) for number in range(25)]
    times = [kill.time for kill in container("team-a/train/main", killed(*records)).kills]
    assert times == list(range(25 - MOST_KILLS, 25))


# The response.


def test_the_response_tells_level_version_and_to_the_node_what_is_wrong() -> None:
    found = facts(node.usage(troubles=("kubelet does not answer",)))
    answer = found.response(whole())
    assert (answer.visibility_level, answer.server_version, list(answer.troubles)) == (
        "l0",
        __version__,
        ["kubelet does not answer"],
    )
    inside = found.response(sight(Caller("l1", container=node.INFER), node.usage()))
    assert (inside.visibility_level, list(inside.troubles)) == ("l1", [])


def test_the_nodes_answer_is_made_once_and_a_containers_each_time() -> None:
    found = facts()
    assert found.response(whole()) is found.response(whole())
    seen = sight(Caller("l1", container=node.INFER), node.usage())
    assert found.response(seen) is not found.response(seen)
    assert found.response(seen) != found.response(whole())


def test_stream_and_unary_answers_are_the_same_on_the_wire() -> None:
    unary, stream = pb.GetGpuContainersResponse.DESCRIPTOR, pb.StreamGpuContainersResponse.DESCRIPTOR

    def shape(descriptor: object) -> list[tuple[object, ...]]:
        return [(field.name, field.number, field.type, field.is_repeated) for field in descriptor.fields]  # type: ignore[attr-defined]

    assert shape(unary) == shape(stream)
