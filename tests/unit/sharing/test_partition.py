"""Into how many shares devices are cut, and what is refused."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mortalgpu.errors import ConfigError
from mortalgpu.model.device import Device, MigPlacement
from mortalgpu.rpc.pb.deviceplugin.v1beta1 import deviceplugin_pb2
from mortalgpu.sharing.metaid import advertised_ids
from mortalgpu.sharing.partition import KUBELET_MESSAGE_BYTES, list_bytes, share, shareable
from mortalgpu.sharing.rules import ShareRule
from mortalgpu.units import MIB, mib_floor
from tests.unit.sharing.devices import A100, A100_MODEL, V100, WORKED_RULES, gpu, partition, shared, worked_example

COUNT = ShareRule("example.com/gpu", 10, field="config.deviceSharing[0]")
CHUNK = ShareRule("example.com/gpu", chunk_bytes=100 * MIB, field="config.deviceSharing[0]")


def test_the_worked_example_gives_800_200_and_200_shares() -> None:
    inventory = share(worked_example(), WORKED_RULES)
    totals = {name: sum(member.advertised for member in inventory.of_resource(name)) for name in inventory.resources}
    assert totals == {"mortalgpu/a100-shared": 800, "mortalgpu/a100-20g": 200, "mortalgpu/a100-10g": 200}
    assert inventory.left_alone == ()


def test_forty_shares_are_worth_what_their_device_says() -> None:
    v100, large = share(worked_example(), WORKED_RULES).of_resource("mortalgpu/a100-shared")
    assert (v100.uuid, mib_floor(v100.limit_bytes(40))) == (V100, 3276)
    assert mib_floor(large.limit_bytes(40)) == 4019


def test_the_order_is_the_house_order_whatever_the_driver_says() -> None:
    expected = share(worked_example(), WORKED_RULES)
    assert share(reversed(worked_example()), WORKED_RULES) == expected
    assert [member.device.mig and member.device.mig.gi_id for member in expected.devices] == [None, 2, 3, 9, 10]


def test_a_chunk_gives_as_many_shares_as_fit_whole() -> None:
    (member,) = share([gpu(mib=1099)], [CHUNK]).devices
    assert member.shares == 10
    assert member.share_bytes == 1099 * MIB // 10


def test_the_count_wins_over_the_chunk() -> None:
    (member,) = share([gpu()], [replace(CHUNK, metagpus_per_gpu=7)]).devices
    assert member.shares == 7


def test_reserved_shares_are_not_advertised_and_change_no_size() -> None:
    (member,) = share([gpu(mib=1000)], [replace(COUNT, reserved=4)]).devices
    assert (member.shares, member.advertised, member.share_bytes) == (10, 6, 100 * MIB)


def test_reserving_all_shares_advertises_none() -> None:
    (member,) = share([gpu(mib=1000)], [replace(CHUNK, reserved=10)]).devices
    assert advertised_ids(member) == ()


def test_a_device_without_an_entry_is_left_alone() -> None:
    device = gpu()
    inventory = share([device], [replace(COUNT, models=("x",))])
    assert (inventory.devices, inventory.left_alone) == ((), (device,))


def test_a_gpu_in_mig_mode_is_left_alone_only_without_partitions() -> None:
    parent = gpu(A100, model=A100_MODEL, mig_mode=True)
    assert share([parent], [COUNT]).left_alone == (parent,)
    assert share([parent, partition(1, 100)], [replace(COUNT, models=("x",))]).left_alone == (partition(1, 100),)


def test_a_partition_smaller_than_the_chunk_is_refused_by_name() -> None:
    with pytest.raises(ConfigError) as caught:
        share([gpu(mib=1000), partition(5, 99)], [CHUNK])
    assert caught.value.field == "config.deviceSharing[0].metagpusPerGpuMemoryChunkMB"
    assert "100 MiB" in caught.value.problem
    assert "GPU instance 5" in caught.value.problem
    assert partition(5, 99).uuid in caught.value.problem


def test_a_reserve_larger_than_a_device_is_refused_by_name() -> None:
    with pytest.raises(ConfigError) as caught:
        share([gpu(mib=1000)], [replace(CHUNK, reserved=11)])
    assert caught.value.field == "config.deviceSharing[0].reservedChunks"
    assert "reserves 11 shares" in caught.value.problem
    assert f"{V100} (Tesla V100-PCIE-32GB, 1000 MiB) has only 10" in caught.value.problem


def test_two_compute_instances_of_one_gpu_instance_are_refused() -> None:
    first, second = partition(3, 1000), replace(partition(3, 1000), uuid="MIG-second", mig=MigPlacement(A100, 3, 1))
    with pytest.raises(ConfigError, match=r"MIG-second .* the same memory would be given out twice") as caught:
        share([first, second], [COUNT])
    assert caught.value.field == "config.deviceSharing[0].uuid"
    assert len(share([first, second], [replace(COUNT, uuids=("MIG-second",))]).devices) == 1


def test_a_newcomer_that_cannot_be_shared_is_refused_and_the_others_are_not() -> None:
    old, small, new = gpu(mib=1000), partition(5, 99), partition(9, 1000)
    assert shareable([old, small, new], [old], [CHUNK])[0] == (old, new)
    fitting, refusals = shareable([small, old, new], [old], [CHUNK])
    assert fitting == (old, new)
    assert list(refusals) == [small.uuid]
    assert "does not fit once" in str(refusals[small.uuid])


def test_a_device_that_changed_so_that_it_cannot_be_shared_keeps_its_description() -> None:
    old, other = gpu(mib=1000), partition(5, 1000)
    shrunk, grown = replace(old, memory_bytes=MIB), replace(other, memory_bytes=2000 * MIB)
    fitting, refusals = shareable([shrunk, grown], [old, other], [CHUNK])
    assert fitting == (old, grown)
    assert list(refusals) == [old.uuid]
    assert shareable([replace(old, index=4)], [old], [CHUNK]) == ((replace(old, index=4),), {})


def test_of_two_compute_instances_the_one_shared_before_stays() -> None:
    first, second = partition(3, 1000), replace(partition(3, 1000), uuid="MIG-second", mig=MigPlacement(A100, 3, 1))
    for order in ([first, second], [second, first]):
        fitting, refusals = shareable(order, [second], [COUNT])
        assert (fitting, list(refusals)) == ((second,), [first.uuid])


def test_partitions_of_the_same_number_on_two_gpus_are_two() -> None:
    other = replace(partition(3, 1000, parent="GPU-x"), uuid="MIG-other")
    assert len(share([partition(3, 1000), other], [COUNT]).devices) == 2


def test_shares_of_less_than_a_byte_are_refused() -> None:
    with pytest.raises(ConfigError, match="would be empty"):
        share([replace(gpu(), memory_bytes=9)], [COUNT])


def test_a_device_whose_memory_the_driver_calls_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not fit once"):
        share([replace(gpu(), memory_bytes=0)], [CHUNK])


def wire_bytes(devices: list[Device], counts: list[int]) -> int:
    """What protobuf itself makes of the list when all are sick."""
    answer = deviceplugin_pb2.ListAndWatchResponse()
    for device, count in zip(devices, counts, strict=True):
        for text in advertised_ids(shared(device.uuid, count)):
            entry = answer.devices.add(ID=text, health="Unhealthy")
            if device.numa_node is not None:
                entry.topology.nodes.add(ID=device.numa_node)
    return int(answer.ByteSize())


@given(
    st.lists(
        st.tuples(st.integers(0, 1200), st.sampled_from((None, 0, 1, 127, 128, 70000)), st.integers(1, 130)),
        max_size=3,
    )
)
def test_the_computed_size_is_the_one_on_the_wire(cases: list[tuple[int, int | None, int]]) -> None:
    devices = [replace(gpu("u" * length), numa_node=node) for _, node, length in cases]
    members = [replace(shared("x", max(count, 1)), device=d) for (count, _, _), d in zip(cases, devices, strict=True)]
    assert list_bytes(members) == wire_bytes(devices, [member.advertised for member in members])


def big_node(rule: ShareRule, mib: int = 81920) -> int:
    """Return the list's size on a node with eight large GPUs."""
    devices = [gpu(f"GPU-22222222-aaaa-4bbb-8ccc-{number:012d}", index=number, mib=mib) for number in range(8)]
    return list_bytes(share(devices, [rule]).devices)


