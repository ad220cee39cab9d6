"""What each level may see and do: a table of callers against everything on the node."""

from dataclasses import dataclass, replace

import pytest

from mortalgpu.deviceapi import views
from mortalgpu.deviceapi.views import Caller
from mortalgpu.errors import Forbidden, Unauthenticated
from mortalgpu.model.pod import ContainerRef
from mortalgpu.model.usage import NO_USAGE, ContainerUsage
from tests.unit.deviceapi import node

EVERYTHING = {"team-a/train/helper", "team-a/train/main", "team-b/infer/main", "team-b/train/main", "team-b/young/main"}
TEAM_A_TRAIN = {"team-a/train/helper", "team-a/train/main"}
BOTH, NONE, NO_PIDS = {node.GPU_A, node.GPU_B}, set[str](), set[int]()
EVERY_PID = {node.TRAIN_PID, node.HELPER_PID, node.OTHER_TRAIN_PID, node.INFER_PID}


def holder(*ids: str) -> Caller:
    """A caller with a container's own token."""
    return Caller("l1", meta_devices=frozenset(ids))


def inside(ref: ContainerRef) -> Caller:
    """A caller on the Unix socket."""
    return Caller("l1", container=ref)


SHARED_TOKEN = Caller("l1", names_itself=True)
OPERATOR = Caller("l0")


@dataclass(frozen=True)
class Case:
    """A caller, the pod it names, and what it may see and kill; an error class where it gets nothing."""

    caller: Caller
    pod_id: str = ""
    containers: frozenset[str] = frozenset()
    devices: frozenset[str] = frozenset()
    kills: frozenset[int] = frozenset()
    refused: type[Exception] | None = None


def sees(caller: Caller, containers: set[str], devices: set[str], kills: set[int], pod_id: str = "") -> Case:
    return Case(caller, pod_id, frozenset(containers), frozenset(devices), frozenset(kills))


def refused(caller: Caller, error: type[Exception], pod_id: str = "") -> Case:
    return Case(caller, pod_id, refused=error)


CASES = {
    "the node's level": sees(OPERATOR, EVERYTHING, BOTH, EVERY_PID),
    "the node's level that names a pod": sees(OPERATOR, EVERYTHING, BOTH, EVERY_PID, "train"),
    "the node's level that names a pod of nowhere": sees(OPERATOR, EVERYTHING, BOTH, EVERY_PID, "nowhere"),
    "own token": sees(holder(*node.ids(node.GPU_A, 0, 1, 2, 3)), TEAM_A_TRAIN, {node.GPU_A}, {node.TRAIN_PID}),
    "own token with its pod's name": sees(
        holder(*node.ids(node.GPU_B, 0, 1)), TEAM_A_TRAIN, {node.GPU_B}, {node.HELPER_PID}, "train"
    ),
    "own token with namespace and name": sees(
        holder(*node.ids(node.GPU_A, 4, 5)), {"team-b/train/main"}, {node.GPU_A}, {node.OTHER_TRAIN_PID}, "team-b/train"
    ),
    "own token of a part of what it holds": sees(
        holder(*node.ids(node.GPU_A, 0)), TEAM_A_TRAIN, {node.GPU_A}, {node.TRAIN_PID}
    ),
    "a token over two containers of one pod": sees(
        holder(*node.ids(node.GPU_A, 0), *node.ids(node.GPU_B, 0)), TEAM_A_TRAIN, BOTH, {node.TRAIN_PID, node.HELPER_PID}
    ),
    "a token whose container nobody has seen yet": sees(
        holder(*node.ids(node.GPU_B, 4)), {"team-b/young/main"}, {node.GPU_B}, NO_PIDS
    ),
    "own token with another pod's name": refused(holder(*node.ids(node.GPU_A, 4, 5)), Forbidden, "infer"),
    "own token with the clashing pod's namespace": refused(holder(*node.ids(node.GPU_A, 4, 5)), Forbidden, "team-a/train"),
    "own token with a pod of nowhere": refused(holder(*node.ids(node.GPU_A, 4, 5)), Forbidden, "nowhere"),
    "a token for ids nobody holds": refused(holder(*node.ids(node.GPU_A, 9)), Unauthenticated),
    "a token of which one id has gone back": refused(holder(*node.ids(node.GPU_A, 5, 6)), Unauthenticated),
    "a token whose ids went to two pods": refused(holder(*node.ids(node.GPU_A, 3, 4)), Unauthenticated),
    "a token for a device that does not exist": refused(holder("GPU-x::0"), Unauthenticated),
    "a token without ids": refused(holder(), Unauthenticated),
    "a token with an empty id": refused(holder(""), Unauthenticated),
    "inside a container": sees(inside(node.TRAIN_MAIN), TEAM_A_TRAIN, {node.GPU_A}, {node.TRAIN_PID}),
    "inside another container of the pod": sees(inside(node.TRAIN_HELPER), TEAM_A_TRAIN, {node.GPU_B}, {node.HELPER_PID}),
    "inside a container that names its pod": sees(
        inside(node.INFER), {"team-b/infer/main"}, {node.GPU_B}, {node.INFER_PID}, "infer"
    ),
    "inside a container of the pod that holds nothing": sees(
        inside(ContainerRef(node.uid(1), node.cid(19))), TEAM_A_TRAIN, NONE, NO_PIDS
    ),
    "inside a pod that holds nothing": sees(inside(ContainerRef(node.uid(9), node.cid(91))), NONE, NONE, NO_PIDS),
    "inside a container that claims another pod's uid": sees(
        inside(ContainerRef(node.uid(9), node.TRAIN_MAIN.container_id)), NONE, NONE, NO_PIDS
    ),
    "inside a container with empty ids": sees(inside(ContainerRef("", "")), NONE, NONE, NO_PIDS),
    "inside a container that names another pod": refused(inside(node.INFER), Forbidden, "train"),
    "inside a pod that holds nothing and names another": refused(
        inside(ContainerRef(node.uid(9), node.cid(91))), Forbidden, "train"
    ),
    "the shared token without a name": refused(SHARED_TOKEN, Forbidden),
    "the shared token with a name": sees(SHARED_TOKEN, {"team-b/infer/main"}, NONE, NO_PIDS, "infer"),
    "the shared token with a name that two namespaces have": refused(SHARED_TOKEN, Forbidden, "train"),
    "the shared token with namespace and name": sees(SHARED_TOKEN, TEAM_A_TRAIN, NONE, NO_PIDS, "team-a/train"),
    "the shared token with a pod of nowhere": refused(SHARED_TOKEN, Forbidden, "nowhere"),
    "the shared token with a slash only": refused(SHARED_TOKEN, Forbidden, "/"),
}


