"""Who calls: tokens on the network, the kernel's word on a Unix socket, and every way to pretend."""

import os
from collections.abc import Iterator

import pytest
import trio

from mortalgpu.deviceapi import tokens
from mortalgpu.deviceapi.identity import Door, Identity
from mortalgpu.deviceapi.keys import Secrets
from mortalgpu.deviceapi.succession import SIBLING_SECONDS, Succession
from mortalgpu.deviceapi.tokens import Keyring
from mortalgpu.deviceapi.views import Caller
from mortalgpu.errors import HostError, Unauthenticated
from mortalgpu.model.usage import ContainerUsage, DeviceClaim
from mortalgpu.rpc.peer import STRANGER, Peer
from mortalgpu.simulation.host import SimulatedHost
from tests.unit.deviceapi import node
from tests.unit.deviceapi.test_tokens import KEY, NOW, OLD_KEY, RING, signed

IDS = node.ids(node.GPU_A, 0, 1, 2, 3)
OTHERS_IDS = node.ids(node.GPU_A, 4, 5)
STATIC_L0, STATIC_L1 = "an opaque device token", "an opaque container token"
NETWORK, SOCKET, ADMIN = Door.NETWORK, Door.CONTAINER_SOCKET, Door.ADMIN_SOCKET


FROM_AFAR = STRANGER


def caller_of(pid: int | None, uid: int, pidfd: int | None) -> Peer:
    """The other end of a Unix socket. The descriptor is of a process that the test really has."""
    return Peer("unix", f"uid {uid}", pid, uid, uid, pidfd)


@pytest.fixture
def alive() -> Iterator[int]:
    """A descriptor of a process that lives."""
    descriptor = os.pidfd_open(os.getpid())
    yield descriptor
    os.close(descriptor)


def doorkeeper(
    door: Door, host: SimulatedHost | None = None, secrets: Secrets | None = None, succession: Succession | None = None
) -> Identity:
    return Identity(
        door,
        secrets=lambda: secrets or Secrets(RING),
        succession=succession or Succession(),
        processes=host or SimulatedHost(),
        now=lambda: NOW,
    )


def container_token(ids: tuple[str, ...] = IDS, at: float = NOW, keyring: Keyring = RING) -> str:
    return tokens.mint_container_token(keyring, ids, now=at)


NODE_TOKEN = tokens.mint(RING, "l0", now=NOW, email="op@site")


@pytest.mark.parametrize("form", ["{}", "Bearer {}", "bearer   {}", "  {}  "])
async def test_a_token_is_read_with_and_without_the_word_bearer(form: str) -> None:
    caller = await doorkeeper(NETWORK).identify(FROM_AFAR, form.format(NODE_TOKEN))
    assert caller == Caller("l0", email="op@site")
    assert await doorkeeper(NETWORK).identify(FROM_AFAR, form.format(NODE_TOKEN).encode()) == caller


async def test_a_containers_token_stands_for_its_ids() -> None:
    caller = await doorkeeper(NETWORK).identify(FROM_AFAR, container_token())
    assert (caller.level, caller.meta_devices, caller.container) == ("l1", frozenset(IDS), None)


REFUSED = {
    "nothing": None,
    "an empty text": "",
    "the word alone": "Bearer ",
    "another scheme": f"Basic {NODE_TOKEN}",
    "two tokens in one": f"{NODE_TOKEN}, {NODE_TOKEN}",
    "a container level without ids": tokens.mint(RING, "l1", now=NOW),
    "bytes that are no text": b"\xff\xfe\x00",
    "a forged token": signed({"visibilityLevel": "l0"}, b"x" * 32),
    "an expired token": signed({"visibilityLevel": "l0", "exp": NOW - 60}),
    "a swapped payload": NODE_TOKEN.split(".")[0] + "." + NODE_TOKEN.split(".")[1] + "." + container_token().split(".")[2],
}


