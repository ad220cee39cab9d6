"""The daemon under kubelet's own device manager: granting, refusing, and registering again whatever went away."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mortalgpu.simulation.driver import A100_UUID, v100_uuid, worked_example
from tests.e2e import build
from tests.e2e.daemon import A100, EXAMPLE_COUNTS, SHARED, TEN, TWENTY, V100, Daemon, example_config
from tests.e2e.device_manager import Capacity, DeviceManager
from tests.e2e.pods import Container, Pod, pod_asking
from tests.e2e.waiting import eventually, stays
from tests.needs import skipped_where_missing

pytestmark = pytest.mark.e2e
V100_UUID = v100_uuid(0)


def test_a_container_is_told_its_device_and_its_limit(device_manager: DeviceManager, daemon: Daemon) -> None:
    env = device_manager.admit(pod_asking("one", main={SHARED: 40})).edits().env
    assert env["NVIDIA_VISIBLE_DEVICES"] == V100_UUID
    assert env["METAGPU_MAX_MEM"] == "3276"
    assert env["MORTALGPU_MEMORY_LIMIT_MIB"] == f"{V100_UUID}=3276"


def test_limits_follow_the_device_and_not_the_resource(device_manager: DeviceManager, daemon: Daemon) -> None:
    device_manager.admit(pod_asking("fill the V100", main={SHARED: 380}))
    env = device_manager.admit(pod_asking("on the partition", main={SHARED: 40})).edits().env
    assert env["NVIDIA_VISIBLE_DEVICES"].startswith("MIG-")
    assert env["METAGPU_MAX_MEM"] == "4019"


def test_two_resources_in_one_container_are_both_granted(device_manager: DeviceManager, daemon: Daemon) -> None:
    admission = device_manager.admit(pod_asking("one", main={SHARED: 10, TWENTY: 20}))
    assert admission.admitted
    assert (len(admission.ids(SHARED)), len(admission.ids(TWENTY))) == (10, 20)


def test_a_request_larger_than_any_device_is_refused_in_words_for_the_user(
    device_manager: DeviceManager, daemon: Daemon
) -> None:
    admission = device_manager.admit(pod_asking("one", main={SHARED: 401}))
    assert not admission.admitted
    assert admission.reason == "UnexpectedAdmissionError"
    assert "code = FailedPrecondition desc = mortalgpu/a100-shared: 401 shares were asked for" in admission.message
    assert device_manager.holdings() == []


def test_a_request_that_only_fits_in_pieces_is_refused_and_the_next_is_admitted(
    device_manager: DeviceManager, daemon: Daemon
) -> None:
    for name in ("one", "two"):
        assert device_manager.admit(pod_asking(name, main={SHARED: 250})).admitted
    assert "noSplit" in device_manager.admit(pod_asking("three", main={SHARED: 200})).message
    assert device_manager.admit(pod_asking("four", main={SHARED: 150})).admitted


def test_an_exhausted_resource_is_refused_by_kubelet_itself(device_manager: DeviceManager, daemon: Daemon) -> None:
    device_manager.admit(pod_asking("one", main={TWENTY: 200}))
    admission = device_manager.admit(pod_asking("two", main={TWENTY: 1}))
    assert "Requested: 1, Available: 0" in admission.message


def test_a_restarted_kubelet_has_every_device_again_within_a_second(device_manager: DeviceManager, daemon: Daemon) -> None:
    before = device_manager.admit(pod_asking("one", main={SHARED: 40})).ids(SHARED)
    (after,) = device_manager.restart()
    device_manager.wait_allocatable(EXAMPLE_COUNTS, 1)
    assert after.ids(SHARED) == before
    assert device_manager.registrations.overlaps == []


def test_kubelet_away_for_a_while_with_its_sockets_wiped_finds_the_daemon_waiting(
    device_manager: DeviceManager, daemon: Daemon
) -> None:
    device_manager.stop()
    device_manager.wipe_sockets()
    eventually("the daemon noticing", lambda: daemon.events("kubelet ended ListAndWatch"), seconds=5)
    device_manager.start()
    device_manager.wait_allocatable(EXAMPLE_COUNTS, 1)


def test_a_dropped_stream_alone_brings_a_new_registration(device_manager: DeviceManager, daemon: Daemon) -> None:
    device_manager.drop(SHARED)
    device_manager.wait_registered(SHARED, 2, 2)
    device_manager.wait_allocatable(EXAMPLE_COUNTS, 1)
    assert device_manager.registrations.made == {SHARED: 2, TWENTY: 1, TEN: 1}
    assert device_manager.registrations.overlaps == []


def test_a_vanished_socket_brings_a_new_registration_without_overlap(device_manager: DeviceManager, daemon: Daemon) -> None:
    for path in device_manager.socket_dir.iterdir():
        if path.is_socket() and path.name != "kubelet.sock":
            path.unlink(missing_ok=True)
    for resource in EXAMPLE_COUNTS:
        device_manager.wait_registered(resource, 2, 2)
    device_manager.wait_allocatable(EXAMPLE_COUNTS, 1)
    assert device_manager.registrations.overlaps == []


@pytest.mark.parametrize("hard", [False, True], ids=["SIGTERM", "SIGKILL"])
def test_a_restarted_daemon_is_registered_and_its_pods_keep_their_ids(
    device_manager: DeviceManager, daemon: Daemon, hard: bool
) -> None:
    device_manager.admit(pod_asking("one", main={SHARED: 40}))
    before = device_manager.holdings()
    daemon.restart(hard=hard)
    device_manager.wait_registered(SHARED, 2, 2)
    device_manager.wait_allocatable(EXAMPLE_COUNTS, 2)
    assert device_manager.holdings() == before
    second = device_manager.admit(pod_asking("two", main={SHARED: 40})).ids(SHARED)
    assert set(second).isdisjoint(id_ for holding in before for id_ in holding.ids[SHARED])


def test_a_stopped_daemon_ends_with_0_and_leaves_no_socket(device_manager: DeviceManager, daemon: Daemon) -> None:
    started = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - started < 5
    assert [path.name for path in device_manager.socket_dir.iterdir() if path.is_socket()] == ["kubelet.sock"]


def test_a_lost_gpu_takes_all_its_shares_with_it_and_brings_them_back(device_manager: DeviceManager, daemon: Daemon) -> None:
    daemon.driver.lose(A100_UUID)
    gone = {SHARED: Capacity(800, 400), TWENTY: Capacity(200, 0), TEN: Capacity(200, 0)}
    eventually("the loss of the A100", lambda: device_manager.capacities() == gone, seconds=1)
    assert not device_manager.admit(pod_asking("one", main={TWENTY: 1})).admitted
    stays("the loss", device_manager.capacities, gone, seconds=1)
    daemon.driver.restore(A100_UUID)
    device_manager.wait_allocatable(EXAMPLE_COUNTS, 2)


@pytest.fixture
def external(device_manager: DeviceManager) -> Iterator[Path]:
    """A daemon whose allocator is a program that hangs while the file lies there; yields the file."""
    switch = device_manager.directory / "hang"
    folder = device_manager.directory / "daemon"
    script = device_manager.directory / "allocator"
    script.write_text(ALLOCATOR.format(switch=switch))
    script.chmod(0o755)
    allocator = {"plugin": "external", "externalConfig": {"path": str(script), "timeoutSeconds": 1}}
    with Daemon(folder, device_manager.socket_dir, config=example_config(folder, allocator=allocator)):
        device_manager.wait_allocatable(EXAMPLE_COUNTS, 10)
        yield switch


ALLOCATOR = """#!/usr/bin/env python3
import json, pathlib, sys, time
request = json.load(sys.stdin)
if pathlib.Path("{switch}").exists():
    time.sleep(600)
