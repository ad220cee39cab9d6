"""Pods of a real kubelet with real containers on the daemon's shares, through restarts and losses of every partner."""

import os
from pathlib import Path

import pytest

from mortalgpu.simulation.driver import A100_UUID, v100_uuid
from tests.e2e.daemon import EXAMPLE_COUNTS, SHARED, TEN, TWENTY, Daemon, example_config
from tests.e2e.node import Node, PodStatus
from tests.e2e.pods import Container, Pod, pod_asking
from tests.e2e.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.root]
V100_UUID = v100_uuid(0)


def unhurt(before: PodStatus, after: PodStatus) -> bool:
    """The same containers run, and none was started again."""
    return after.running and after.containers == before.containers


def ids_of(node: Node) -> dict[tuple[str, str, str], frozenset[str]]:
    return {(held.pod, held.container, held.resource): held.ids for held in node.held()}


def wait_counts(node: Node, counts: dict[str, int], seconds: float) -> None:
    def seen() -> dict[str, int]:
        return dict.fromkeys(counts, 0) | node.allocatable()

    # Kubelet answers a hundred such questions a second, and the daemon asks too.
    until("the allocatable counts", seen, counts.__eq__, seconds=seconds, every_seconds=0.05)


def test_a_pod_runs_with_its_share_in_its_environment(node: Node, node_daemon: Daemon) -> None:
    node.put(pod_asking("one", main={SHARED: 40}))
    environment = node.environment(node.wait_running("one").container().id)
    assert environment["NVIDIA_VISIBLE_DEVICES"] == V100_UUID
    assert environment["METAGPU_MAX_MEM"] == "3276"
    assert environment["MORTALGPU_MEMORY_LIMIT_MIB"] == f"{V100_UUID}=3276"
    ((key, ids),) = ids_of(node).items()
    assert key == ("one-harness", "main", SHARED)
    assert len(ids) == 40
    assert {id_.split("::")[0] for id_ in ids} == {V100_UUID}


def test_configured_mounts_are_in_the_container(node: Node) -> None:
    folder = node.folder / "licences"
    folder.mkdir()
    (folder / "site").write_text("a licence")
    mount = {"hostPath": str(folder), "containerPath": "/licences"}
    config = example_config(node.folder / "daemon", pluginMounts=[mount])
    with Daemon(node.folder / "daemon", node.socket_dir, config=config):
        wait_counts(node, EXAMPLE_COUNTS, 10)
        node.put(pod_asking("one", main={SHARED: 1}))
        container = node.wait_running("one").container().id
        assert node.execute(container, "/bin/cat", "/licences/site") == "a licence"
        assert "read-only" in node.execute(container, "/bin/sh", "-c", "touch /licences/mine 2>&1 || true").lower()


def test_a_pod_that_would_be_split_fails_with_our_reason_in_its_status(node: Node, node_daemon: Daemon) -> None:
    node.put(pod_asking("large", main={SHARED: 401}))
    status = node.wait_failed("large")
    assert status.reason == "UnexpectedAdmissionError"
    assert "401 shares were asked for" in status.message
    assert "noSplit" in status.message


