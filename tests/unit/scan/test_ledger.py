"""The ledger: when it is certain what a container holds, and for how long it stays so."""

from dataclasses import replace

import pytest

from mortalgpu.kubelet.base import CheckpointEntry
from mortalgpu.model.pod import Container, ContainerRef
from mortalgpu.scan.ledger import Alive, Reading
from tests.unit.scan.making import World, cid, holds, ids, pod, ref, uid, view


def bound(world: World, number: int = 1, container: int | None = None) -> Alive:
    """The container as the ledger knows it."""
    return next(found for found in world.ledger.alive() if found.ref == ref(number, container))


def shares_of(alive: Alive) -> int | None:
    """How many shares it is known to hold."""
    return sum(held.shares for held in alive.binding.entry.held) if alive.binding and alive.binding.entry else None


def world_with_one_pod() -> World:
    world = World()
    world.view = view(pod(1))
    world.assignments = (holds("pod-1", *ids("GPU-a", 0, 1)),)
    return world


def test_a_container_is_bound_by_a_reading_that_began_after_it_was_seen() -> None:
    world = world_with_one_pod()
    world.settle()
    assert shares_of(bound(world)) == 2


def test_a_reading_from_before_the_container_was_seen_proves_nothing() -> None:
    world = world_with_one_pod()
    world.read_books()
    assert world.observe()
    assert bound(world).binding is None


def test_a_reading_made_while_the_pods_were_out_of_sync_proves_nothing() -> None:
    world = world_with_one_pod()
    world.observe()
    world.now += 1
    world.ledger.take(Reading(world.assignments, world.now, view(pod(1), synced=False)))
    assert world.observe()
    assert bound(world).binding is None


def test_nothing_is_bound_while_the_pods_are_out_of_sync() -> None:
    world = world_with_one_pod()
    world.observe()
    world.read_books()
    world.view = view(pod(1), synced=False)
    assert not world.observe()
    assert bound(world).binding is None


def test_a_binding_survives_the_loss_of_every_source() -> None:
    world = world_with_one_pod()
    world.run(ref(1), 10)
    world.settle()
    world.view = view(synced=False)
    world.assignments = ()
    world.read_books()
    world.observe()
    assert shares_of(bound(world)) == 2


def test_a_later_reading_that_says_otherwise_does_not_change_what_a_running_container_holds() -> None:
    world = world_with_one_pod()
    world.settle()
    world.assignments = (holds("pod-1", *ids("GPU-a", 5, 6, 7)),)
    world.settle()
    assert shares_of(bound(world)) == 2


def test_a_binding_does_not_follow_a_name_to_another_pod() -> None:
    world = world_with_one_pod()
    world.run(ref(1), 10)
    world.settle()
    world.assignments = (holds("pod-1", *ids("GPU-a", 5)),)
    world.view = view(pod(2, name="pod-1"))
    world.settle()
    assert shares_of(bound(world, 1)) == 2


def test_a_pod_created_again_beside_its_dying_namesake_is_not_known_until_that_is_gone() -> None:
    world = world_with_one_pod()
    old = world.run(ref(1), 10)
    world.settle()
    world.view = view(pod(2, name="pod-1"))
    world.assignments = (holds("pod-1", *ids("GPU-a", 5)),)
    world.settle()
    assert bound(world, 2).binding is None
    del world.hosts[old]
    world.settle()
    assert shares_of(bound(world, 2)) == 1


def test_two_pods_of_one_name_in_the_view_are_not_told_apart() -> None:
    world = world_with_one_pod()
    world.view = view(pod(1), pod(2, name="pod-1"))
    world.settle()
    assert bound(world, 1).binding is None
    assert bound(world, 2).binding is None


def test_a_finished_namesake_does_not_hide_the_living_pod() -> None:
    world = world_with_one_pod()
    world.view = view(pod(1), pod(2, name="pod-1", finished=True))
    world.settle()
    assert shares_of(bound(world, 1)) == 2


def test_two_entries_of_one_name_that_differ_prove_nothing() -> None:
    world = world_with_one_pod()
    world.assignments = (holds("pod-1", *ids("GPU-a", 0)), holds("pod-1", *ids("GPU-a", 1)))
    world.settle()
    assert bound(world).binding is None
    assert world.ledger.entries == ()


def test_two_entries_of_one_name_that_agree_are_one() -> None:
    world = world_with_one_pod()
    world.assignments = (holds("pod-1", *ids("GPU-a", 0)),) * 2
    world.settle()
    assert shares_of(bound(world)) == 1


