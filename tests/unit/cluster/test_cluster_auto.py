"""Which source is in force: decided purely, and followed in virtual time with two twins."""

from dataclasses import replace

import pytest
import trio

from mortalgpu.cluster.auto import AutoCluster, choose
from mortalgpu.cluster.base import NO_PODS, PodsView
from mortalgpu.model.pod import Container, Pod, PodNote
from mortalgpu.simulation.cluster import SimulatedCluster

OLD, NEW = Container("main", "a" * 64), Container("side", "b" * 64)
API_POD = Pod("u", "p", "n", (OLD,), {"gpu-mem-limit.r/x": "2"}, "mirror")
CRI_POD = Pod("u", "p", "n", (OLD, NEW), {"gpu-mem-limit.r/x": "1"})


def view(source: str, *pods: Pod, synced: bool = True, as_of: float = 1.0, trouble: str = "") -> PodsView:
    return PodsView({pod.uid: pod for pod in pods}, synced, as_of, source, trouble)


def test_the_api_in_sync_is_the_truth_and_the_runtime_only_adds_containers_it_knows_first() -> None:
    stranger = Pod("stranger", "s", "n")
    chosen = choose(view("kubernetes", API_POD), view("cri", CRI_POD, stranger))
    assert chosen == view("kubernetes", replace(API_POD, containers=(OLD, NEW)))


def test_a_finished_pod_gets_no_containers_back() -> None:
    ended = replace(API_POD, finished=True)
    assert choose(view("kubernetes", ended), view("cri", CRI_POD)).pods["u"] == ended


def test_the_runtime_stands_in_with_what_the_api_last_said_of_annotations_and_uids() -> None:
    chosen = choose(view("kubernetes", API_POD, synced=False, trouble="down"), view("cri", CRI_POD))
    assert chosen == view("cri", replace(CRI_POD, annotations=API_POD.annotations, api_uid="mirror"), trouble="down")


@pytest.mark.parametrize(("api_at", "cri_at", "source"), [(5.0, 3.0, "kubernetes"), (3.0, 5.0, "cri")])
def test_when_neither_answers_the_more_recent_truth_stands_marked_stale(api_at: float, cri_at: float, source: str) -> None:
    api = view("kubernetes", API_POD, synced=False, as_of=api_at, trouble="api down")
    chosen = choose(api, view("cri", CRI_POD, synced=False, as_of=cri_at, trouble="socket gone"))
    assert (chosen.synced, chosen.source) == (False, source)
    assert "api down" in chosen.trouble
    assert "socket gone" in chosen.trouble


def test_before_anything_is_known_nothing_is_claimed() -> None:
    assert choose(NO_PODS, NO_PODS) == NO_PODS


class Pair:
    def __init__(self, **settings: float) -> None:
        self.api = SimulatedCluster(trio.current_time)
        self.cri = SimulatedCluster(trio.current_time, source="cri")
        self.auto = AutoCluster(self.api, self.cri, **settings)


async def test_an_api_that_is_down_at_the_start_is_replaced_at_once(autojump_clock: trio.testing.MockClock) -> None:
    pair = Pair()
    pair.api.fail("down")
    pair.cri.put(CRI_POD)
    async with pair.auto.pods() as views:
        began = trio.current_time()
        async for seen in views:
            if seen.synced:
                break
        assert (seen.source, trio.current_time() - began) == ("cri", 0)


async def test_a_short_absence_of_the_api_does_not_bother_the_runtime(autojump_clock: trio.testing.MockClock) -> None:
    pair = Pair(patience_seconds=5)
    pair.api.put(API_POD)
    async with pair.auto.pods():
        await trio.sleep(1)
        asked = pair.cri.counts().lists
        pair.api.fail("hiccup")
        await trio.sleep(4)
        pair.api.recover()
        await trio.sleep(60)
        assert pair.cri.counts().lists == asked


async def test_a_long_absence_turns_to_the_runtime_and_the_api_is_in_force_again_when_it_returns(
    autojump_clock: trio.testing.MockClock,
) -> None:
    pair = Pair(patience_seconds=5)
    pair.api.put(API_POD)
    pair.cri.put(CRI_POD)
    async with pair.auto.pods() as views:
        await trio.sleep(1)
        pair.api.fail("down")
        began = trio.current_time()
        async for seen in views:
            if seen.source == "cri" and seen.synced:
                break
        assert trio.current_time() - began == 5
        pair.api.recover()
        async for seen in views:
            if seen.source == "kubernetes" and seen.synced:
                break
        await trio.sleep(1)
        asked = pair.cri.counts().lists
        pair.cri.put(replace(CRI_POD, name="renamed"))
        await trio.sleep(100)
        assert pair.cri.counts().lists == asked


async def test_an_unknown_container_is_looked_for_at_the_runtime_while_the_api_is_in_sync(
    autojump_clock: trio.testing.MockClock,
) -> None:
    pair = Pair(closer_look_seconds=10)
    pair.api.put(API_POD)
    pair.cri.put(CRI_POD)
    async with pair.auto.pods() as views:
        await trio.sleep(1)
        pair.auto.refresh()
        began = trio.current_time()
        async for seen in views:
            if "u" in seen.pods and NEW in seen.pods["u"].containers:
                break
        assert (seen.source, trio.current_time() - began) == ("kubernetes", 0)
        await trio.sleep(11)
        asked = pair.cri.counts().lists
        pair.auto.refresh()
        await trio.sleep(1)
        assert pair.cri.counts().lists == asked + 1


async def test_notes_go_to_the_api_even_while_the_runtime_is_in_force(autojump_clock: trio.testing.MockClock) -> None:
    pair = Pair()
    pair.api.fail("down")
    async with pair.auto.pods():
        await trio.sleep(1)
        pair.auto.note(API_POD, PodNote("R", "text"))
        pair.auto.node_note(PodNote("R", "text"))
    assert [taken.pod for taken in pair.api.notes] == [API_POD, None]
    assert pair.cri.notes == []