@pytest.mark.parametrize("door", [NETWORK, SOCKET, ADMIN])
@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_no_proof_is_refused_at_every_door(name: str, door: Door) -> None:
    with pytest.raises(Unauthenticated):
        await doorkeeper(door).identify(FROM_AFAR, REFUSED[name])


async def test_a_static_token_is_believed_only_where_the_operator_set_it() -> None:
    secrets = Secrets(RING, STATIC_L0, STATIC_L1)
    assert (await doorkeeper(NETWORK, secrets=secrets).identify(FROM_AFAR, STATIC_L0)).level == "l0"
    shared = await doorkeeper(NETWORK, secrets=secrets).identify(FROM_AFAR, STATIC_L1)
    assert (shared.level, shared.names_itself) == ("l1", True)
    for token in (STATIC_L0, STATIC_L1):
        with pytest.raises(Unauthenticated):
            await doorkeeper(NETWORK).identify(FROM_AFAR, token)


async def test_a_static_token_that_is_a_signed_one_names_itself_only_where_the_operator_set_it() -> None:
    legacy = signed({"email": "metagpu@instance", "visibilityLevel": "l1"})
    caller = await doorkeeper(NETWORK, secrets=Secrets(RING, container_token=legacy)).identify(FROM_AFAR, legacy)
    assert caller.names_itself
    with pytest.raises(Unauthenticated, match="not the configured"):
        await doorkeeper(NETWORK).identify(FROM_AFAR, legacy)


async def test_a_static_token_of_ours_that_has_expired_is_refused() -> None:
    legacy = signed({"visibilityLevel": "l0", "exp": NOW - 60})
    with pytest.raises(Unauthenticated, match="expired"):
        await doorkeeper(NETWORK, secrets=Secrets(RING, device_token=legacy)).identify(FROM_AFAR, legacy)


async def test_the_container_token_set_as_the_device_token_gives_no_more_than_it_says() -> None:
    legacy = signed({"visibilityLevel": "l1"})
    with pytest.raises(Unauthenticated):
        await doorkeeper(NETWORK, secrets=Secrets(RING, device_token=legacy)).identify(FROM_AFAR, legacy)


async def test_tokens_of_the_key_before_the_last_rotation_are_refused() -> None:
    token = container_token(keyring=Keyring(OLD_KEY))
    with pytest.raises(Unauthenticated):
        await doorkeeper(NETWORK, secrets=Secrets(Keyring(KEY))).identify(FROM_AFAR, token)


async def test_the_token_of_an_earlier_container_dies_when_its_ids_are_granted_again() -> None:
    succession = Succession()
    keeper = doorkeeper(NETWORK, succession=succession)
    stolen = container_token(at=NOW - 3600)
    assert await keeper.identify(FROM_AFAR, stolen)
    succession.minted(IDS[:1], NOW)
    with pytest.raises(Unauthenticated, match="later container"):
        await keeper.identify(FROM_AFAR, stolen)


async def test_a_caller_is_known_with_the_moment_of_its_grant() -> None:
    succession = Succession(monotonic=lambda: 77.0)
    keeper = doorkeeper(NETWORK, succession=succession)
    assert (await keeper.identify(FROM_AFAR, container_token())).granted_at == float("-inf")
    succession.minted(IDS[:1], NOW)
    assert (await keeper.identify(FROM_AFAR, container_token())).granted_at == 77.0


def running(container_id: str, *ids: str) -> ContainerUsage:
    claim = DeviceClaim("GPU-a", "mortalgpu/v100", len(ids), 0, 0, meta_devices=ids)
    return ContainerUsage("ns", "pod", "main", "uid", container_id, (claim,))


async def test_a_token_dies_at_once_when_ids_that_a_container_ran_with_are_granted_again() -> None:
    succession = Succession()
    succession.minted(IDS, NOW - 2)
    succession.running([running("c1", *IDS)])
    succession.running([])
    succession.minted(IDS, NOW)
    with pytest.raises(Unauthenticated, match="later container"):
        succession.check(IDS, NOW - 2)
    succession.check(IDS, NOW)


