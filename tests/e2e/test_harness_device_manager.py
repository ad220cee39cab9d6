"""The harness itself against a plugin of its own: what the other tests conclude from it is worth what is shown here."""

import time
from collections.abc import Iterator

import pytest

from tests.e2e import pod_resources
from tests.e2e.device_manager import Capacity, DeviceManager
from tests.e2e.plugin import Plugin
from tests.e2e.pods import Container, Pod, pod_asking
from tests.e2e.registrations import Event, overlaps
from tests.e2e.waiting import eventually

pytestmark = pytest.mark.e2e
RESOURCE = "example.test/thing"
IDS = [f"id-{n}" for n in range(6)]


@pytest.fixture
def plugin(device_manager: DeviceManager) -> Iterator[Plugin]:
    with Plugin(device_manager.socket_dir, "first", RESOURCE, IDS) as plugin:
        plugin.register()
        device_manager.wait_allocatable({RESOURCE: 6}, 2)
        yield plugin


def test_a_pod_gets_ids_and_the_plugins_environment(device_manager: DeviceManager, plugin: Plugin) -> None:
    admission = device_manager.admit(pod_asking("one", main={RESOURCE: 2}))
    assert admission.admitted
    assert admission.edits().env["IDS"].split(",") == admission.ids(RESOURCE)


def test_kubelets_pod_resources_server_answers_for_the_pods(device_manager: DeviceManager, plugin: Plugin) -> None:
    admission = device_manager.admit(pod_asking("one", main={RESOURCE: 2}))
    assert [(held.pod, held.ids) for held in pod_resources.held(device_manager.pod_resources_socket)] == [
        ("one", frozenset(admission.ids(RESOURCE)))
    ]
    assert len(pod_resources.allocatable(device_manager.pod_resources_socket)[RESOURCE]) == 6


def test_a_refusal_reaches_the_pods_status_word_for_word(device_manager: DeviceManager, plugin: Plugin) -> None:
    plugin.refusal = "not today"
    admission = device_manager.admit(pod_asking("one", main={RESOURCE: 2}))
    assert not admission.admitted
    assert admission.reason == "UnexpectedAdmissionError"
    assert "code = FailedPrecondition desc = not today" in admission.message
    assert device_manager.holdings() == []


def test_a_main_container_takes_over_the_ids_of_its_init_container(device_manager: DeviceManager, plugin: Plugin) -> None:
    pod = Pod("one", (Container("main", {RESOURCE: 4}),), init_containers=(Container("init", {RESOURCE: 3}),))
    first, second = device_manager.admit(pod).holdings
    assert set(first.ids[RESOURCE]) < set(second.ids[RESOURCE])


def test_pods_keep_their_ids_over_a_restart_of_kubelet(device_manager: DeviceManager, plugin: Plugin) -> None:
    before = device_manager.admit(pod_asking("one", main={RESOURCE: 2})).ids(RESOURCE)
    (after,) = device_manager.restart()
    assert after.admitted
    assert after.ids(RESOURCE) == before
    assert device_manager.capacity(RESOURCE) == Capacity(0, 0)


def test_pods_are_refused_after_a_reboot_when_no_plugin_is_back(device_manager: DeviceManager, plugin: Plugin) -> None:
    device_manager.admit(pod_asking("one", main={RESOURCE: 2}))
    (after,) = device_manager.restart(containers_running=False)
    assert not after.admitted
    assert device_manager.pods == {}


def test_an_admission_that_hangs_holds_up_the_next_but_no_other_request(device_manager: DeviceManager, plugin: Plugin) -> None:
    plugin.hold.clear()
    first = device_manager.admit_later(pod_asking("one", main={RESOURCE: 2}))
    second = device_manager.admit_later(pod_asking("two", main={RESOURCE: 2}))
    assert device_manager.capacity(RESOURCE) == Capacity(6, 6)
    with pytest.raises(TimeoutError):
        second.result(0.2)
    plugin.hold.set()
    assert first.result(5).admitted
    assert second.result(5).admitted


def test_an_overlap_is_seen_and_costs_the_node_its_devices(device_manager: DeviceManager, plugin: Plugin) -> None:
    """The hazard that the daemon must avoid, on both kubelets: the old stream's end takes the new registration down."""
    with Plugin(device_manager.socket_dir, "second", RESOURCE, IDS) as newcomer:
        newcomer.register()
        # Its list must be in: a list that comes after the old stream's end would hide the loss.
        eventually("the newcomer's list", lambda: device_manager.registrations.lists[RESOURCE] == 2, seconds=5)
        plugin.stop()
        eventually("loss of the devices", lambda: device_manager.capacity(RESOURCE) == Capacity(6, 0), seconds=2)
    assert [overlap.resource for overlap in device_manager.registrations.overlaps] == [RESOURCE]


def test_a_registration_after_the_end_of_the_one_before_is_no_overlap(device_manager: DeviceManager, plugin: Plugin) -> None:
    plugin.stop()
    eventually("the end of the stream", lambda: not device_manager.registrations.live, seconds=2)
    with Plugin(device_manager.socket_dir, "second", RESOURCE, IDS) as newcomer:
        newcomer.register()
        device_manager.wait_allocatable({RESOURCE: 6}, 2)
    assert device_manager.registrations.overlaps == []


def test_kubelet_sweeps_the_sockets_at_its_start(device_manager: DeviceManager, plugin: Plugin) -> None:
    device_manager.restart()
    assert not (device_manager.socket_dir / plugin.endpoint).exists()
    assert (device_manager.socket_dir / "kubelet.sock").is_socket()


def test_two_requests_without_an_answer_between_are_an_overlap() -> None:
    now = time.time()
    requested = Event("registration_requested", now, RESOURCE)
    assert len(overlaps([requested, requested])) == 1
    assert overlaps([requested, Event("registration_failed", now, RESOURCE), requested]) == []
