"""The chart in a cluster, from installation to removal: the daemon runs from its image, shares reach pods, and nothing is left.

One cluster for all tests of this file. They leave it as they found it, but for the last ones, which remove what is installed.
"""

import base64
import json
import re
import subprocess

import httpx
import pytest
import yaml

from tests.chart.helm import CHART, Tree
from tests.e2e.cluster.cluster import Cluster
from tests.e2e.cluster.release import DAEMON, NAMESPACE, RELEASE, Release, workload
from tests.e2e.daemon import EXAMPLE_COUNTS, SHARED
from tests.e2e.waiting import eventually
from tests.ports import free_ports
from tests.standin.nvml import Process

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.slow]

OURS = f"app.kubernetes.io/instance={RELEASE}"


def helm(cluster: Cluster, values: Tree, *words: str) -> str:
    return cluster.helm(*words, str(CHART), "--namespace", NAMESPACE, "--values", "-", stdin=json.dumps(values))


def running(cluster: Cluster, name: str) -> tuple[str, int]:
    """The id of the workload's container, and how often it was started again."""
    (pod,) = cluster.get("pods", "-l", f"app={name}")
    (status,) = pod["status"]["containerStatuses"]
    return status["containerID"].rpartition("/")[2], status["restartCount"]


def ready(cluster: Cluster) -> None:
    try:
        cluster.kubectl("-n", NAMESPACE, "rollout", "status", f"daemonset/{DAEMON}", "--timeout=60s")
    except AssertionError as error:
        log = cluster.kubectl("-n", NAMESPACE, "logs", "-l", OURS, "--tail=40")
        raise AssertionError(f"{error}\n{log}") from None


def allocatable(cluster: Cluster, *more: str) -> dict[str, int]:
    """What the node offers of the worked example's resources, and of `more`."""
    (node,) = cluster.get("nodes")
    offered = node["status"]["allocatable"]
    return {name: int(offered[name]) for name in (*EXAMPLE_COUNTS, *more) if name in offered}


def secret(cluster: Cluster) -> dict[str, str]:
    data = cluster.get("-n", NAMESPACE, "secret", f"{DAEMON}-keys")["data"]
    return {name: base64.b64decode(text).decode() for name, text in data.items()}


def objects(cluster: Cluster) -> list[str]:
    """Everything in the cluster that carries the installation's label."""
    kinds = cluster.kubectl("api-resources", "--verbs=list", "-o", "name").split()
    kinds = [kind for kind in kinds if not kind.startswith("componentstatuses")]
    return cluster.kubectl("get", ",".join(kinds), "-A", "-l", OURS, "-o", "name").split()


@pytest.fixture(scope="module")
def installed(cluster: Cluster, release: Release) -> Release:
    """The chart installed, its daemon ready, and a pod that holds shares."""
    helm(cluster, release.values(), "install", RELEASE, "--create-namespace")
    ready(cluster)
    eventually("the node's shares", lambda: allocatable(cluster) == EXAMPLE_COUNTS, seconds=20, every_seconds=0.2)
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(workload("notebook", 40)))
    cluster.kubectl("rollout", "status", "deployment/notebook", "--timeout=60s")
    return release