async def test_a_container_that_ran_before_its_ids_were_known_wears_its_token_out_all_the_same() -> None:
    succession = Succession()
    succession.minted(IDS, NOW - 2)
    succession.running([running("c1")])
    succession.running([running("c1", *IDS)])
    succession.minted(IDS, NOW)
    with pytest.raises(Unauthenticated, match="later container"):
        succession.check(IDS, NOW - 2)


async def test_a_token_of_a_pod_that_is_still_being_admitted_lives_beside_its_siblings() -> None:
    succession = Succession()
    succession.running([running("c1", *IDS)])
    succession.minted(IDS, NOW - 2)
    succession.running([running("c1", *IDS), running("", *IDS)])
    succession.minted(IDS, NOW)
    succession.check(IDS, NOW - 2)


async def test_a_container_that_runs_on_keeps_its_token_when_it_is_met_again() -> None:
    succession = Succession()
    succession.running([running("c1", *IDS)])
    succession.met(IDS, NOW - 60)
    succession.check(IDS, NOW - 60)
    succession.minted(IDS, NOW)
    with pytest.raises(Unauthenticated, match="later container"):
        succession.check(IDS, NOW - 60)


async def test_a_later_token_that_was_met_ends_the_earlier_one_even_after_a_restart() -> None:
    keeper = doorkeeper(NETWORK)
    assert await keeper.identify(FROM_AFAR, container_token())
    with pytest.raises(Unauthenticated, match="later container"):
        await keeper.identify(FROM_AFAR, container_token(at=NOW - SIBLING_SECONDS - 1))


async def test_tokens_minted_together_live_side_by_side() -> None:
    keeper = doorkeeper(NETWORK)
    assert await keeper.identify(FROM_AFAR, container_token())
    assert await keeper.identify(FROM_AFAR, container_token(at=NOW - SIBLING_SECONDS + 1))


async def test_an_operators_token_for_a_container_does_not_end_the_containers_own() -> None:
    keeper = doorkeeper(NETWORK)
    await keeper.identify(FROM_AFAR, tokens.mint(RING, "l1", now=NOW, email="op@site", meta_devices=IDS))
    assert await keeper.identify(FROM_AFAR, container_token(at=NOW - 3600))


async def test_on_the_socket_the_kernel_says_which_container_calls(alive: int) -> None:
    host = SimulatedHost()
    process = host.start(node.INFER)
    caller = await doorkeeper(SOCKET, host).identify(caller_of(process.pid, 1000, alive), None)
    assert caller == Caller("l1", container=node.INFER)


@pytest.mark.parametrize("door", [SOCKET, ADMIN])
async def test_another_containers_token_changes_nothing_on_the_socket(door: Door, alive: int) -> None:
    host = SimulatedHost()
    process = host.start(node.INFER)
    caller = await doorkeeper(door, host).identify(caller_of(process.pid, 0, alive), container_token())
    assert caller == Caller("l1", container=node.INFER)


async def test_a_bad_token_does_not_spoil_what_the_kernel_says(alive: int) -> None:
    host = SimulatedHost()
    process = host.start(node.INFER)
    assert (await doorkeeper(SOCKET, host).identify(caller_of(process.pid, 0, alive), "rubbish")).container == node.INFER


async def test_an_operators_token_raises_a_container_to_the_node(alive: int) -> None:
    host = SimulatedHost()
    process = host.start(node.INFER)
    assert (await doorkeeper(SOCKET, host).identify(caller_of(process.pid, 0, alive), NODE_TOKEN)).level == "l0"