json.dump({{"deviceIDs": sorted(request["available"])[:request["size"]]}}, sys.stdout)
"""


def test_a_hung_allocator_program_costs_one_pod_and_no_more(device_manager: DeviceManager, external: Path) -> None:
    external.touch()
    started = time.monotonic()
    refused = device_manager.admit(pod_asking("one", main={SHARED: 2}), seconds=10)
    assert 1 <= time.monotonic() - started < 4
    assert not refused.admitted
    assert "allocator" in refused.message
    external.unlink()
    assert device_manager.admit(pod_asking("two", main={SHARED: 2}), seconds=10).admitted


def _shares(count: int) -> dict[str, Any]:
    return {
        "deviceSharing": [
            {"resourceName": SHARED, "metagpusPerGpu": count, "modelName": [V100]},
            {"resourceName": SHARED, "metagpusPerGpu": count, "modelName": [A100], "migid": [2]},
        ]
    }


def test_a_changed_share_count_waits_for_the_containers_that_hold_shares(device_manager: DeviceManager, daemon: Daemon) -> None:
    pod = pod_asking("one", main={SHARED: 40})
    device_manager.admit(pod)
    before = device_manager.holdings()
    daemon.config |= _shares(100)
    daemon.restart()
    eventually("the old count on the V100 alone", lambda: device_manager.capacity(SHARED) == Capacity(500, 500), seconds=5)
    assert device_manager.holdings() == before
    newcomer = device_manager.admit(pod_asking("two", main={SHARED: 300}))
    assert newcomer.edits().env["METAGPU_MAX_MEM"] == str(300 * 32768 // 400)
    assert set(newcomer.ids(SHARED)).isdisjoint(before[0].ids[SHARED])
    for held in list(device_manager.pods.values()):
        device_manager.delete(held)
    # Up to 1.30 kubelet counts the pod admitted last as alive until it admits another one.
    device_manager.admit(pod_asking("without shares", main={}))
    # The newcomer's grant counts as held for a while even when nobody else knows of it.
    eventually("the new count", lambda: device_manager.capacity(SHARED) == Capacity(200, 200), seconds=30)


def test_a_count_changed_while_kubelet_was_away_is_settled_without_a_double_grant(
    device_manager: DeviceManager, daemon: Daemon
) -> None:
    device_manager.admit(Pod("one", (Container("main", {SHARED: 40}),)))
    device_manager.stop()
    daemon.config |= _shares(200)
    daemon.restart()
    device_manager.start()
    eventually("the old count on the V100 alone", lambda: device_manager.capacity(SHARED) == Capacity(600, 600), seconds=5)
    assert not device_manager.admit(pod_asking("two", main={SHARED: 361})).admitted
    assert device_manager.admit(pod_asking("three", main={SHARED: 360})).edits().env["METAGPU_MAX_MEM"] == str(
        360 * 32768 // 400
    )


def test_a_resource_renamed_after_the_layout_was_lost_is_not_granted_twice(
    device_manager: DeviceManager, daemon: Daemon
) -> None:
    mgctl = daemon.folder / "mgctl"
    mgctl.write_text("#!/bin/true\n")
    daemon.config["mgctl"] = {"sourcePath": str(mgctl), "hostMount": {"enabled": True, "hostPath": str(daemon.folder / "host")}}
    daemon.restart()
    eventually("every share", lambda: device_manager.capacity(SHARED) == Capacity(800, 800), seconds=5)
    device_manager.admit(pod_asking("one", main={SHARED: 40}))
    daemon.stop()
    (daemon.folder / "state" / "layout.json").unlink()
    renamed = "example.com/renamed"
    daemon.config |= {"deviceSharing": [{"resourceName": renamed, "metagpusPerGpu": 400, "modelName": [V100]}]}
    daemon.start()
    eventually("the V100 under its old name", lambda: device_manager.capacity(SHARED) == Capacity(400, 400), seconds=5)
    stays("the new name", lambda: device_manager.capacity(renamed), Capacity(0, 0), seconds=1)
    assert not device_manager.admit(pod_asking("two", main={SHARED: 361})).admitted
    assert device_manager.admit(pod_asking("three", main={SHARED: 360})).admitted


@pytest.fixture
def aligned(short_path: Path) -> Iterator[DeviceManager]:
    """A device manager that gives a container devices of one NUMA node only, the daemon beside it."""
    with skipped_where_missing():
        build.locate(build.DEVICE_MANAGER)
    manager = DeviceManager(build.DEVICE_MANAGER.path, short_path, topology_policy="single-numa-node", numa_nodes=(0, 1))
    manager.start()
    devices = [replace(device, numa_node=1 if device.gpu_uuid == A100_UUID else 0) for device in worked_example(1)]
    with Daemon(short_path / "daemon", manager.socket_dir, devices=devices):
        manager.wait_allocatable(EXAMPLE_COUNTS, 10)
        yield manager
    manager.stop()


def test_two_resources_of_a_container_come_from_one_numa_node(aligned: DeviceManager) -> None:
    """The V100 would be filled first; the container's other resource lies on the A100, and with it the NUMA node."""
    admission = aligned.admit(pod_asking("one", main={SHARED: 40, TWENTY: 40}))
    assert admission.admitted
    assert {id_.split("::")[0][:4] for id_ in admission.ids(SHARED)} == {"MIG-"}


