"""One run of the soak: churn in turns, a rest after each, a sample every few seconds."""

import platform
import random
from dataclasses import dataclass
from functools import partial

import trio

from mortalgpu import __version__
from mortalgpu.simulation.driver import v100_uuid
from mortalgpu.units import MIB
from tests.e2e.daemon import program
from tests.soak.clients import Clients, fetch
from tests.soak.judge import LONG_SECONDS
from tests.soak.ledger import Ledger
from tests.soak.node import Node, soak_node
from tests.soak.sampler import check_rest, sample
from tests.soak.tenants import Tenants
from tests.soak.troubles import Troubles

SAMPLE_SECONDS = 10.0
SETTLE_SECONDS = 13.0
"""Longer than idle threads of Trio's cache live."""
STIRS, STIR_SECONDS = 11, 0.5
"""Changes of a device's memory at the beginning of a rest: each is a reason to scan, and scans let go of who has gone."""
REST_SAMPLES = 5
FEWEST_TURNS = 3
"""The first rest is warm-up; the others are compared."""


@dataclass(frozen=True)
class Pace:
    """Seconds: of one turn of churn, and on average between pods, troubles and calls."""

    turn: float
    settle: float = SETTLE_SECONDS
    pods: float = 1.5
    troubles: float = 6.0
    calls: float = 0.5
    samples: float = SAMPLE_SECONDS


def pace_of(seconds: float) -> Pace:
    """Return a pace: in a short run everything comes faster."""
    if seconds >= LONG_SECONDS:
        return Pace(turn=285.0)
    return Pace(turn=seconds / 4, settle=3.0, pods=1.0, troubles=2.0, calls=0.3, samples=2.0)


async def soak(ledger: Ledger, seconds: float, seed: int) -> None:
    """Run the daemon under churn for so long; everything that is seen goes to the ledger."""
    pace = pace_of(seconds)
    async with soak_node(ledger) as node:
        frozen = program().read_bytes()[:2] != b"#!"
        ledger.write(
            "begin", version=__version__, python=platform.python_version(), frozen=frozen, seconds=seconds, seed=seed,
            enforces=node.tree is not None, turn_seconds=pace.turn,
        )  # fmt: skip
        tenants = Tenants(node, random.Random(seed), pace.pods)
        clients = Clients(node, tenants, random.Random(seed + 1), pace.calls)
        troubles = Troubles(node, random.Random(seed + 2), pace.troubles)
        async with trio.open_nursery() as nursery:
            for serve in (tenants.serve, clients.serve, troubles.serve, partial(_samples, node, pace)):
                nursery.start_soon(serve)
            ends, turns = trio.current_time() + seconds, 0
            while trio.current_time() < ends or turns < FEWEST_TURNS:
                await trio.sleep(pace.turn)
                await _rest(node, pace, tenants, clients, troubles)
                turns += 1
            nursery.cancel_scope.cancel()
    ledger.write("end", counts=dict(ledger.counts))


async def _rest(node: Node, pace: Pace, tenants: Tenants, clients: Clients, troubles: Troubles) -> None:
    """Let everybody go, look at what is left, and let them come again."""
    await troubles.rest()
    await tenants.clear()
    await clients.rest()
    await check_rest(node)
    for number in range(STIRS):
        node.driver.set_used(v100_uuid(0), number % 2 * MIB)
        await trio.sleep(STIR_SECONDS)
    await trio.sleep(pace.settle)
    for _ in range(REST_SAMPLES):
        await _sample(node, quiet=True)
        await trio.sleep(1)
    node.ledger.path.with_suffix(".page").write_text(await fetch(node.metrics["daemon"], "/metrics"))
    node.ledger.count("rests")
    clients.resting = False
    troubles.resting = False
    tenants.reopen()


async def _samples(node: Node, pace: Pace) -> None:
    while True:
        if node.daemon.process is None or not node.daemon.process.running:
            node.ledger.wrong("the daemon has ended")
            raise RuntimeError(node.daemon.log()[-5000:])
        await _sample(node)
        await trio.sleep(pace.samples)


async def _sample(node: Node, *, quiet: bool = False) -> None:
    try:
        await sample(node, quiet=quiet)
    except (OSError, AssertionError, trio.TooSlowError) as error:
        node.ledger.wrong(f"no sample could be taken: {error!r}")
