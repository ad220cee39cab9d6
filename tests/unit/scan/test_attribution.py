"""Attribution: who uses what, and the limit that goes with it."""

from mortalgpu.model.device import Device, Fault
from mortalgpu.model.pod import Container, ContainerRef
from mortalgpu.model.share import Inventory
from mortalgpu.units import MIB
from tests.unit.scan.making import RESOURCE, World, cid, holds, ids, partition, pod, ref, shared, uid, view


def world_with_one_pod(*shares: int) -> World:
    """Pod 1 holds the given shares (0 and 1 by default) of GPU-a; there is a GPU-b as well."""
    world = World(shared("GPU-a"), shared("GPU-b", index=1))
    world.view = view(pod(1))
    world.assignments = (holds("pod-1", *ids("GPU-a", *(shares or (0, 1)))),)
    return world


def test_a_containers_use_is_the_sum_over_its_processes() -> None:
    world = world_with_one_pod()
    for _ in range(10):
        world.run(ref(1), 30)
    (found,) = world.containers()
    (claim,) = found.devices
    assert (claim.used_bytes, claim.limit_bytes, claim.over_limit) == (300 * MIB, 200 * MIB, True)


def test_forked_children_count_for_their_container() -> None:
    world = world_with_one_pod()
    parent = world.run(ref(1), 150)
    child = world.run(ref(1), 60)
    (found,) = world.containers()
    assert [process.pid for process in found.processes] == [parent, child]
    assert found.devices[0].over_limit


def test_a_container_without_processes_has_its_entry() -> None:
    (found,) = world_with_one_pod().containers()
    (claim,) = found.devices
    assert (claim.shares, claim.requested_bytes, claim.used_bytes) == (2, 200 * MIB, 0)
    assert found.container_id == cid(1)
    assert claim.meta_devices == ids("GPU-a", 0, 1)


def test_a_container_that_was_not_started_yet_has_its_entry_without_an_id() -> None:
    world = world_with_one_pod()
    world.view = view(pod(1, Container("other", cid(7))))
    (found,) = world.containers()
    assert (found.container_name, found.container_id, found.pod_uid) == ("main", "", uid(1))


def test_without_any_pod_source_holders_are_shown_and_processes_are_strangers() -> None:
    world = world_with_one_pod()
    world.view = view(synced=False)
    world.run(ref(1), 900)
    (found,) = world.containers()
    assert (found.pod_name, found.container_id, found.processes) == ("pod-1", "", ())
    assert world.attribute().devices[0].stranger_count == 1


def test_what_kubelet_still_lists_of_a_pod_that_is_gone_is_not_shown() -> None:
    world = world_with_one_pod()
    world.view = view()
    assert world.containers() == ()
    world.view = view(pod(1, finished=True))
    assert world.containers() == ()


def world_where_ids_went_on(*, heir: str) -> World:
    """Pod 1 held shares 0 and 1 and has ended, which the pods view does not know: kubelet has given share 1 to `heir`."""
    world = world_with_one_pod()
    world.run(ref(1), 150)
    world.settle()
    world.view = view(pod(1), synced=False)
    world.assignments = (holds(heir, *ids("GPU-a", 1)),)
    return world


def test_an_id_that_kubelet_handed_on_is_not_the_former_holders_any_more() -> None:
    former, heir = world_where_ids_went_on(heir="pod-2").containers()
    assert (former.pod_name, former.devices[0].meta_devices) == ("pod-1", ids("GPU-a", 0))
    assert (heir.pod_name, heir.devices[0].meta_devices) == ("pod-2", ids("GPU-a", 1))


def test_the_former_holders_limit_is_what_it_was() -> None:
    former, _ = world_where_ids_went_on(heir="pod-2").containers()
    assert (former.devices[0].limit_bytes, former.devices[0].shares) == (200 * MIB, 2)


def test_an_id_that_kubelet_tells_of_several_pods_is_everybodys_it_tells_of() -> None:
    world = world_where_ids_went_on(heir="pod-2")
    world.assignments = (*world.assignments, holds("pod-3", *ids("GPU-a", 1)))
    assert [found.devices[0].meta_devices[-1:] for found in world.containers()] == [ids("GPU-a", 1)] * 3


