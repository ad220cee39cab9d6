"""What kubelet is answered, through grpcio on a real socket: grants, refusals, and nothing remembered in between."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import trio

from mortalgpu.allocator.base import Terms
from mortalgpu.allocator.external import ExternalAllocator
from mortalgpu.errors import DriverError
from mortalgpu.isolation.base import EditSettings
from mortalgpu.model.grant import Mount
from mortalgpu.rpc.pb.deviceplugin.v1beta1 import deviceplugin_pb2 as pb
from mortalgpu.simulation.kubelet import AdmissionRefused
from tests.bench.client import PluginClient
from tests.folders import short_folder
from tests.unit.deviceplugin.rig import FIRST, SECOND, Node, R, ids, of, shared

Code = grpc.StatusCode
ALLOCATE = "/v1beta1.DevicePlugin/Allocate"


@pytest.fixture
def node() -> Iterator[Node]:
    with short_folder() as folder:
        yield Node(folder)


async def asked(node: Node, question: Callable[[PluginClient], Any]) -> Any:
    """Serve the plugin and put a question to it through grpcio, in a thread."""

    def ask(socket: Path) -> Any:
        with PluginClient(socket) as client:
            return question(client)

    async with node.served() as socket:
        return await trio.to_thread.run_sync(ask, socket)


async def refused(node: Node, question: Callable[[PluginClient], Any]) -> tuple[grpc.StatusCode, str]:
    """Return code and text of the refusal that a question must get."""

    def ask(client: PluginClient) -> Any:
        with pytest.raises(grpc.RpcError) as caught:
            question(client)
        return caught.value

    error = await asked(node, ask)
    return error.code(), error.details()


# The list.


async def test_the_list_names_every_share_with_its_health_and_numa_node(node: Node) -> None:
    node.share(shared(0, shares=2, numa_node=0), shared(1, shares=2, numa_node=1), shared(2, shares=1))
    node.sicken(SECOND)
    answer = await asked(node, PluginClient.first_list)
    seen = {device.ID: (device.health, [n.ID for n in device.topology.nodes]) for device in answer.devices}
    assert seen == {
        **dict.fromkeys(ids(0, 0, 1), ("Healthy", [0])),
        **dict.fromkeys(ids(1, 0, 1), ("Unhealthy", [1])),
        **dict.fromkeys(ids(2, 0), ("Healthy", [])),
    }
    assert not answer.devices[-1].HasField("topology")


async def test_reserved_shares_and_other_resources_are_not_listed(node: Node) -> None:
    node.share(replace(shared(0, shares=5), reserved=3), shared(1, "mortalgpu/other"))
    answer = await asked(node, PluginClient.first_list)
    assert [device.ID for device in answer.devices] == ids(0, 0, 1)


async def test_the_options_ask_for_preferences_and_for_nothing_else(node: Node) -> None:
    method = "/v1beta1.DevicePlugin/GetDevicePluginOptions"
    answer = await asked(node, lambda client: client.call(method, pb.Empty(), pb.DevicePluginOptions))
    assert (answer.get_preferred_allocation_available, answer.pre_start_required) == (True, False)


# Grants.


async def test_an_allocation_tells_the_container_its_device_and_its_limit(node: Node) -> None:
    answer = await asked(node, lambda client: client.allocate(ids(0, 2, 1)))
    assert dict(answer.envs) == {
        "NVIDIA_VISIBLE_DEVICES": FIRST,
        "METAGPU_MAX_MEM": "16384",
        "MORTALGPU_MEMORY_LIMIT_MIB": f"{FIRST}=16384",
        "MORTALGPU_SHARES": f"{FIRST}=2/4",
    }
    assert (len(answer.mounts), len(answer.devices)) == (0, 0)
    (grant,) = node.grants
    assert (grant.meta_devices, dict(grant.shares)) == (tuple(ids(0, 1, 2)), {FIRST: 2})


async def test_of_several_devices_the_smallest_limit_is_the_figure_and_each_is_named(node: Node) -> None:
    node.no_split = False
    answer = await asked(node, lambda client: client.allocate([*ids(1, 0, 1, 3), *ids(0, 0)]))
    assert answer.envs["NVIDIA_VISIBLE_DEVICES"] == f"{FIRST},{SECOND}"
    assert answer.envs["METAGPU_MAX_MEM"] == "8192"
    assert answer.envs["MORTALGPU_MEMORY_LIMIT_MIB"] == f"{FIRST}=8192,{SECOND}=24576"


async def test_address_token_mounts_and_device_nodes_enter_as_configured(node: Node) -> None:
    minted: list[tuple[str, ...]] = []

    def mint(held: Any) -> str:
        minted.append(tuple(held))
        return "signed"

    node.edit_settings = EditSettings(
        mgctl_address="unix:///run/mortalgpu.sock",
        mint_token=mint,
        mounts=lambda: (Mount("/host/mgctl", "/usr/bin/mgctl"), Mount("/data", "/data", read_only=False)),
        device_nodes=lambda device: (f"/dev/nvidia{device.minor}", "/dev/nvidiactl"),
    )
    node.no_split = False
    answer = await asked(node, lambda client: client.allocate([*ids(0, 0), *ids(1, 0)]))
    assert answer.envs["MG_CTL_ADDR"] == "unix:///run/mortalgpu.sock"
    assert answer.envs["MG_CTL_TOKEN"] == "signed"
    assert minted == [(*ids(0, 0), *ids(1, 0))]
    assert [(mount.host_path, mount.container_path, mount.read_only) for mount in answer.mounts] == [
        ("/host/mgctl", "/usr/bin/mgctl", True),
        ("/data", "/data", False),
    ]
    nodes = [(spec.host_path, spec.container_path, spec.permissions) for spec in answer.devices]
    assert nodes == [(path, path, "rw") for path in ("/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia1")]


async def test_the_same_ids_are_granted_again_with_the_same_answer(node: Node) -> None:
    def thrice(client: PluginClient) -> list[pb.ContainerAllocateResponse]:
        return [client.allocate(order) for order in (ids(0, 1, 2), ids(0, 2, 1), ids(0, 1, 2))]

    first, second, third = await asked(node, thrice)
    assert first == second == third
    assert node.counts[R].allocations == 3


async def test_each_container_of_a_request_gets_an_answer_in_its_place(node: Node) -> None:
    request = pb.AllocateRequest(
        container_requests=[pb.ContainerAllocateRequest(devices_ids=held) for held in (ids(1, 0), ids(0, 0))]
    )
    answer = await asked(node, lambda client: client.call(ALLOCATE, request, pb.AllocateResponse))
    seen = [response.envs["NVIDIA_VISIBLE_DEVICES"] for response in answer.container_responses]
    assert seen == [SECOND, FIRST]


# Refusals.

OTHER = "mortalgpu/other"
REFUSALS = {
    "none": ([], Code.FAILED_PRECONDITION, "no meta-device was named", "invalid"),
    "a device that nobody knows": (
        ["GPU-9::0"],
        Code.INVALID_ARGUMENT,
        "GPU-9::0 is on a device that is not shared",
        "unknown_id",
    ),
    "an id of another resource": (ids(5, 0), Code.INVALID_ARGUMENT, "not shared under this name", "unknown_id"),
    "a number beyond": (ids(0, 0, 4), Code.INVALID_ARGUMENT, "numbers 0 to 3", "unknown_id"),
    "a number below": (["GPU-1::-1"], Code.INVALID_ARGUMENT, "GPU-1::-1", "unknown_id"),
    "no number": ([FIRST], Code.INVALID_ARGUMENT, FIRST, "unknown_id"),
    "text": (["\n", ""], Code.INVALID_ARGUMENT, "is not the id of a meta-device", "unknown_id"),
    "an id twice": (ids(0, 1, 1), Code.FAILED_PRECONDITION, "named twice", "invalid"),
    "on two devices": ([*ids(0, 0), *ids(1, 0)], Code.FAILED_PRECONDITION, "splitting over devices is off", "would_split"),
    "on a sick device": (ids(2, 0), Code.FAILED_PRECONDITION, "unhealthy (XID 79)", "unhealthy"),
}


@pytest.mark.parametrize(("wanted", "code", "text", "reason"), REFUSALS.values(), ids=REFUSALS)
async def test_a_wrong_allocation_is_refused_in_plain_words_and_changes_nothing(
    node: Node, wanted: list[str], code: grpc.StatusCode, text: str, reason: str
) -> None:
    node.share(shared(0), shared(1), shared(2), shared(5, OTHER))
    node.sicken(shared(2).uuid)
    before = node.inventory.version
    seen_code, seen_text = await refused(node, lambda client: client.allocate(wanted))
    assert seen_code is code
    assert text in seen_text
    assert "\n" not in seen_text
    assert "Traceback" not in seen_text
    assert node.grants == []
    assert node.counts[R].allocations == 0
    assert node.counts[R].refusals == {reason: 1}
    assert node.inventory.version == before


async def test_a_request_without_a_container_is_refused(node: Node) -> None:
    code, text = await refused(node, lambda client: client.call(ALLOCATE, pb.AllocateRequest(), pb.AllocateResponse))
    assert (code, text) == (Code.FAILED_PRECONDITION, f"{R}: the request names no container")


async def test_one_wrong_container_refuses_the_whole_request(node: Node) -> None:
    request = pb.AllocateRequest(
        container_requests=[pb.ContainerAllocateRequest(devices_ids=held) for held in (ids(0, 0), ids(0, 99))]
    )
    code, _ = await refused(node, lambda client: client.call(ALLOCATE, request, pb.AllocateResponse))
    assert code is Code.INVALID_ARGUMENT
    assert node.grants == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DriverError("secret"), Code.UNAVAILABLE),
        (KeyError("secret"), Code.INTERNAL),
        (OSError("secret"), Code.INTERNAL),
    ],
)
async def test_a_fault_of_ours_refuses_and_shows_nothing_of_the_inside(
    node: Node, error: Exception, code: grpc.StatusCode
) -> None:
    def broken() -> tuple[Mount, ...]:
        raise error

    node.edit_settings = EditSettings(mounts=broken)
    seen_code, text = await refused(node, lambda client: client.allocate(ids(0, 0)))
    assert seen_code is code
    assert "secret" not in text
    assert node.grants == []


# Preferences.


async def test_a_preference_is_chosen_on_one_device(node: Node) -> None:
    chosen = await asked(node, lambda client: client.prefer(of([shared(0), shared(1)]), 3))
    assert chosen == ids(0, 0, 1, 2)


PREFERENCES = {
    "more than one device has": (5, Code.FAILED_PRECONDITION, "would_split"),
    "more than there are": (9, Code.RESOURCE_EXHAUSTED, "not_enough_shares"),
}


@pytest.mark.parametrize(("size", "code", "reason"), PREFERENCES.values(), ids=PREFERENCES)
async def test_an_impossible_preference_is_refused(node: Node, size: int, code: grpc.StatusCode, reason: str) -> None:
    seen, _ = await refused(node, lambda client: client.prefer(of([shared(0), shared(1)]), size))
    assert seen is code
    assert node.counts[R].refusals == {reason: 1}


async def test_unknown_ids_are_no_room_for_a_preference(node: Node) -> None:
    code, text = await refused(node, lambda client: client.prefer(["GPU-9::0"], 1))
    assert code is Code.RESOURCE_EXHAUSTED
    assert "0 are free" in text


async def test_an_allocator_program_that_hangs_is_a_refusal_and_the_next_pod_is_admitted(node: Node) -> None:
    program = node.folder / "allocator.py"
    program.write_text(
        "import json, sys, time\n"
        "request = json.load(sys.stdin)\n"
        "time.sleep(60 if request['size'] == 2 else 0)\n"
        "print(json.dumps({'deviceIDs': request['available'][:request['size']]}))\n"
    )
    node.allocator = ExternalAllocator((sys.executable, "-S", "-E", str(program)), Terms(), 0.5, {})
    async with node.registered():
        begun = trio.current_time()
        with pytest.raises(AdmissionRefused, match="allocator"):
            await node.kubelet.admit("hangs", {"main": {R: 2}})
        assert trio.current_time() - begun < 3
        (admitted,) = await node.kubelet.admit("works", {"main": {R: 3}})
        assert len(admitted.meta_devices) == 3
    assert node.counts[R].refusals == {"external_allocator": 1}


# With kubelet's own decisions in between.


async def test_a_pod_that_would_be_split_fails_with_our_reason(node: Node) -> None:
    async with node.registered():
        with pytest.raises(AdmissionRefused, match=r"code = FailedPrecondition desc = mortalgpu/a: .*allocator.noSplit"):
            await node.kubelet.admit("big", {"main": {R: 5}})
        (admitted,) = await node.kubelet.admit("small", {"main": {R: 4}})
        assert len({text.partition("::")[0] for text in admitted.meta_devices}) == 1


async def test_what_is_granted_never_overlaps_and_counts_what_kubelet_gave(node: Node) -> None:
    async with node.registered():
        held: list[str] = []
        for number in range(4):
            for admitted in await node.kubelet.admit(f"pod-{number}", {"init": {R: 1}, "main": {R: 1}}):
                held += admitted.meta_devices
        assert sorted(held) == sorted(of([shared(0), shared(1)]))
        with pytest.raises(AdmissionRefused, match="Available: 0"):
            await node.kubelet.admit("late", {"main": {R: 1}})
        node.kubelet.delete("pod-0")
        await node.kubelet.admit("later", {"main": {R: 2}})
    assert node.counts[R].allocations == 9
    assert [len(grant.meta_devices) for grant in node.grants] == [1] * 8 + [2]


async def test_latencies_are_counted_for_answers_and_refusals_alike(node: Node) -> None:
    await asked(node, lambda client: client.allocate(ids(0, 0)))
    await refused(node, partial(PluginClient.allocate, ids=[]))
    assert node.counts[R].allocate.count == 2
    assert node.counts[R].allocate.sum_seconds < 1
