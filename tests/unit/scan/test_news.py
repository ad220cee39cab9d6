"""What the node's Events say of devices, and what they do not repeat."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from mortalgpu.latest import Latest
from mortalgpu.model.device import Health
from mortalgpu.model.pod import PodNote
from mortalgpu.model.share import Inventory, LayoutNotice
from mortalgpu.scan import news
from mortalgpu.simulation.cluster import SimulatedCluster
from tests.unit.scan.making import partition, shared

GPU = shared("GPU-a")
PARTS = (
    partition("MIG-1", "GPU-p", 1, mib=1000, shares=10),
    partition("MIG-2", "GPU-p", 2, mib=1000, shares=10),
)


def node(sick: Mapping[str, str] | None = None, *notices: LayoutNotice) -> Inventory:
    """A GPU and two partitions of another, these sick for these reasons."""
    return Inventory((GPU, *PARTS), (), {uuid: Health(False, reason, 1.0) for uuid, reason in (sick or {}).items()}, notices)


def reasons(notes: list[PodNote]) -> list[tuple[str, bool]]:
    return [(note.reason, note.warning) for note in notes]


def test_a_gpu_that_falls_sick_is_a_warning_with_its_cause() -> None:
    (note,) = news.changes(node(), node({"GPU-a": "XID 79"}))
    assert note.warning
    assert note.reason == "GpuUnhealthy"
    assert "GPU-a" in note.message
    assert "XID 79" in note.message


def test_all_partitions_of_a_failed_gpu_are_one_note_that_names_them() -> None:
    sick = {"MIG-1": "its GPU: XID 79", "MIG-2": "its GPU: XID 79"}
    (note,) = news.changes(node(), node(sick))
    assert note.message.startswith("GPU 0 (NVIDIA A100, GPU-p), partitions MIG-1, MIG-2: XID 79.")


def test_two_causes_are_two_notes() -> None:
    assert len(news.changes(node(), node({"MIG-1": "XID 94", "MIG-2": "GPU is lost"}))) == 2


@pytest.mark.parametrize("sick", [{}, {"GPU-a": "XID 79"}])
def test_what_has_not_changed_is_no_news(sick: dict[str, str]) -> None:
    assert news.changes(node(sick), node(sick)) == []


def test_another_cause_is_news_and_recovery_is_no_warning() -> None:
    assert reasons(news.changes(node({"GPU-a": "XID 79"}), node({"GPU-a": "GPU is lost"}))) == [("GpuUnhealthy", True)]
    assert reasons(news.changes(node({"GPU-a": "XID 79"}), node())) == [("GpuHealthy", False)]


def test_a_device_that_was_taken_away_did_not_recover() -> None:
    assert news.changes(node({"GPU-a": "XID 79"}), Inventory(PARTS)) == []


@pytest.mark.parametrize(("notice", "words"), [
    (LayoutNotice("GPU-a", "r", 10, 20, 4), "20 shares are configured, but it stays cut into 10 of r while containers hold 4"),
    (LayoutNotice("GPU-a", "r", 10, 0, 4), "it is no longer to be shared"),
    (LayoutNotice("GPU-a", "r", 10, 20, 0), "while containers may hold some of them"),
])  # fmt: skip
def test_a_layout_that_waits_is_told_once_and_again_when_it_takes_over(notice: LayoutNotice, words: str) -> None:
    (note,) = news.changes(node(), node({}, notice))
    assert words in note.message
    assert news.changes(node({}, notice), node({}, replace(notice, held=notice.held + 1))) == []
    assert reasons(news.changes(node({}, notice), node())) == [("GpuShareLayoutInForce", False)]


async def test_the_service_notes_each_change_on_the_node(autojump_clock: MockClock) -> None:
    cluster, inventory = SimulatedCluster(trio.current_time), Latest(node({"GPU-a": "XID 79"}))
    async with trio.open_nursery() as nursery:
        await nursery.start(news.serve, inventory, cluster)
        await wait_all_tasks_blocked()
        inventory.publish(node())
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert reasons([taken.note for taken in cluster.notes if taken.pod is None]) == [
        ("GpuUnhealthy", True),
        ("GpuHealthy", False),
    ]