def name_of(found: ContainerUsage) -> str:
    return f"{found.pod_namespace}/{found.pod_name}/{found.container_name}"


@pytest.mark.parametrize("name", CASES)
def test_a_caller_sees_what_is_its_own_and_nothing_else(name: str) -> None:
    case, usage = CASES[name], node.usage()
    if case.refused:
        with pytest.raises(case.refused):
            views.sight(case.caller, usage, case.pod_id)
        return
    seen = views.sight(case.caller, usage, case.pod_id)
    assert {name_of(found) for found in seen.containers} == case.containers
    assert {uuid for uuid in (node.GPU_A, node.GPU_B) if seen.sees_device(uuid)} == case.devices


@pytest.mark.parametrize("name", CASES)
def test_a_caller_kills_what_is_its_own_and_nothing_else(name: str) -> None:
    case, usage = CASES[name], node.usage()
    may = set[int]()
    for pid in (*EVERY_PID, 1, 0, 2**32 - 1):
        try:
            may.add(views.process_to_kill(case.caller, usage, pid).pid)
        except (Forbidden, Unauthenticated):
            continue
    # A kill names no pod, so a caller that was refused only for the name it gave keeps what is its own.
    own = CASES["inside a container that names its pod"].kills if case.caller == inside(node.INFER) else case.kills
    own = frozenset({node.OTHER_TRAIN_PID}) if case.caller == holder(*node.ids(node.GPU_A, 4, 5)) else own
    assert may == own


def test_books_read_before_the_grant_open_nothing_for_they_name_the_former_holder() -> None:
    caller = replace(holder(*node.ids(node.GPU_A, 0, 1, 2, 3)), granted_at=100.0)
    for books_at in (99.0, 100.0):
        usage = node.usage(books_at=books_at)
        with pytest.raises(Unauthenticated, match="not told yet"):
            views.sight(caller, usage)
        with pytest.raises(Unauthenticated, match="not told yet"):
            views.process_to_kill(caller, usage, node.TRAIN_PID)
    assert {name_of(found) for found in views.sight(caller, node.usage(books_at=100.1)).containers} == TEAM_A_TRAIN