def test_a_container_that_kubelet_does_not_list_stays_unknown_and_is_tried_again() -> None:
    world = world_with_one_pod()
    world.view = view(pod(1, Container("init", cid(9)), Container("main", cid(1))))
    world.settle()
    unlisted = bound(world, 1, 9)
    assert unlisted.binding is not None
    assert unlisted.binding.entry is None
    assert unlisted.binding.pod_holds
    world.assignments = (*world.assignments, holds("pod-1", *ids("GPU-a", 7), container="init"))
    world.settle()
    assert shares_of(bound(world, 1, 9)) == 1


def world_with_an_init_container(*booked: CheckpointEntry) -> World:
    world = world_with_one_pod()
    world.view = view(pod(1, Container("init", cid(9)), Container("main", cid(1), running=False)))
    world.checkpoint = booked
    return world


def test_an_init_container_holds_what_kubelets_checkpoint_says_of_it() -> None:
    world = world_with_an_init_container(CheckpointEntry("mortalgpu/v100", ids("GPU-a", 0, 1, 2), "", uid(1), "init"))
    world.settle()
    assert shares_of(bound(world, 1, 9)) == 3


@pytest.mark.parametrize(("pod_uid", "container"), [(uid(2), "init"), (uid(1), "main"), ("", "init"), (uid(1), "")])
def test_the_checkpoint_says_nothing_of_a_container_by_another_name_or_pod(pod_uid: str, container: str) -> None:
    world = world_with_an_init_container(CheckpointEntry("mortalgpu/v100", ids("GPU-a", 0), "", pod_uid, container))
    world.settle()
    assert shares_of(bound(world, 1, 9)) is None


def test_a_container_of_which_kubelets_list_and_checkpoint_disagree_is_unknown_until_they_agree() -> None:
    world = world_with_one_pod()
    world.checkpoint = (CheckpointEntry("mortalgpu/v100", ids("GPU-a", 5), "", uid(1), "main"),)
    world.settle()
    assert bound(world).binding is None
    world.checkpoint = (CheckpointEntry("mortalgpu/v100", ids("GPU-a", 1, 0), "", uid(1), "main"),)
    world.settle()
    assert shares_of(bound(world)) == 2


def test_a_checkpoint_read_before_the_container_was_seen_proves_nothing() -> None:
    world = world_with_an_init_container(CheckpointEntry("mortalgpu/v100", ids("GPU-a", 0), "", uid(1), "init"))
    world.read_books()
    assert world.observe()
    assert bound(world, 1, 9).binding is None


def test_a_container_that_nobody_names_is_remembered_without_a_binding() -> None:
    world = World()
    world.run(ref(1), 10)
    assert not world.observe()
    assert bound(world).pod is None


def test_a_restarted_container_is_a_new_container() -> None:
    world = world_with_one_pod()
    world.settle()
    world.view = view(pod(1, Container("main", cid(9))))
    assert world.observe()
    assert bound(world, 1, 9).binding is None
    assert [found.ref for found in world.ledger.alive()] == [ref(1, 9)]


def test_a_container_that_is_gone_is_forgotten() -> None:
    world = world_with_one_pod()
    pid = world.run(ref(1), 10)
    world.settle()
    world.view = view()
    world.observe()
    assert list(world.ledger.alive())
    del world.hosts[pid]
    world.observe()
    assert not list(world.ledger.alive())


@pytest.mark.parametrize("broken", [ContainerRef("", cid(1)), ContainerRef(uid(1), "")])
def test_an_empty_id_is_never_a_container(broken: ContainerRef) -> None:
    world = world_with_one_pod()
    world.view = view(pod(1, Container("main", "")))
    world.run(broken, 10)
    world.settle()
    assert not list(world.ledger.alive())


def test_ids_that_are_no_meta_devices_are_not_counted_and_a_repeated_id_counts_once() -> None:
    world = world_with_one_pod()
    world.assignments = (
        holds("pod-1", "GPU-a::0", "GPU-a::0", "GPU-a::01", "GPU-a", "::3", "GPU-a::x", "GPU-a::10", "GPU-a::9"),
    )
    world.settle()
    binding = bound(world).binding
    assert binding is not None
    assert binding.entry is not None
    assert binding.entry.held[0].meta_devices == ("GPU-a::0", "GPU-a::9", "GPU-a::10")


def test_an_id_that_two_resources_claim_is_worth_one_share() -> None:
    world = world_with_one_pod()
    (once,) = world.assignments
    (held,) = once.meta_devices.values()
    world.assignments = (replace(once, meta_devices={**once.meta_devices, "another/resource": held}),)
    world.settle()
    assert shares_of(bound(world)) == len(held) == 2