def test_a_pod_whose_resources_have_no_numa_node_in_common_is_refused_by_kubelet(aligned: DeviceManager) -> None:
    aligned.admit(pod_asking("fills the partition", main={SHARED: 400, TWENTY: 1}))
    admission = aligned.admit(pod_asking("two", main={SHARED: 40, TWENTY: 40}))
    assert admission.reason == "TopologyAffinityError"


def test_a_driver_that_hangs_takes_the_shares_and_gives_them_back_without_holding_up_admission(
    device_manager: DeviceManager, daemon: Daemon
) -> None:
    daemon.driver.add_fault("nvmlDeviceGetMemoryInfo_v2", hang=0)
    eventually("the loss of every share", lambda: device_manager.capacity(SHARED) == Capacity(800, 0), seconds=5)
    assert not device_manager.admit(pod_asking("one", main={SHARED: 1}), seconds=2).admitted
    daemon.driver.clear_faults()
    device_manager.wait_allocatable(EXAMPLE_COUNTS, 5)
    assert device_manager.admit(pod_asking("two", main={SHARED: 1})).admitted


def test_a_reloaded_driver_is_found_again(device_manager: DeviceManager, daemon: Daemon) -> None:
    daemon.driver.unload_driver()
    eventually("the loss of every share", lambda: device_manager.capacity(SHARED) == Capacity(800, 0), seconds=5)
    daemon.driver.reload_driver()
    device_manager.wait_allocatable(EXAMPLE_COUNTS, 5)


def test_a_daemon_that_waits_for_kubelet_is_registered_within_a_second_of_its_start(
    device_manager: DeviceManager, daemon: Daemon
) -> None:
    daemon.kill()
    device_manager.stop()
    device_manager.wipe_sockets()
    daemon.start()
    eventually("the daemon's first words", lambda: daemon.log().count("sharing device") > 5, seconds=10)
    device_manager.start()
    device_manager.wait_allocatable(EXAMPLE_COUNTS, 1)