async def test_root_of_the_host_is_the_operator_at_the_admin_socket_only(alive: int) -> None:
    host = SimulatedHost()
    root = caller_of(host.start(None).pid, 0, alive)
    assert (await doorkeeper(ADMIN, host).identify(root, None)).level == "l0"
    with pytest.raises(Unauthenticated):
        await doorkeeper(SOCKET, host).identify(root, None)
    with pytest.raises(Unauthenticated):
        await doorkeeper(NETWORK, host).identify(root, None)


async def test_another_user_of_the_host_needs_a_token(alive: int) -> None:
    host = SimulatedHost()
    user = caller_of(host.start(None).pid, 1000, alive)
    for door in (ADMIN, SOCKET):
        with pytest.raises(Unauthenticated):
            await doorkeeper(door, host).identify(user, None)
        assert (await doorkeeper(door, host).identify(user, NODE_TOKEN)).level == "l0"


async def test_a_process_that_ended_before_it_was_looked_at_is_nobody(alive: int) -> None:
    host = SimulatedHost()
    with pytest.raises(Unauthenticated, match="ended"):
        await doorkeeper(SOCKET, host).identify(caller_of(4242, 0, alive), container_token())


async def test_a_reused_pid_is_not_believed() -> None:
    """The process that connected is dead; its number now belongs to a process of another container."""
    child = await trio.lowlevel.open_process(["true"])
    descriptor = os.pidfd_open(child.pid)
    await child.wait()
    host = SimulatedHost()
    victim = host.start(node.TRAIN_MAIN)
    try:
        with pytest.raises(Unauthenticated, match="ended"):
            await doorkeeper(SOCKET, host).identify(caller_of(victim.pid, 0, descriptor), None)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("door", [SOCKET, ADMIN])
async def test_a_peer_whose_process_cannot_be_seen_needs_a_token(door: Door) -> None:
    host = SimulatedHost()
    process = host.start(node.INFER)
    for peer in (caller_of(None, 0, None), caller_of(process.pid, 0, None), caller_of(host.start(None).pid, 0, None)):
        with pytest.raises(Unauthenticated):
            await doorkeeper(door, host).identify(peer, None)


async def test_a_socket_peer_is_counted_by_its_container(alive: int) -> None:
    host = SimulatedHost()
    keeper = doorkeeper(SOCKET, host)
    inside, outside = caller_of(host.start(node.INFER).pid, 0, alive), caller_of(host.start(None).pid, 0, alive)
    assert (await keeper.recognise(inside)).address == f"container {node.INFER.container_id}"
    assert (await keeper.recognise(inside)).pidfd == alive
    for peer in (outside, caller_of(4242, 0, alive), caller_of(None, 0, None)):
        assert await keeper.recognise(peer) == peer


async def test_a_host_that_tells_nothing_leaves_a_peer_as_it_is(alive: int) -> None:
    host = SimulatedHost()

    async def refuse(pid: int) -> None:
        raise HostError("no open files left")

    host.open = refuse  # type: ignore[method-assign]
    peer = caller_of(7, 0, alive)
    assert await doorkeeper(SOCKET, host).recognise(peer) == peer


async def test_on_the_network_nothing_but_a_token_counts(alive: int) -> None:
    host = SimulatedHost()
    peer = caller_of(host.start(node.INFER).pid, 0, alive)
    with pytest.raises(Unauthenticated):
        await doorkeeper(NETWORK, host).identify(peer, None)
    assert (await doorkeeper(NETWORK, host).identify(peer, NODE_TOKEN)).level == "l0"


async def test_a_token_minted_a_moment_before_its_sibling_does_not_turn_time_back() -> None:
    keeper = doorkeeper(NETWORK)
    for at in (NOW, NOW - SIBLING_SECONDS + 1):
        assert await keeper.identify(FROM_AFAR, container_token(at=at))
    with pytest.raises(Unauthenticated):
        await keeper.identify(FROM_AFAR, container_token(at=NOW - SIBLING_SECONDS - 1))
