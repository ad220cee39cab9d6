"""Sick GPUs, seen by kubelet: in time, all shares and no other ones, with the right reason, and back by themselves."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import trio

from mortalgpu.model.device import Device
from mortalgpu.scan.health import DEFAULT_XIDS, IGNORE, UNTIL_CLEAR, UNTIL_RESET
from mortalgpu.simulation.driver import A100_UUID, partition_uuid, v100_uuid, worked_example
from tests.scenario.sick_node import BACK_SECONDS, QUIET_SECONDS, SickNode, sick_node
from tests.standin.nvml import Event, StateFile

GPU_0, GPU_1 = v100_uuid(0), v100_uuid(1)
PARTITIONS = tuple(partition_uuid(gi_id) for gi_id in (2, 3, 9, 10))
EVERYTHING = (GPU_0, GPU_1, *PARTITIONS)
PROBE_SECONDS = 0.5
MEMORY, WAIT = "nvmlDeviceGetMemoryInfo_v2", "nvmlEventSetWait_v2"


def _nothing(_driver: StateFile) -> None:
    """It gets well without anybody's doing."""


@dataclass(frozen=True)
class Case:
    """What goes wrong, whom it hits, what is said of it, and how it ends."""

    name: str
    strike: Callable[[StateFile], None]
    hit: tuple[str, ...]
    reason: str
    mend: Callable[[StateFile], None] = _nothing