def test_an_installed_chart_makes_the_node_offer_shares_that_a_deployment_gets(cluster: Cluster, installed: Release) -> None:
    environment = cluster.node.environment(running(cluster, "notebook")[0])
    assert environment["NVIDIA_VISIBLE_DEVICES"] in {gpu.uuid for gpu in installed.driver.state.gpus}
    assert environment["METAGPU_MAX_MEM"] == str(32768 * 40 // 400)


def test_mgctl_answers_in_the_workloads_container(cluster: Cluster, installed: Release) -> None:
    """In an image without Python, as the kernel of the container's image runs it."""
    said = cluster.kubectl("exec", "deployment/notebook", "--", "/usr/bin/mgctl", "get", "processes", "-o", "json")
    (container,) = json.loads(said)["gpu_containers"]
    assert (container["container_name"], container["metagpu_requests"]) == ("main", 40)


def test_the_commands_of_the_notes_work_as_they_stand(cluster: Cluster, installed: Release) -> None:
    notes = cluster.helm("get", "notes", RELEASE, "--namespace", NAMESPACE)
    for resource in EXAMPLE_COUNTS:
        assert f"    {resource}\n" in notes
    script = "".join(re.findall(r"^    ((?!mortalgpu/).*\n)", notes, re.MULTILINE))
    assert "kubectl apply -f -" in script
    done = subprocess.run(
        ["bash", "-e"], input=script, capture_output=True, text=True, check=False, timeout=110, env=cluster.environment()
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    assert re.search(rf"^0 .*{SHARED}", done.stdout, re.MULTILINE), done.stdout
    assert done.stdout.rstrip().rpartition("\n")[2].count(".") == 2, "the last command prints a token"


def test_a_request_that_no_device_can_serve_is_refused_in_words_for_the_user(cluster: Cluster, installed: Release) -> None:
    pod = workload("huge", 500)["spec"]["template"] | {"apiVersion": "v1", "kind": "Pod"}
    pod["metadata"]["name"] = "huge"
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
    cluster.kubectl("wait", "--for=jsonpath={.status.phase}=Failed", "pod/huge", "--timeout=30s")
    status = cluster.get("pod", "huge")["status"]
    assert status["reason"] == "UnexpectedAdmissionError"
    assert "noSplit" in status["message"], status["message"]
    cluster.kubectl("delete", "pod", "huge")


def test_a_process_above_the_limit_is_stopped_and_its_owner_told(cluster: Cluster, installed: Release) -> None:
    container, starts = running(cluster, "notebook")
    uuid = cluster.node.environment(container)["NVIDIA_VISIBLE_DEVICES"]
    installed.driver.set_processes(uuid, Process(uuid, pid=cluster.node.pid(container), used=6 * 2**30))

    def told() -> bool:
        return "GpuMemoryLimitExceeded" in cluster.kubectl("get", "events", "-o", "jsonpath={.items[*].reason}")

    eventually("the container to be started again", lambda: running(cluster, "notebook")[1] == starts + 1, seconds=20)
    installed.driver.set_processes(uuid)
    eventually("an Event for the owner", told, seconds=20, every_seconds=0.2)
    cluster.kubectl("rollout", "status", "deployment/notebook", "--timeout=60s")


def test_the_daemons_account_may_read_pods_and_write_events_and_nothing_else(cluster: Cluster, installed: Release) -> None:
    account = f"--as=system:serviceaccount:{NAMESPACE}:{DAEMON}"

    def may(*words: str) -> bool:
        return cluster.kubectl("auth", "can-i", "--quiet=false", *words, "-A", account, fine=(0, 1)).strip() == "yes"

    assert all(may(*words.split()) for words in ("list pods", "watch pods", "create events"))
    refused = ("get secrets", "create pods/exec", "create pods", "delete pods", "list nodes", "patch events", "list configmaps")
    assert [words for words in refused if may(*words.split())] == []


def test_both_metrics_pages_are_served(cluster: Cluster, installed: Release) -> None:
    with httpx.Client(trust_env=False) as http:
        daemon = http.get(f"http://127.0.0.1:{installed.ports['mgdpMetrics']}/metrics").text
        gpus = http.get(f"http://127.0.0.1:{installed.ports['exporter']}/metrics").text
    assert 'mortalgpu_ready{node="localhost"} 1' in daemon
    assert re.search(r'mortalgpu_container_shares\{.*pod="notebook-.*\} 40', gpus)


def test_a_second_installation_on_the_same_directory_is_refused(cluster: Cluster, installed: Release) -> None:
    with pytest.raises(AssertionError, match=f"the installation {DAEMON} on the same nodes has {installed.state} too"):
        helm(cluster, installed.values(), "install", "other")


def test_a_second_installation_with_names_of_its_own_works_beside_the_first(cluster: Cluster, installed: Release) -> None:
    values, other = installed.values(), "other.example/gpu"
    values["config"]["deviceSharing"] = [{"resourceName": other, "metagpusPerGpu": 8, "reservedChunks": 6}]
    values["config"]["mgctl"]["hostMount"]["hostPath"] = f"{installed.state}-other"
    values["service"]["ports"] = dict(zip(values["service"]["ports"], free_ports(3), strict=True))
    helm(cluster, values, "install", "other")
    everything = EXAMPLE_COUNTS | {other: 5 * 2}
    eventually("both resources", lambda: allocatable(cluster, other) == everything, seconds=30, every_seconds=0.2)
    cluster.helm("uninstall", "other", "--namespace", NAMESPACE, "--wait")
    left = EXAMPLE_COUNTS | {other: 0}
    eventually("only the first one's", lambda: allocatable(cluster, other) == left, seconds=30, every_seconds=0.2)


def test_a_changed_configmap_is_taken_up_without_a_restart(cluster: Cluster, installed: Release) -> None:
    config = yaml.safe_load(cluster.get("-n", NAMESPACE, "configmap", DAEMON)["data"]["config.yaml"])
    config["log"]["verbose"] = True
    patch = json.dumps({"data": {"config.yaml": yaml.safe_dump(config)}})
    cluster.kubectl("-n", NAMESPACE, "patch", "configmap", DAEMON, "--type=merge", "--patch", patch)

    def applied() -> bool:
        page = httpx.get(f"http://127.0.0.1:{installed.ports['mgdpMetrics']}/metrics", trust_env=False).text
        return 'mortalgpu_config_reloads_total{node="localhost",outcome="applied"} 1' in page

    eventually("the daemon to read it again", applied, seconds=60, every_seconds=0.5)
    (pod,) = cluster.get("-n", NAMESPACE, "pods", "-l", OURS)
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 0


def test_an_upgrade_keeps_the_key_and_leaves_pods_alone(cluster: Cluster, installed: Release) -> None:
    before, key = running(cluster, "notebook"), secret(cluster)
    values = installed.values()
    values["config"]["log"] = {"verbose": True}
    helm(cluster, values, "upgrade", RELEASE)
    ready(cluster)
    assert secret(cluster) == key
    assert running(cluster, "notebook") == before
    assert cluster.kubectl("exec", "deployment/notebook", "--", "/usr/bin/mgctl", "ping")
    eventually("the node's shares", lambda: allocatable(cluster) == EXAMPLE_COUNTS, seconds=20, every_seconds=0.2)


def test_a_new_key_leaves_the_one_before_it_valid(cluster: Cluster, installed: Release) -> None:
    old, values = secret(cluster)["jwtSecret"], installed.values()
    values["config"]["grpcSecurity"] = {"jwtSecret": "a-new-key-that-is-long-enough-for-us"}
    helm(cluster, values, "upgrade", RELEASE)
    assert secret(cluster) == {"jwtSecret": "a-new-key-that-is-long-enough-for-us", "previousJwtSecret": old}
    ready(cluster)
    helm(cluster, values, "upgrade", RELEASE)
    assert secret(cluster)["previousJwtSecret"] == old


def test_uninstalling_leaves_nothing_in_the_cluster_and_pods_running(cluster: Cluster, installed: Release) -> None:
    assert len(objects(cluster)) > 5
    before = running(cluster, "notebook")
    cluster.helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--wait")
    eventually("every object to be gone", lambda: objects(cluster) == [], seconds=30, every_seconds=0.5)
    assert running(cluster, "notebook") == before
    eventually("the node to offer nothing", lambda: set(allocatable(cluster).values()) == {0}, seconds=20, every_seconds=0.2)


def test_the_static_manifests_are_taken_by_the_api_server(cluster: Cluster) -> None:
    names = [entry["metadata"]["name"] for entry in yaml.safe_load_all((CHART / "static" / "mortalgpu.yaml").read_text())]
    cluster.kubectl("create", "namespace", NAMESPACE, fine=(0, 1))
    said = cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", str(CHART / "static" / "mortalgpu.yaml"))
    assert len(said.splitlines()) == len(names)