def test_a_process_on_a_device_that_its_container_was_not_given_has_limit_zero_there() -> None:
    world = world_with_one_pod()
    world.run(ref(1), 10, "GPU-b")
    (found,) = world.containers()
    foreign = found.claim_on("GPU-b")
    assert foreign is not None
    assert (foreign.shares, foreign.requested_bytes, foreign.limit_bytes, foreign.over_limit) == (0, 0, 0, True)
    own = found.claim_on("GPU-a")
    assert own is not None
    assert not own.over_limit


def test_a_device_that_is_left_alone_is_not_our_business() -> None:
    world = world_with_one_pod()
    world.inventory = Inventory((shared("GPU-a"),), left_alone=(Device("GPU-b", 1, "Tesla V100", 1000 * MIB),))
    world.run(ref(1), 10, "GPU-b")
    (found,) = world.containers()
    assert [claim.uuid for claim in found.devices] == ["GPU-a"]


def test_a_foreign_device_is_no_reason_before_kubelet_has_told_what_the_container_holds() -> None:
    world = world_with_one_pod()
    world.read_books()
    world.run(ref(1), 10, "GPU-b")
    world.observe()
    (found,) = world.attribute().containers
    assert [claim.limit_bytes for claim in found.devices] == [None]


def test_two_containers_of_one_pod_are_judged_each_by_itself() -> None:
    world = world_with_one_pod()
    world.view = view(pod(1, Container("one", cid(1)), Container("two", cid(2))))
    world.assignments = (
        holds("pod-1", *ids("GPU-a", 0, 1), container="one"),
        holds("pod-1", *ids("GPU-a", 2, 3, 4, 5), container="two"),
    )
    world.run(ref(1, 1), 250)
    world.run(ref(1, 2), 250)
    one, two = world.containers()
    assert one.devices[0].over_limit
    assert not two.devices[0].over_limit


def test_a_running_init_container_is_shown_and_never_judged() -> None:
    world = world_with_one_pod()
    world.view = view(pod(1, Container("init", cid(9))))
    world.run(ref(1, 9), 900)
    world.run(ref(1, 9), 900, "GPU-b")
    found = next(found for found in world.containers() if found.container_name == "init")
    assert [claim.limit_bytes for claim in found.devices] == [None, None]
    assert not any(claim.over_limit for claim in found.devices)


def test_a_container_that_kubelet_lists_with_nothing_has_limit_zero_when_its_pod_holds_shares() -> None:
    world = world_with_one_pod()
    world.view = view(pod(1, Container("main", cid(1)), Container("side", cid(2))))
    world.assignments = (*world.assignments, holds("pod-1", container="side"))
    world.run(ref(1, 2), 5)
    side = next(found for found in world.containers() if found.container_name == "side")
    assert side.devices[0].over_limit


def test_pods_that_use_other_resources_are_strangers() -> None:
    world = world_with_one_pod()
    world.view = view(pod(1), pod(2))
    world.assignments = (*world.assignments, holds("pod-2"))
    world.run(ref(2), 900)
    assert [found.pod_name for found in world.containers()] == ["pod-1"]
    assert world.attribute().devices[0].stranger_count == 1


def test_processes_outside_of_kubernetes_are_strangers() -> None:
    world = world_with_one_pod()
    world.run(None, 900)
    (found,) = world.containers()
    assert found.processes == ()
    device = world.attribute().devices[0]
    assert (device.process_count, device.stranger_count) == (1, 1)


def test_an_empty_container_id_matches_nothing() -> None:
    world = world_with_one_pod()
    world.view = view(pod(1, Container("main", "")))
    world.run(ContainerRef(uid(1), ""), 900)
    world.run(ContainerRef("", cid(1)), 900)
    (found,) = world.containers()
    assert found.processes == ()


def test_a_process_that_vanished_before_it_was_inspected_is_a_stranger() -> None:
    world = world_with_one_pod()
    pid = world.run(ref(1), 900)
    world.settle()
    del world.hosts[pid]
    (found,) = world.attribute().containers
    assert found.processes == ()


def test_a_disbelieved_listing_is_not_put_down_to_the_process_with_that_pid() -> None:
    world = world_with_one_pod()
    world.disbelieved = frozenset({("GPU-a", world.run(ref(1), 900))})
    (found,) = world.containers()
    assert found.processes == ()


