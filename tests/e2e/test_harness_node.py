"""The node harness itself: what it starts, what survives its restarts, and that it leaves nothing behind."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cgroups import PREFIX, Subtree, remove_leftovers
from tests.e2e.node import Node
from tests.e2e.plugin import Plugin
from tests.e2e.pods import Container, Pod, pod_asking
from tests.e2e.waiting import eventually, until

pytestmark = [pytest.mark.e2e, pytest.mark.root]
RESOURCE = "example.test/thing"


@pytest.fixture
def plugin(node: Node) -> Iterator[Plugin]:
    with Plugin(node.socket_dir, "first", RESOURCE, [f"id-{n}" for n in range(6)]) as plugin:
        plugin.register()
        until("the plugin's ids", lambda: node.allocatable().get(RESOURCE, 0), (6).__eq__, seconds=2, every_seconds=0.05)
        yield plugin


def test_a_plugins_environment_reaches_the_container(node: Node, plugin: Plugin) -> None:
    node.put(pod_asking("one", main={RESOURCE: 2}))
    environment = node.environment(node.wait_running("one").container().id)
    ((_, ids),) = {(held.pod, held.ids) for held in node.held()}
    assert environment["IDS"].split(",") == sorted(ids)


def test_a_refused_pod_shows_the_plugins_words(node: Node, plugin: Plugin) -> None:
    plugin.refusal = "not today"
    node.put(pod_asking("one", main={RESOURCE: 2}))
    status = node.wait_failed("one")
    assert status.reason == "UnexpectedAdmissionError"
    assert "code = FailedPrecondition desc = not today" in status.message


def test_waiting_for_a_pod_that_failed_ends_with_kubelets_reason(node: Node, plugin: Plugin) -> None:
    node.put(pod_asking("one", main={RESOURCE: 7}))
    with pytest.raises(AssertionError, match="Requested: 7, Available: 6"):
        node.wait_running("one")


def test_containers_outlive_kubelet_and_containerd(node: Node) -> None:
    node.put(Pod("one", (Container(),)))
    before = node.wait_running("one")
    node.restart_kubelet(hard=True)
    node.containerd.restart()
    assert node.wait_running("one").containers == before.containers
    assert node.execute(before.container().id, "/bin/echo", "here") == "here\n"


def test_what_a_pod_writes_is_on_the_host(node: Node, tmp_path: Path) -> None:
    writer = Container(command=("/bin/sh", "-c", "echo $GREETING > /out/word; sleep 1000"), env={"GREETING": "hello"})
    node.put(Pod("one", (Container(writer.name, command=writer.command, env=writer.env, mounts={"/out": tmp_path}),)))
    node.wait_running("one")
    eventually("the file", (tmp_path / "word").exists, seconds=5)
    until("the word", (tmp_path / "word").read_text, "hello\n".__eq__, seconds=5)


def test_a_stopped_node_leaves_no_process_cgroup_mount_or_folder() -> None:
    node = Node()
    with node:
        node.put(Pod("one", (Container(),)))
        node.wait_running("one")
        processes = node.subtree.processes()
        assert len(processes) >= 4
    assert not [pid for pid in processes if _runs(pid)]
    assert not [folder for folder in node.subtree.folders if folder.exists()]
    assert not node.folder.exists()
    assert str(node.folder) not in Path("/proc/self/mountinfo").read_text()


def test_what_a_killed_test_run_left_is_removed_by_the_next() -> None:
    """A child makes a subtree in its own name, puts a process into it that outlives it, and is killed."""
    program = (
        "import os, subprocess, time\n"
        "from tests.e2e.cgroups import PREFIX, Subtree\n"
        "subtree = Subtree(f'{PREFIX}{os.getpid()}-killed')\n"
        "subtree.create()\n"
        "sleeper = subprocess.Popen(['sleep', '1000'])\n"
        "subtree.daemons_listing.write_text(str(sleeper.pid))\n"
        "print(flush=True)\n"
        "time.sleep(1000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as child:
        assert child.stdout is not None
        child.stdout.readline()
        left = Subtree(f"{PREFIX}{child.pid}-killed")
        assert left.processes()
        remove_leftovers()
        assert left.processes(), "a living test run's processes are not to be touched"
        child.send_signal(signal.SIGKILL)
    sleepers = left.processes()
    remove_leftovers()
    assert not [folder for folder in left.folders if folder.exists()]
    until("the end of what was left", lambda: [pid for pid in sleepers if _runs(pid)], [].__eq__, seconds=5)


def _runs(pid: int) -> bool:
    """It exists, and not only as a zombie that waits for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
