"""Memory over the limit by every way a tenant has to spread, hide, hurry or rename it: on the twins, in virtual time.

In each test a victim uses all that it was granted on the same device, and lives.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from mortalgpu.host.base import HostProcess
from mortalgpu.model.pod import ContainerRef
from mortalgpu.scan.scanner import ScanSettings
from mortalgpu.simulation.host import Temper
from tests.campaign import Tally
from tests.unit.scan.making import RESOURCE, holds, ids, pod, ref
from tests.unit.scan.node import Node, enforcing, looks

pytestmark = pytest.mark.hostile

KEY = f"gpu-mem-limit.{RESOURCE}"
TENANT, VICTIM = 1, 2
ANNOTATIONS = (
    "", " ", "3.5", "1e9", "-1", "-99999999999", "+9", "0x9", "NaN", "nan", "inf", "Infinity", "-0", "9 9", "9,9", "9_9",
    "\u0669", "\u096f", "\uff19", "\u2468", "\u00b2", "9\0", "9\n", "\x1b[2J9", "9" * 10, "9" * 1_000, "9" * 100_000,
    "0" * 100_000 + "9", "true", "null", "[9]", '{"a":9}', "9; 9",
)  # fmt: skip
"""Of 2 shares requested, and none above them allowed."""


@asynccontextmanager
async def node_with_victim(scan: ScanSettings | None = None) -> AsyncIterator[tuple[Node, ContainerRef, HostProcess]]:
    """A node with a tenant that has 2 shares (200 MiB) of GPU-a, and a victim that uses all of its own 3."""
    node = Node()
    tenant = node.add_pod(TENANT, 2)
    victim = node.run(node.add_pod(VICTIM, 3, first=2), 300)
    async with enforcing(node, scan=scan):
        await looks(10)
        yield node, tenant, victim
        await looks(60)
    assert victim.pid not in node.killed
    assert node.host.running(victim.pid)


@pytest.mark.parametrize("text", ANNOTATIONS, ids=range(len(ANNOTATIONS)))
async def test_no_annotation_goes_beyond_what_the_operator_allows(autojump_clock: object, tally: Tally, text: str) -> None:
    async with node_with_victim(ScanSettings(max_overcommit=1)) as (node, tenant, _):
        for key in (KEY, KEY.upper(), f"{KEY} ", "gpu-mem-limit.*", "gpu-mem-limit."):
            annotated = pod(TENANT, annotations={key: text})
            node.show(*(annotated if each.uid == annotated.uid else each for each in node.pods.value.pods.values()))
            within, over = node.run(tenant, 199), node.run(tenant, None)
            await looks(5)
            node.hold(over.pid, 2)
            await looks(10)
            assert node.killed[-1] == within.pid
            node.host.exit(over.pid)
            await looks(10)
            tally.add("attacks")
        for _, note in node.cluster.notes:
            assert note.message.isprintable()
            assert len(note.message) < 1000


@pytest.mark.parametrize(("allowed", "limit_mib"), [(1.5, 300), (2, 400), (0, 1000)])
async def test_a_giant_annotation_gets_what_the_operator_allows_or_the_device(
    autojump_clock: object, tally: Tally, allowed: float, limit_mib: int
) -> None:
    async with node_with_victim(ScanSettings(max_overcommit=allowed)) as (node, tenant, _):
        annotated = pod(TENANT, annotations={KEY: "9" * 50})
        node.show(*(annotated if each.uid == annotated.uid else each for each in node.pods.value.pods.values()))
        process = node.run(tenant, limit_mib)
        await looks(20)
        assert node.killed == []
        node.hold(process.pid, limit_mib + 1)
        await looks(20)
        assert node.killed == [process.pid]
    tally.add("attacks")


@pytest.mark.parametrize("parts", [2, 20, 200])
async def test_memory_in_many_parts_is_as_much_as_in_one(autojump_clock: object, tally: Tally, parts: int) -> None:
    async with node_with_victim() as (node, tenant, _):
        too_many = max(1, parts // 5)
        for _ in range(parts + too_many):
            node.run(tenant, 200 // parts)
        await looks(100 + 3 * parts)
        assert len(node.killed) == too_many
    tally.add("attacks")


@pytest.mark.parametrize(
    ("high_seconds", "low_seconds"), [(0.05, 0.06), (0.03, 0.11), (0.15, 0.01), (0.09, 0.13), (0.02, 0.35)]
)
async def test_who_grows_and_shrinks_faster_than_the_look_is_caught_on_a_height(
    autojump_clock: object, tally: Tally, high_seconds: float, low_seconds: float
) -> None:
    async with node_with_victim() as (node, tenant, _):
        process = node.run(tenant, 100)
        with trio.move_on_after(20):
            while node.host.running(process.pid):
                node.hold(process.pid, 250)
                await trio.sleep(high_seconds)
                if node.host.running(process.pid):
                    node.hold(process.pid, 100)
                    await trio.sleep(low_seconds)
        assert node.killed == [process.pid]
    tally.add("attacks")


@pytest.mark.parametrize("uuids", [("GPU-b",), ("GPU-a", "GPU-b")])
async def test_a_device_of_which_it_holds_nothing_is_not_its_whatever_its_environment_says(
    autojump_clock: object, tally: Tally, uuids: tuple[str, ...]
) -> None:
    async with node_with_victim() as (node, tenant, _):
        process = node.run(tenant, 1, uuids[0])
        for uuid in uuids[1:]:
            node.hold(process.pid, 1, uuid)
        honest = node.run(tenant, 150)
        await looks(20)
        assert node.killed == [process.pid]
        assert node.host.running(honest.pid)
    tally.add("attacks")


async def test_a_process_that_cannot_be_ended_shields_the_others_for_seconds_only(autojump_clock: object, tally: Tally) -> None:
    async with node_with_victim() as (node, tenant, _):
        node.run(tenant, 190, temper=Temper(kill_seconds=1e9))
        second = node.run(tenant, 180)
        await looks(80)
        assert node.host.running(second.pid)
        node.hold(second.pid, 201)
        await looks(20)
        assert not node.host.running(second.pid)
    tally.add("attacks")


async def test_who_ignores_the_polite_signal_is_ended(autojump_clock: object, tally: Tally) -> None:
    async with node_with_victim() as (node, tenant, _):
        process = node.run(tenant, 250, temper=Temper(term_seconds=1e9))
        await looks(20)
        assert not node.host.running(process.pid)
    tally.add("attacks")


async def test_a_number_that_changed_hands_brings_nobody_the_memory_of_the_dead(autojump_clock: object, tally: Tally) -> None:
    async with node_with_victim() as (node, tenant, _):
        node.lingering = 5
        mine = node.run(tenant, 150)
        await looks(10)
        heir = node.host.reuse(mine.pid, ref(VICTIM))
        await looks(30)
        assert node.host.running(heir.pid)
        assert node.killed == []
    tally.add("attacks")


async def test_a_pod_made_again_under_its_name_gives_the_old_ones_processes_nothing(
    autojump_clock: object, tally: Tally
) -> None:
    async with node_with_victim() as (node, tenant, _):
        old = node.run(tenant, 150)
        await looks(10)
        again = pod(7, name="pod-1")
        node.kubelet.books = (holds("pod-1", *ids("GPU-a", *range(5, 10))), holds("pod-2", *ids("GPU-a", 2, 3, 4)))
        node.show(again, pod(VICTIM))
        new = node.run(ref(7), 190)
        await looks(40)
        node.hold(old.pid, 201)
        await looks(20)
        assert node.killed == [old.pid]
        assert node.host.running(new.pid)
    tally.add("attacks")


async def test_a_namesake_in_another_namespace_has_only_its_own(autojump_clock: object, tally: Tally) -> None:
    async with node_with_victim() as (node, _, __):
        namesake = replace(pod(8, name="pod-2"), namespace="theirs")
        books = replace(holds("pod-2", *ids("GPU-a", 9)), pod_namespace="theirs")
        node.kubelet.books = (*node.kubelet.books, books)
        node.show(*node.pods.value.pods.values(), namesake)
        process = node.run(ref(8), 100)
        await looks(20)
        assert node.killed == []
        node.hold(process.pid, 101)
        await looks(20)
        assert node.killed == [process.pid]
    tally.add("attacks")