def test_unknown_memory_stays_unknown_and_the_known_sum_alone_can_convict() -> None:
    world = world_with_one_pod()
    world.run(ref(1), None)
    world.run(ref(1), 150)
    (claim,) = world.containers()[0].devices
    assert (claim.used_bytes, claim.known_bytes, claim.over_limit) == (None, 150 * MIB, False)
    world.run(ref(1), 60)
    assert world.containers()[0].devices[0].over_limit


def test_a_device_without_a_process_list_has_unknown_use() -> None:
    world = world_with_one_pod()
    world.listed["GPU-a"] = Fault("Unknown Error")
    (claim,) = world.containers()[0].devices
    assert (claim.used_bytes, claim.over_limit) == (None, False)
    assert world.attribute().devices[0].fault == "Unknown Error"


def test_shares_of_one_resource_differ_in_size_from_device_to_device() -> None:
    world = World(shared("GPU-a", mib=32_000, shares=400), shared("GPU-b", mib=40_000, shares=400))
    world.view = view(pod(1))
    world.assignments = (holds("pod-1", *ids("GPU-a", *range(40)), *ids("GPU-b", *range(40))),)
    (found,) = world.containers()
    assert [claim.limit_bytes for claim in found.devices] == [3200 * MIB, 4000 * MIB]


def test_a_valid_annotation_raises_the_limit_and_leaves_the_request() -> None:
    world = world_with_one_pod()
    world.view = view(pod(1, annotations={f"gpu-mem-limit.{RESOURCE}": "5"}))
    world.run(ref(1), 400)
    (claim,) = world.containers()[0].devices
    assert (claim.requested_bytes, claim.limit_bytes, claim.over_limit) == (200 * MIB, 500 * MIB, False)


def test_an_annotation_over_the_cap_is_cut_and_the_owner_is_told() -> None:
    world = world_with_one_pod()
    world.max_overcommit = 2.0
    world.view = view(pod(1, annotations={f"gpu-mem-limit.{RESOURCE}": "9"}))
    assert world.containers()[0].devices[0].limit_bytes == 400 * MIB
    ((told, notice),) = world.attribute().notices
    assert told.uid == uid(1)
    assert "above the 4 shares" in notice.message


def test_an_unreadable_annotation_is_ignored_and_the_owner_is_told() -> None:
    world = world_with_one_pod()
    world.view = view(pod(1, annotations={f"gpu-mem-limit.{RESOURCE}": "lots"}))
    assert world.containers()[0].devices[0].limit_bytes == 200 * MIB
    assert len(world.attribute().notices) == 1


def test_a_partition_has_its_own_limit_whatever_its_parent_shows() -> None:
    small = partition("MIG-3", "GPU-p", 3, mib=19_968, shares=200)
    large = partition("MIG-2", "GPU-p", 2, mib=40_192, shares=400)
    world = World(large, small)
    parent = Device("GPU-p", 0, "NVIDIA A100", 81_920 * MIB, mig_mode=True)
    world.inventory = Inventory((large, small), left_alone=(parent,))
    world.view = view(pod(1))
    world.assignments = (holds("pod-1", *ids("MIG-3", *range(100))),)
    pid = world.run(ref(1), 9000, "MIG-3")
    world.listed["GPU-p"] = ()
    world.use(pid, 9000, "GPU-p")
    (found,) = world.containers()
    (claim,) = found.devices
    assert (claim.uuid, claim.limit_bytes, claim.used_bytes) == ("MIG-3", 9984 * MIB, 9000 * MIB)


def test_shares_of_a_device_that_is_lost_are_shown_without_a_limit() -> None:
    world = world_with_one_pod()
    world.assignments = (holds("pod-1", *ids("GPU-lost", 0, 1, 2)),)
    (claim,) = world.containers()[0].devices
    assert (claim.uuid, claim.shares, claim.limit_bytes, claim.used_bytes) == ("GPU-lost", 3, None, None)


def test_devices_tell_how_many_of_their_shares_are_taken() -> None:
    world = world_with_one_pod(0, 1, 7)
    assert world.attribute().devices[0].shares_taken is None
    world.settle()
    assert [device.shares_taken for device in world.attribute().devices] == [3, 0]