CASES = (
    Case("an XID of a GPU", lambda driver: driver.push_event(GPU_0, data=63), (GPU_0,), "XID 63"),
    Case("an XID of a partitioned GPU", lambda driver: driver.push_event(A100_UUID, data=63), PARTITIONS, "its GPU: XID 63"),
    Case(
        "an XID of one partition",
        lambda driver: driver.push_event(A100_UUID, data=94, gi=3, ci=0),
        (partition_uuid(3),),
        "XID 94",
    ),
    Case("a lost GPU", lambda driver: driver.lose(GPU_1), (GPU_1,), "lost", lambda driver: driver.restore(GPU_1)),
    Case(
        "a lost GPU with partitions",
        lambda driver: driver.lose(A100_UUID),
        PARTITIONS,
        "lost",
        lambda driver: driver.restore(A100_UUID),
    ),
    Case(
        "a GPU in which a call hangs",
        lambda driver: driver.add_fault(MEMORY, GPU_0, hang=0),
        (GPU_0,),
        "does not answer",
        StateFile.clear_faults,
    ),
    Case(
        "a partition in which a call hangs",
        lambda driver: driver.add_fault(MEMORY, partition_uuid(9), hang=0),
        PARTITIONS,
        "does not answer",
        StateFile.clear_faults,
    ),
    Case(
        "a driver in which every call hangs",
        lambda driver: driver.add_fault(MEMORY, hang=0),
        EVERYTHING,
        "did not return within",
        StateFile.clear_faults,
    ),
    Case(
        "a GPU whose calls fail",
        lambda driver: driver.add_fault(MEMORY, GPU_0, error=999),
        (GPU_0,),
        "unknown",
        StateFile.clear_faults,
    ),
    Case("a driver restarted under us", StateFile.reload_driver, EVERYTHING, "driver:"),
    Case("a driver that was unloaded", StateFile.unload_driver, EVERYTHING, "driver:", StateFile.reload_driver),
)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_a_fault_is_marked_in_time_on_all_it_hits_and_on_nothing_else_and_passes(
    case: Case, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with sick_node(worked_example(2), monkeypatch) as node:
        case.strike(node.driver)
        await node.falls_sick(case.hit)
        reasons = node.reasons()
        assert set(reasons) == set(case.hit)
        assert all(case.reason in reason for reason in reasons.values()), reasons
        await _everybody_is_told(node, case, caplog)
        case.mend(node.driver)
        await node.recovers()
        assert node.notes()[-1].startswith("GpuHealthy: ")
        assert "mortalgpu_device_unhealthy_reason" not in await node.page()


async def _everybody_is_told(node: SickNode, case: Case, caplog: pytest.LogCaptureFixture) -> None:
    page = await node.page()
    for uuid in case.hit:
        (line,) = (line for line in page.splitlines() if line.startswith(f'mortalgpu_device_healthy{{device="{uuid}"'))
        assert line.endswith(" 0.0")
        assert f'mortalgpu_device_unhealthy_reason{{device="{uuid}"' in page
        assert any(note.startswith("GpuUnhealthy: ") and uuid in note for note in node.notes())
        assert uuid in [vars(record)["device"] for record in caplog.records if record.message == "device became unhealthy"]


async def test_each_xid_of_the_default_policy_does_what_the_policy_says(monkeypatch: pytest.MonkeyPatch) -> None:
    xids = {int(xid): action for xid, action in DEFAULT_XIDS.items() if xid != "default"} | {63: UNTIL_CLEAR, 94: UNTIL_CLEAR}
    gpus: tuple[Device, ...] = tuple(device for device in worked_example(len(xids)) if device.uuid.startswith("GPU-1"))
    of = dict(zip(xids, (gpu.uuid for gpu in gpus), strict=True))
    lasting = {of[xid] for xid, action in xids.items() if action == UNTIL_RESET}
    async with sick_node(gpus, monkeypatch) as node:
        events = tuple(Event(number, of[xid], "xid", xid) for number, xid in enumerate(xids, 1))
        node.driver.write(replace(node.driver.state, events=events))
        await node.falls_sick([of[xid] for xid, action in xids.items() if action != IGNORE])
        assert node.reasons() == {of[xid]: f"XID {xid}" for xid, action in xids.items() if action != IGNORE}
        await node.falls_sick(lasting, BACK_SECONDS)  # What lasts until it is clear is clear; the others wait for a reset.
        node.driver.reload_driver()
        await node.falls_sick([gpu.uuid for gpu in gpus])
        await node.recovers()


async def test_an_uncorrectable_memory_error_lasts_until_the_reset_and_a_corrected_one_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with sick_node(worked_example(2), monkeypatch) as node:
        node.driver.push_event(GPU_1, "ecc_single")
        node.driver.push_event(GPU_0, "ecc_double")
        await node.falls_sick([GPU_0])
        assert node.reasons() == {GPU_0: "uncorrectable ECC error"}
        node.driver.reload_driver()
        await node.falls_sick(EVERYTHING)
        await node.recovers()


async def test_a_gpu_that_fell_off_the_bus_is_back_once_it_was_reset_and_not_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    async with sick_node(worked_example(2), monkeypatch) as node:
        node.driver.push_event(A100_UUID, data=79)
        await node.falls_sick(PARTITIONS)
        await trio.sleep(QUIET_SECONDS + 2 * PROBE_SECONDS)
        assert node.sick() == set(PARTITIONS)
        node.driver.lose(A100_UUID)
        await trio.sleep(2 * PROBE_SECONDS)  # Nobody tells from outside that a probe has seen it gone.
        node.driver.restore(A100_UUID)
        await node.recovers()


async def test_a_policy_of_ones_own_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    health = {"xids": {"79": "ignore", "13": "untilClear", "default": "ignore"}, "quietSeconds": 0.3}
    async with sick_node(worked_example(2), monkeypatch, health=health) as node:
        for code in (79, 63):
            node.driver.push_event(GPU_1, data=code)
        node.driver.push_event(GPU_0, data=13)
        await node.falls_sick([GPU_0])
        await node.recovers()


async def test_a_storm_of_events_is_told_once_and_holds_nothing_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with sick_node(worked_example(2), monkeypatch) as node:
        codes = (*(13,) * 300, *(79, 13) * 100)
        events = tuple(Event(number, GPU_0, "xid", code) for number, code in enumerate(codes, 1))
        scans = node.facts.usage.value.counts.looks
        node.driver.write(replace(node.driver.state, events=events))
        await node.falls_sick([GPU_0])
        assert node.reasons() == {GPU_0: "XID 79"}
        told = [record for record in caplog.records if record.message == "driver reported an event"]
        assert len(told) == 2
        assert [note for note in node.notes() if note.startswith("GpuUnhealthy")][1:] == []
        while node.facts.usage.value.counts.looks <= scans:
            await node.facts.usage.wait_beyond(node.facts.usage.version)
        assert node.facts.events[GPU_0, "xid", 13] >= 300


async def test_while_waiting_for_events_fails_probes_go_on_and_events_are_heard_again_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with sick_node(worked_example(2), monkeypatch) as node:
        node.driver.add_fault(WAIT, error=999)
        node.driver.lose(GPU_1)
        await node.falls_sick([GPU_1])
        node.driver.clear_faults()
        node.driver.restore(GPU_1)
        await node.recovers()
        node.driver.push_event(GPU_0, data=63)
        await node.falls_sick([GPU_0])
        await node.recovers()


@pytest.mark.parametrize(("gpu", "hit"), [(GPU_0, (GPU_0,)), (A100_UUID, PARTITIONS)], ids=["whole", "cut"])
async def test_a_gpu_that_hangs_for_long_leaves_the_others_alone_and_is_not_taken_for_reset(
    monkeypatch: pytest.MonkeyPatch, gpu: str, hit: tuple[str, ...]
) -> None:
    often = {"deviceCacheTTL": 1}
    async with sick_node(worked_example(2), monkeypatch, enumerate_seconds=0.5, deviceManager=often) as node:
        node.driver.push_event(gpu, data=79)
        await node.falls_sick(hit)
        node.driver.add_fault(MEMORY, gpu, hang=0)
        # Long enough for several enumerations, each of which must not wait for it.
        with trio.move_on_after(8 * PROBE_SECONDS):
            while node.sick() == set(hit):
                await trio.sleep(PROBE_SECONDS / 10)
        assert node.sick() == set(hit)
        assert node.facts.driver.reopened == 0
        node.driver.clear_faults()
        await trio.sleep(QUIET_SECONDS + 4 * PROBE_SECONDS)
        assert all("XID 79" in reason for reason in node.reasons().values())
        assert node.sick() == set(hit)


async def test_an_event_wait_that_hangs_leaves_the_probes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async with sick_node(worked_example(2), monkeypatch) as node:
        node.driver.add_fault(WAIT, hang=0)
        node.driver.lose(GPU_1)
        await node.falls_sick([GPU_1])
        node.driver.clear_faults()
        node.driver.restore(GPU_1)
        await node.recovers()


async def test_a_pod_is_not_placed_on_a_sick_gpu_and_is_when_it_is_well_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with sick_node(worked_example(2), monkeypatch) as node:
        node.driver.lose(GPU_0)
        await node.falls_sick([GPU_0])
        (admitted,) = await node.kubelet.admit("pod-1", {"main": {"example.com/gpu": 5}})
        assert admitted.edits.envs["NVIDIA_VISIBLE_DEVICES"] == GPU_1
        node.driver.restore(GPU_0)
        await node.recovers()
        (admitted,) = await node.kubelet.admit("pod-2", {"main": {"example.com/gpu": 10}})
        assert admitted.edits.envs["NVIDIA_VISIBLE_DEVICES"] == GPU_0


async def test_a_fault_that_comes_again_and_again_is_marked_each_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mortalgpu")
    async with sick_node(worked_example(2), monkeypatch) as node:
        for _ in range(3):
            node.driver.lose(GPU_0)
            await node.falls_sick([GPU_0])
            node.driver.restore(GPU_0)
            await node.recovers()
    told = [record.levelno for record in caplog.records if "healthy" in record.message]
    assert told == [logging.ERROR, logging.INFO] * 3