def test_two_containers_and_two_resources_get_their_own(node: Node, node_daemon: Daemon) -> None:
    node.put(pod_asking("one", left={SHARED: 30, TWENTY: 50}, right={TEN: 25}))
    status = node.wait_running("one")
    left = node.environment(status.container("left").id)
    assert len(left["NVIDIA_VISIBLE_DEVICES"].split(",")) in (1, 2)
    right = node.environment(status.container("right").id)
    assert right["METAGPU_MAX_MEM"] == str(25 * 9728 // 100)
    counts = {(container, resource): len(ids) for (_, container, resource), ids in ids_of(node).items()}
    assert counts == {("left", SHARED): 30, ("left", TWENTY): 50, ("right", TEN): 25}


def test_an_init_containers_shares_pass_to_the_main_container(node: Node, node_daemon: Daemon, tmp_path: Path) -> None:
    record = ("/bin/sh", "-c", "env > /out/init")
    init = Container("init", {SHARED: 40}, command=record, mounts={"/out": tmp_path})
    node.put(Pod("one", (Container("main", {SHARED: 40}),), init_containers=(init,)))
    main = node.environment(node.wait_running("one").container().id)
    assert f"NVIDIA_VISIBLE_DEVICES={main['NVIDIA_VISIBLE_DEVICES']}\n" in (tmp_path / "init").read_text()


@pytest.mark.parametrize("hard", [False, True], ids=["SIGTERM", "SIGKILL"])
def test_a_restarted_kubelet_has_the_devices_within_a_second_and_its_pods_keep_theirs(
    node: Node, node_daemon: Daemon, hard: bool
) -> None:
    node.put(pod_asking("one", main={SHARED: 40}))
    before, ids = node.wait_running("one"), ids_of(node)
    node.restart_kubelet(hard=hard, wipe_sockets=True)
    wait_counts(node, EXAMPLE_COUNTS, 1)
    assert unhurt(before, node.wait_running("one"))
    assert ids_of(node) == ids
    node.put(pod_asking("two", main={SHARED: 40}))
    node.wait_running("two")
    first, second = ids_of(node).values()
    assert first.isdisjoint(second)


@pytest.mark.parametrize("hard", [False, True], ids=["SIGTERM", "SIGKILL"])
def test_a_restarted_daemon_hurts_no_pod_and_the_count_returns(node: Node, node_daemon: Daemon, hard: bool) -> None:
    node.put(pod_asking("one", main={SHARED: 40}))
    before, ids = node.wait_running("one"), ids_of(node)
    if hard:
        node_daemon.kill()
    else:
        assert node_daemon.stop() == 0
    wait_counts(node, dict.fromkeys(EXAMPLE_COUNTS, 0), 2)
    node_daemon.start()
    wait_counts(node, EXAMPLE_COUNTS, 2)
    assert unhurt(before, node.wait_running("one"))
    assert ids_of(node) == ids


def test_a_lost_gpu_leaves_the_node_within_a_second_and_returns(node: Node, node_daemon: Daemon) -> None:
    node.put(pod_asking("one", main={TWENTY: 40}))
    before = node.wait_running("one")
    node_daemon.driver.lose(A100_UUID)
    wait_counts(node, {SHARED: 400, TWENTY: 0, TEN: 0}, 1)
    assert unhurt(before, node.wait_running("one"))
    node.put(pod_asking("two", main={TWENTY: 1}))
    assert "no healthy devices" in node.wait_failed("two").message
    node_daemon.driver.restore(A100_UUID)
    wait_counts(node, EXAMPLE_COUNTS, 2)


def test_a_pod_that_is_gone_leaves_its_shares_to_the_next(node: Node, node_daemon: Daemon) -> None:
    node.put(pod_asking("one", main={TWENTY: 200}))
    node.wait_running("one")
    node.put(pod_asking("two", main={TWENTY: 1}))
    assert "Requested: 1, Available: 0" in node.wait_failed("two").message
    node.remove("one")
    node.put(pod_asking("three", main={TWENTY: 200}))
    node.wait_running("three")


def test_a_container_that_dies_is_started_again_with_the_same_shares(node: Node, node_daemon: Daemon) -> None:
    node.put(pod_asking("one", main={SHARED: 40}))
    before = node.wait_running("one").container()
    environment = node.environment(before.id)
    os.kill(node.pid(before.id), 9)
    until("a second run", lambda: node.pods()["one"].container().restarts, (1).__eq__, seconds=15)
    after = node.wait_running("one").container()
    assert after.id != before.id
    assert node.environment(after.id)["MORTALGPU_MEMORY_LIMIT_MIB"] == environment["MORTALGPU_MEMORY_LIMIT_MIB"]


def test_a_changed_share_count_keeps_a_running_pods_limit(node: Node, node_daemon: Daemon) -> None:
    node.put(pod_asking("one", main={TWENTY: 40}))
    before = node.wait_running("one")
    environment = node.environment(before.container().id)
    sharing = [entry | {"metagpusPerGpu": 50} for entry in node_daemon.config["deviceSharing"]]
    node_daemon.config |= {"deviceSharing": sharing}
    node_daemon.restart()
    wait_counts(node, {SHARED: 100, TWENTY: 200, TEN: 100}, 5)
    assert unhurt(before, node.wait_running("one"))
    assert node.environment(before.container().id) == environment
    node.remove("one")
    node.put(pod_asking("unrelated", main={}))
    wait_counts(node, {SHARED: 100, TWENTY: 50, TEN: 100}, 15)
