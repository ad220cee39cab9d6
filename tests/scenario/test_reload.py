"""A changed configuration, as kubelet, pods and Prometheus see it: what takes over at once, what waits, and what is refused."""

import signal
from typing import Any

import pytest

from mortalgpu.errors import ConfigError
from mortalgpu.simulation.driver import A100, V100, v100_uuid, worked_example
from mortalgpu.simulation.kubelet import AdmissionRefused, SimulatedKubelet
from mortalgpu.simulation.kubelet import running as running_kubelet
from tests.scenario.machine import ALONE, WORKED_EXAMPLE, daemon, machine
from tests.scenario.sick_node import GPUS, PARTS, SickNode, sick_node
from tests.waiting import until

GPU_0, GPU_1 = v100_uuid(0), v100_uuid(1)


def sharing(gpus: int = 10, resource: str = GPUS, **more: Any) -> list[dict[str, Any]]:
    """V100s in so many shares under this name; the partitions as they were."""
    return [
        {"resourceName": resource, "metagpusPerGpu": gpus, "modelName": [V100], **more},
        {"resourceName": PARTS, "metagpusPerGpu": 10, "modelName": [A100]},
    ]


async def _has_capacity(node: SickNode, resource: str, count: int) -> None:
    """Wait until kubelet has so many shares; longer than a fresh grant counts as held."""
    await until(
        lambda: node.kubelet.capacity(resource) == (count, count), 12, said=lambda: str(node.kubelet.capacity(resource))
    )


async def test_devices_with_nothing_allocated_are_shared_anew_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with sick_node(worked_example(2), monkeypatch) as node:
        assert await node.reconfigure(deviceSharing=sharing(25)) == ()
        await _has_capacity(node, GPUS, 50)
        assert f'mortalgpu_device_shares{{device="{GPU_0}",index="0",' in await node.page()


async def test_a_device_with_shares_allocated_keeps_its_layout_until_they_are_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with sick_node(worked_example(2), monkeypatch) as node:
        (admitted,) = await node.kubelet.admit("pod", {"main": {GPUS: 3}})
        held = admitted.edits.envs["NVIDIA_VISIBLE_DEVICES"]
        await node.reconfigure(deviceSharing=sharing(25))
        await _has_capacity(node, GPUS, 35)
        assert f'mortalgpu_device_layout_waiting{{device="{held}"' in await node.page()
        assert any(note.startswith("GpuShareLayoutWaits: ") and held in note for note in node.notes())
        node.kubelet.delete("pod")
        await _has_capacity(node, GPUS, 50)
        assert any(note.startswith("GpuShareLayoutInForce: ") for note in node.notes())


async def test_a_new_resource_name_is_registered_and_the_old_ones_series_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    new = "example.com/renamed"
    async with sick_node(worked_example(2), monkeypatch) as node:
        await node.reconfigure(deviceSharing=sharing(10, new))
        await _has_capacity(node, new, 20)
        (admitted,) = await node.kubelet.admit("pod", {"main": {new: 10}})
        assert GPUS not in await node.page()
        # Whoever holds shares of the new name is a witness too: the next change waits for it.
        await node.reconfigure(deviceSharing=sharing(25, new))
        await _has_capacity(node, new, 35)
        assert admitted.edits.envs["NVIDIA_VISIBLE_DEVICES"] in [notice.uuid for notice in node.facts.inventory.value.notices]


async def test_sharing_that_the_devices_cannot_have_is_refused_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    async with sick_node(worked_example(2), monkeypatch) as node:
        before = node.facts.inventory.value
        with pytest.raises(ConfigError, match="reservedChunks"):
            await node.reconfigure(deviceSharing=sharing(10, reservedChunks=11), health={"quietSeconds": 999})
        assert node.facts.inventory.value == before
        node.driver.push_event(GPU_0, data=63)
        await node.falls_sick([GPU_0])
        await node.recovers()


async def test_a_changed_health_policy_holds_for_troubles_that_are_there_already(monkeypatch: pytest.MonkeyPatch) -> None:
    async with sick_node(worked_example(2), monkeypatch, health={"quietSeconds": 600}) as node:
        node.driver.push_event(GPU_0, data=79)
        node.driver.push_event(GPU_1, data=63)
        await node.falls_sick([GPU_0, GPU_1])
        await node.reconfigure(health={"xids": {"79": "ignore"}, "quietSeconds": 600})
        await node.falls_sick([GPU_1])
        await node.reconfigure(health={"quietSeconds": 0.1})
        await node.recovers()


async def test_another_allocation_policy_serves_the_next_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async with sick_node(worked_example(2), monkeypatch) as node:
        with pytest.raises(AdmissionRefused, match="splitting over devices is off"):
            await node.kubelet.admit("large", {"main": {GPUS: 12}})
        await node.reconfigure(allocator={"noSplit": False})
        (admitted,) = await node.kubelet.admit("large", {"main": {GPUS: 12}})
        assert set(admitted.edits.envs["NVIDIA_VISIBLE_DEVICES"].split(",")) == {GPU_0, GPU_1}


async def test_switching_enforcement_and_series_needs_no_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    async with sick_node(worked_example(2), monkeypatch) as node:
        exporter = {"address": "127.0.0.1:0", "daemonAddress": "127.0.0.1:0", "metagpuNames": True}
        assert await node.reconfigure(memoryEnforcer=False, exporter=exporter) == ()
        assert 'mortalgpu_enforcement_enabled{node="node-1"} 0.0' in await node.page("daemon metrics")
        assert "metagpu_device_shares" in await node.page()
        await node.reconfigure()
        assert 'mortalgpu_enforcement_enabled{node="node-1"} 1.0' in await node.page("daemon metrics")
        assert "metagpu_device_shares" not in await node.page()


async def test_a_running_daemon_reads_its_file_at_a_signal_and_when_it_changes() -> None:
    changed = WORKED_EXAMPLE.replace("metagpusPerGpu: 100", "metagpusPerGpu: 50")
    with machine() as made:
        async with running_kubelet(SimulatedKubelet(made.kubelet_root)), daemon(made) as running:
            await running.logged("registered with kubelet", count=3)
            made.configure(changed)
            running.signal(signal.SIGHUP)
            (line,) = await running.logged("configuration changed")
            assert line["config_field"] == "deviceSharing"
            made.write_config("nonsense: true\n")
            (line,) = await running.logged("configuration refused; what was in force stays")
            assert "nonsense" in line["error"]
            made.write_config(ALONE.replace("test-node", "another") + changed)
            (line,) = await running.logged("configuration keys keep their value; restart mortalgpu to apply them")
            assert line["config_field"] == "nodeName"
            await running.stop()