def test_a_list_kubelet_cannot_read_is_refused_with_what_fits() -> None:
    with pytest.raises(ConfigError) as caught:
        big_node(replace(CHUNK, chunk_bytes=8 * MIB))
    assert caught.value.field == "config.deviceSharing[0].metagpusPerGpuMemoryChunkMB"
    words = caught.value.problem.replace(",", " ").split()
    chunk = int(words[words.index("metagpusPerGpuMemoryChunkMB") + 1])
    count = int(words[words.index("metagpusPerGpu") + 1])
    assert big_node(replace(CHUNK, chunk_bytes=chunk * MIB)) <= KUBELET_MESSAGE_BYTES
    assert big_node(replace(COUNT, metagpus_per_gpu=count)) <= KUBELET_MESSAGE_BYTES
    with pytest.raises(ConfigError):
        big_node(replace(CHUNK, chunk_bytes=(chunk - 1) * MIB))
    with pytest.raises(ConfigError):
        big_node(replace(COUNT, metagpus_per_gpu=count + 1))


def test_the_refusal_names_the_figure_and_the_key_in_force() -> None:
    with pytest.raises(ConfigError) as caught:
        big_node(replace(COUNT, metagpus_per_gpu=10000))
    assert caught.value.field == "config.deviceSharing[0].metagpusPerGpu"
    assert "for 80000 meta-devices" in caught.value.problem
    assert "4194304" in caught.value.problem


def test_the_entry_that_contributes_most_is_blamed() -> None:
    rules = (
        replace(COUNT, uuids=("GPU-small",)),
        replace(COUNT, metagpus_per_gpu=100000, field="config.deviceSharing[1]"),
    )
    with pytest.raises(ConfigError) as caught:
        share([gpu("GPU-small"), gpu()], rules)
    assert caught.value.field == "config.deviceSharing[1].metagpusPerGpu"


def test_each_resource_has_a_list_of_its_own() -> None:
    rules = (
        replace(COUNT, metagpus_per_gpu=40000, uuids=(V100,)),
        replace(COUNT, metagpus_per_gpu=40000, resource="example.com/other"),
    )
    assert len(share([gpu(), gpu("GPU-x")], rules).devices) == 2


def test_reserved_shares_do_not_count_against_the_list() -> None:
    (member,) = share([gpu()], [replace(COUNT, metagpus_per_gpu=100000, reserved=90000)]).devices
    assert member.advertised == 10000
