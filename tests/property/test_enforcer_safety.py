"""Whatever happens on a node, in whatever order: the enforcer signals only who is certainly over, and leaves nobody over.

Hypothesis writes the story (pods, processes, numbers that change hands, neighbours that fall silent, restarts of the daemon,
jumps of the clock), the twins play it in virtual time, and the real scanner and enforcer live through it. Each signal is
held against the truth at the moment it is sent, which the services never see.
"""

import trio
import trio.testing
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from mortalgpu.simulation.host import Temper
from mortalgpu.units import MIB
from tests.property.story import Story
from tests.unit.scan.making import ref
from tests.unit.scan.node import LOOK_SECONDS, Node
from tests.unit.scan.node import start_daemon as start_services

CALM_SECONDS = 15.0
"""After this long without trouble everything that passes has passed: back-offs, drains, rests."""

some = st.integers(0, 7)
device = st.integers(0, 1)
memory = st.sampled_from([None, 0, 1, 50, 99, 100, 101, 150, 200, 201, 350, 900])
tempers = st.sampled_from([*[Temper()] * 4, Temper(kill_seconds=0.25), Temper(kill_seconds=3.0), Temper(protected=True)])
CALLS = {
    "create": st.tuples(st.integers(1, 4), device, st.one_of(st.none(), some)),
    "delete": st.tuples(some, st.booleans()),
    "annotate": st.tuples(some, st.sampled_from(["", "3", "6", "99", "many", "0"])),
    "start": st.tuples(st.integers(-1, 7), memory, device, tempers),
    "grow": st.tuples(some, memory, device),
    "end": st.tuples(some),
    "reuse": st.tuples(some, st.integers(-1, 7), st.booleans()),
    "kubelet": st.tuples(st.sampled_from(["answers", "refuses", "hangs"])),
    "pod_source": st.tuples(st.booleans()),
    "driver": st.tuples(st.sampled_from(["answers", "answers", "fails", "hangs"])),
    "heal": st.tuples(),
    "jump": st.tuples(st.sampled_from([-86_400.0, -1.0, 5.0, 86_400.0])),
    "restart": st.tuples(),
    "wait": st.tuples(st.sampled_from([0.02, 0.1, 0.3, 1.0, 6.0])),
}
OFTEN = ("create", "start", "start", "grow", "grow", "wait", "wait", "wait", "reuse")
steps = st.sampled_from([*CALLS, *OFTEN]).flatmap(lambda name: st.tuples(st.just(name), CALLS[name]))


async def live_through(story: Story, happenings: list[tuple[str, tuple[object, ...]]]) -> None:
    """Play the story, let all trouble pass, and look at who is left."""
    async with story.node.driver.open(), trio.open_nursery() as nursery:
        daemon = await start_daemon(nursery, story.node)
        for name, arguments in happenings:
            if name == "restart":
                daemon.cancel()
                story.restarted()
                daemon = await start_daemon(nursery, story.node)
            elif name == "wait":
                await pass_time(story, float(str(arguments[0])))
            elif name == "jump":
                story.node.clock.jump(float(str(arguments[0])))
            else:
                getattr(story, name)(*arguments)
        story.heal()
        await pass_time(story, CALM_SECONDS)
        left = story.left_over()
        nursery.cancel_scope.cancel()
    event(f"signals: {min(3, len(story.node.host.signals))}")
    assert not story.wrong, story.wrong
    assert not left, left


async def start_daemon(nursery: trio.Nursery, node: Node) -> trio.CancelScope:
    """Start scanner and enforcer with nothing remembered; the scope ends them."""
    scope = trio.CancelScope()

    async def live(*, task_status: trio.TaskStatus[None]) -> None:
        with scope:
            async with trio.open_nursery() as services:
                await start_services(services, node)
                task_status.started()

    await nursery.start(live)
    return scope


async def pass_time(story: Story, seconds: float) -> None:
    """Let time pass, and the driver forget the dead on the way."""
    end = trio.current_time() + seconds
    while trio.current_time() < end:
        await trio.sleep(min(LOOK_SECONDS / 2, end - trio.current_time()))
        story.node.freed()


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)
@given(st.lists(steps, min_size=5, max_size=40))
def test_no_story_ends_with_a_wrong_signal_or_with_somebody_left_over(
    happenings: list[tuple[str, tuple[object, ...]]],
) -> None:
    async def main() -> None:
        story = Story()
        for number in range(2):
            story.create(2 - number, 0, None)
            story.start(number, 60, 0, Temper())
        await live_through(story, happenings)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.integers(1, 4),
    st.lists(st.integers(1, 95), min_size=1, max_size=4),
    st.integers(0, 3),
    st.integers(1, 600),
    st.floats(0.0, 7.0),
)
def test_whoever_goes_over_is_acted_on_within_two_looks(
    shares: int, others: list[int], which: int, excess: int, after_seconds: float
) -> None:
    async def main() -> None:
        story = Story()
        story.create(shares, 0, None)
        truth = story.pods[1]
        for mib in others[:shares]:
            story.start(0, mib, 0, Temper())
        async with story.node.driver.open(), trio.open_nursery() as nursery:
            await start_daemon(nursery, story.node)
            await trio.sleep(1 + after_seconds)
            process = story.node.host.processes()[which % len(story.node.host.processes())]
            story.use(process, truth.limit_mib("GPU-a") + excess, "GPU-a")
            await trio.sleep(2 * LOOK_SECONDS)
            assert story.node.killed == [process.pid]
            nursery.cancel_scope.cancel()
        assert not story.wrong

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_the_story_itself_catches_a_wrong_signal() -> None:
    async def main() -> None:
        story = Story()
        story.create(2, 0, None)
        story.start(0, 150, 0, Temper())
        process = story.node.host.processes()[0]
        handle = await story.node.host.open(process.pid)
        assert handle is not None
        await handle.kill(process)
        assert len(story.wrong) == 1
        assert story.used_mib(process.container or ref(0), "GPU-a") * MIB == 0

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
