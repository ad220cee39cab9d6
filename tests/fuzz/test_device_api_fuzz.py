"""Ten thousand mutated frames and messages against the device API's port, from fixed seeds."""

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from hyperframe.frame import PingFrame, PriorityFrame, SettingsFrame, WindowUpdateFrame

from mortalgpu.rpc.framing import frame
from mortalgpu.rpc.pb.device.v1 import device_pb2 as pb
from tests.campaign import Tally
from tests.fuzz.device_api_siege import Siege, siege
from tests.unit.deviceapi import node
from tests.unit.rpc.trial import PREFACE, RawClient

pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(900)]

METHODS = (
    "GetGpuContainers",
    "StreamGpuContainers",
    "GetDevices",
    "GetMetaDeviceInfo",
    "KillGpuProcess",
    "PatchConfigs",
    "PingServer",
    "NoSuchMethod",
)
FRAMES, MESSAGES = 8_000, 2_000
LONG_FORM = 10
"""Times as many in the long form of the campaign."""
SEEDS = 2
FRAMES_PER_CONNECTION = 40
CONNECTIONS_AT_ONCE = 8
GOOD_STATUSES = {"0", "3", "5", "7", "8", "12", "16"}
"""OK, invalid, not found, denied, too much, unimplemented, unauthenticated: what a caller can cause. Never 2, 13 or 14."""

MESSAGE_BODIES = [
    pb.GetGpuContainersRequest(pod_id="train").SerializeToString(),
    pb.KillGpuProcessRequest(pid=node.TRAIN_PID).SerializeToString(),
    pb.PatchConfigsRequest(meta_gpus=7).SerializeToString(),
    pb.GetDevicesResponse(device={"x": pb.Device(uuid="y")}).SerializeToString(),
    b"",
]


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Damage bytes in one of the ways that damage happens."""
    spoilt = bytearray(data)
    place = chance.randrange(len(spoilt)) if spoilt else 0
    match chance.randrange(7):
        case 0 if spoilt:
            spoilt[place] ^= 1 << chance.randrange(8)
        case 1 if spoilt:
            spoilt[place] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
        case 2:
            del spoilt[place:]
        case 3:
            spoilt[place:place] = chance.randbytes(chance.randrange(1, 9))
        case 4:
            spoilt += spoilt[place : place + 64]
        case 5 if len(spoilt) > 3:
            spoilt[0:3] = chance.randrange(2**24).to_bytes(3, "big")
        case _:
            spoilt += chance.randbytes(chance.randrange(64))
    return bytes(spoilt)


def frames(client: RawClient, tokens: list[str], chance: random.Random) -> Iterator[bytes]:
    """Good frames of every kind, without end."""
    stream_id = 1
    while True:
        path = f"/device.v1.DeviceService/{chance.choice(METHODS)}"
        yield client.headers(stream_id, path, (), authorization=chance.choice(tokens)).serialize()
        yield client.data(stream_id, frame(chance.choice(MESSAGE_BODIES))).serialize()
        other: list[bytes] = [
            client.reset(stream_id).serialize(),
            WindowUpdateFrame(chance.choice((0, stream_id)), window_increment=chance.randrange(1, 2**31)).serialize(),
            SettingsFrame(0, settings={chance.randrange(1, 7): chance.randrange(2**31)}).serialize(),
            PingFrame(0, opaque_data=b"12345678").serialize(),
            PriorityFrame(stream_id, depends_on=0, stream_weight=3).serialize(),
        ]
        yield chance.choice(other)
        stream_id += 2


async def attack_with_frames(besieged: Siege, tokens: list[str], chance: random.Random) -> int:
    """Send mutated frames on one connection until it is ended or enough were sent; return how many."""
    client = await besieged.raw(greet=False)
    sent = 0
    async with client.stream:
        with suppress(trio.BrokenResourceError), trio.move_on_after(5):
            await client.stream.send_all(PREFACE + SettingsFrame(0).serialize())
            for data in frames(client, tokens, chance):
                await client.stream.send_all(mutated(data, chance) if chance.random() < 0.5 else data)
                sent += 1
                if sent == FRAMES_PER_CONNECTION:
                    break
            with trio.move_on_after(0.005):
                await client.stream.receive_some(65536)
    return sent


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_mutated_frames_hurt_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, seed: int, long_form: bool, tally: Tally
) -> None:
    chance = random.Random(seed)
    enough, sent = FRAMES // SEEDS * (LONG_FORM if long_form else 1), 0
    async with siege(tmp_path, caplog) as besieged:
        besieged.made.populate()
        tokens = [besieged.made.node_token(), besieged.made.token(*node.ids(node.GPU_A, 0, 1, 2, 3)), "rubbish", "é"]

        async def attack() -> None:
            nonlocal sent
            while sent < enough:
                more = await attack_with_frames(besieged, tokens, chance)
                sent += more

        async with trio.open_nursery() as nursery:
            for _ in range(CONNECTIONS_AT_ONCE):
                nursery.start_soon(attack)
    assert sent >= enough
    tally.add("inputs tried", sent)


async def attack_with_messages(
    besieged: Siege, chance: random.Random, found: Counter[str | None], enough: int = MESSAGES
) -> None:
    """Send mutated messages in good frames, one after the other, until enough were answered."""
    client, stream_id = await besieged.raw(), 1
    tokens = [besieged.made.node_token(), "rubbish"]
    unary = [name for name in METHODS if name != "StreamGpuContainers"]
    while found.total() < enough:
        path = f"/device.v1.DeviceService/{chance.choice(unary)}"
        message = mutated(chance.choice(MESSAGE_BODIES), chance)
        body = frame(message) if chance.random() < 0.7 else mutated(frame(message), chance)
        await client.send(
            client.headers(stream_id, path, (), authorization=chance.choice(tokens)), client.data(stream_id, body)
        )
        status = await client.status_of(stream_id)
        found[status] += 1
        stream_id += 2
        if status is None or status.startswith("goaway"):
            await client.stream.aclose()
            client, stream_id = await besieged.raw(), 1
    await client.stream.aclose()


async def test_mutated_messages_are_answered_with_a_status_that_fits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, long_form: bool, tally: Tally
) -> None:
    found: Counter[str | None] = Counter()
    enough = MESSAGES * (LONG_FORM if long_form else 1)
    async with siege(tmp_path, caplog) as besieged:
        besieged.made.populate()
        async with trio.open_nursery() as nursery:
            for seed in range(4):
                nursery.start_soon(attack_with_messages, besieged, random.Random(seed), found, enough)
    assert set(found) <= GOOD_STATUSES
    assert len(found) >= 5
    tally.add("inputs tried", found.total())
