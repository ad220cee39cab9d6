"""From nothing to useful, and back after trouble: start, kubelet's restart, a GPU that is lost, sick, or found again."""

import subprocess
from functools import partial

import trio

from mortalgpu.simulation.kubelet import SimulatedKubelet, running
from tests.bench.effort import Effort
from tests.bench.figures import AIMED_AT
from tests.bench.forms import Form
from tests.bench.full_node import RESOURCE, FullNode, shared_machine
from tests.bench.running import daemon
from tests.bench.timing import Samples, timed

XID_FALLEN_OFF = 79


async def of_a_program(form: Form, effort: Effort) -> Samples:
    """Measure what starts from nothing."""
    argv = [*form.mortalgpu, "--version"]
    run = partial(subprocess.run, argv, env=form.environment, check=True, stdout=subprocess.DEVNULL)
    versions = await trio.to_thread.run_sync(timed, effort.processes, run)
    starts = [await to_registered(form) for _ in range(effort.starts)]
    return {"version": [each / 1000 for each in versions], "registered": starts}


async def to_registered(form: Form) -> float:
    """Start a daemon, and end it once it has registered; return the seconds until then."""
    with shared_machine(AIMED_AT) as on:
        async with running(SimulatedKubelet(on.kubelet_root)) as kubelet:
            begun = trio.current_time()
            async with daemon(form, on, "--set", "podSource=cri", "--set", "criSocket=/nowhere.sock") as ours:
                await ours.until(lambda: kubelet.registrations, "the registration")
                return trio.current_time() - begun


async def of_trouble(node: FullNode, effort: Effort) -> Samples:
    """Measure how soon kubelet knows; leaves some GPUs unhealthy."""
    again = [await _registered_again(node) for _ in range(effort.restarts)]
    # Each on a GPU of its own, for it stays sick; before the losses, after which the driver's events are listened to anew.
    sick = [await _sick(node, number) for number in range(effort.losses)]
    losses = [await _lost_and_found(node, effort.losses) for _ in range(effort.losses)]
    return {
        "registered_again": again,
        "xid_unhealthy": sick,
        "lost_unhealthy": [lost for lost, _ in losses],
        "found_healthy": [found for _, found in losses],
    }


async def _registered_again(node: FullNode) -> float:
    await node.kubelet.restart()
    begun = trio.current_time()
    await node.listed_everywhere()
    return trio.current_time() - begun


async def _sick(node: FullNode, number: int) -> float:
    """Let one more GPU report that it has fallen off the bus."""
    begun = trio.current_time()
    node.machine.driver.push_event(node.machine.driver.state.gpus[number].uuid, data=XID_FALLEN_OFF)
    return await _until_unhealthy(node, begun, number + 1)


async def _lost_and_found(node: FullNode, others: int) -> tuple[float, float]:
    """Let the last GPU go and come back, while some others are sick."""
    gpu = node.machine.driver.state.gpus[-1].uuid
    begun = trio.current_time()
    node.machine.driver.lose(gpu)
    lost = await _until_unhealthy(node, begun, others + 1)
    begun = trio.current_time()
    node.machine.driver.restore(gpu)
    return lost, await _until_unhealthy(node, begun, others)


async def _until_unhealthy(node: FullNode, begun: float, count: int) -> float:
    """Wait until the shares of so many GPUs are unhealthy in kubelet's eyes; return the seconds since."""
    each = node.meta_devices // len(node.machine.driver.state.gpus)
    left = (node.meta_devices, node.meta_devices - count * each)
    await node.ours.until(lambda: node.kubelet.capacity(RESOURCE) == left, f"{count} unhealthy GPUs")
    return trio.current_time() - begun