def test_a_caller_whom_the_kernel_names_needs_no_books_of_its_time() -> None:
    caller = replace(inside(node.INFER), granted_at=100.0)
    assert {name_of(found) for found in views.sight(caller, node.usage(books_at=1.0)).containers} == {"team-b/infer/main"}


def test_a_foreign_process_and_none_at_all_are_refused_in_the_same_words() -> None:
    texts = set()
    for pid in (node.INFER_PID, 3999):
        with pytest.raises(Forbidden) as raised:
            views.process_to_kill(inside(node.TRAIN_MAIN), node.usage(), pid)
        texts.add(str(raised.value).replace(str(pid), "PID"))
    assert len(texts) == 1


def test_a_process_on_a_foreign_device_is_the_containers_own_all_the_same() -> None:
    stray = node.claim(node.GPU_B, (), node.process(1001, node.TRAIN_MAIN, node.GPU_B, 5))
    usage = node.usage()
    main = replace(usage.containers[1], devices=(*usage.containers[1].devices, stray))
    usage = replace(usage, containers=(usage.containers[0], main, *usage.containers[2:]))
    assert not views.sight(inside(node.TRAIN_MAIN), usage).sees_device(node.GPU_B)
    assert views.process_to_kill(inside(node.TRAIN_MAIN), usage, 1001).pid == 1001


def test_two_entries_with_empty_ids_are_strangers_to_each_other() -> None:
    usage = node.usage(containers=(ContainerUsage("x", "one", "main"), ContainerUsage("y", "two", "main")))
    assert views.sight(inside(ContainerRef("", "")), usage).containers == ()
    assert views.sight(inside(ContainerRef(node.uid(1), "")), usage).containers == ()


def test_a_recreated_pod_of_the_same_name_is_another_pod_for_the_kernel() -> None:
    usage = node.usage()
    again = replace(usage.containers[1], pod_uid=node.uid(8), container_id=node.cid(81))
    usage = replace(usage, containers=(*usage.containers, again))
    seen = views.sight(inside(ContainerRef(node.uid(8), node.cid(81))), usage)
    assert {found.pod_uid for found in seen.containers} == {node.uid(8)}


def test_a_long_pod_name_is_known_by_its_host_name() -> None:
    name = "n" * 80
    usage = node.usage(containers=(replace(node.usage().containers[2], pod_name=name),))
    assert views.sight(inside(node.INFER), usage, "n" * 63).containers
    with pytest.raises(Forbidden):
        views.sight(inside(node.INFER), usage, "n" * 62)


def test_before_the_first_scan_only_the_kernel_and_the_operator_are_known() -> None:
    assert views.sight(OPERATOR, NO_USAGE).containers == ()
    assert views.sight(inside(node.INFER), NO_USAGE).containers == ()
    with pytest.raises(Unauthenticated):
        views.sight(holder("GPU-a::0"), NO_USAGE)


def test_a_foreign_name_in_a_refusal_is_short_and_printable() -> None:
    with pytest.raises(Forbidden) as raised:
        views.sight(inside(node.INFER), node.usage(), "\x1b[2J" * 1000)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 200


def test_only_the_node_level_passes_where_the_node_is_needed() -> None:
    views.refuse_unless_node(OPERATOR)
    with pytest.raises(Forbidden, match="l0"):
        views.refuse_unless_node(SHARED_TOKEN)


def test_a_reference_without_a_pod_is_nobodys_even_if_an_entry_has_none_either() -> None:
    nameless = replace(node.usage().containers[2], pod_uid="")
    usage = node.usage(containers=(nameless,))
    assert views.sight(inside(ContainerRef("", node.INFER.container_id)), usage).own == ()


def test_a_process_without_a_container_id_is_not_killed_for_a_container_without_one() -> None:
    stray = node.process(7, ContainerRef(node.uid(3), ""), node.GPU_B, 5)
    young = replace(node.usage().containers[4], devices=(node.claim(node.GPU_B, (4,), stray),))
    with pytest.raises(Forbidden):
        views.process_to_kill(holder(*node.ids(node.GPU_B, 4)), node.usage(containers=(young,)), 7)


def test_the_shared_token_is_told_that_it_cannot_kill() -> None:
    with pytest.raises(Forbidden, match="cannot kill"):
        views.process_to_kill(SHARED_TOKEN, node.usage(), node.INFER_PID)
