"""The bench from its beginning to its end: which part measures what, on which stage, and in which order.

Both forms of the daemon are measured on each stage, one right after the other, so that what the machine's neighbours do
meanwhile is much the same for both. Stages whose containers need root are left out without it, and the report says so.
"""

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio

from tests.bench import calibration, cost, device_api, mgctl, plugin, reaction, scans, scrapes, sizes, start
from tests.bench.effort import LONG, SHORT, Effort
from tests.bench.figures import AIMED_AT, BY_NAME, NO_FORM
from tests.bench.forms import BEFORE, UNFROZEN, Form, built, frozen, unfrozen
from tests.bench.full_node import Crowd, crowd, full_node, why_no_crowd
from tests.bench.report import LeftOut, Report, Watch, report_of, row_of
from tests.bench.timing import Samples

WORK = (40, 5)
FULL = (200, 4)
"""Containers, and processes of each."""


@dataclass(slots=True)
class Run:
    """A run in progress: how much to measure, of which forms, and the samples so far."""

    effort: Effort
    forms: Sequence[Form]
    samples: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    left_out: list[LeftOut] = field(default_factory=list)
    begun_at: float = field(default_factory=time.monotonic)

    def take(self, found: Samples, form: str = NO_FORM) -> None:
        """Keep samples of declared figures. Raises KeyError for others."""
        for name, values in found.items():
            self.samples[BY_NAME[name].name, form] += values

    async def calibrate(self, stage: str) -> None:
        """Begin a stage with a look at the machine."""
        print(f"{time.monotonic() - self.begun_at:4.0f} s  {stage}", file=sys.stderr)
        self.take(await trio.to_thread.run_sync(calibration.measure))


Stage = Callable[[Run], Awaitable[None]]


async def _programs(run: Run) -> None:
    """Sizes, and starts from nothing."""
    for form in run.forms:
        await run.calibrate(f"programs, {form.name}")
        run.take(await start.of_a_program(form, run.effort), form.name)
        if form.name != UNFROZEN:
            run.take(sizes.measure(form), form.name)


async def _idle(run: Run) -> None:
    """A node without containers: cost, kubelet's calls, trouble."""
    for form in run.forms:
        await run.calibrate(f"a node without containers, {form.name}")
        async with full_node(form) as node:
            run.take(await cost.when_idle(node, run.effort), form.name)
            run.take(await plugin.measure(node, run.effort), form.name)
            run.take(await start.of_trouble(node, run.effort), form.name)


async def _sizes(run: Run) -> None:
    """kubelet's calls with fewer and with more meta-devices."""
    for count in set(run.effort.sizes) - {AIMED_AT}:
        for form in run.forms:
            await run.calibrate(f"{count:,} meta-devices, {form.name}")
            async with full_node(form, meta_devices=count) as node:
                run.take(await plugin.measure(node, run.effort), form.name)


async def _work(run: Run) -> None:
    """40 containers with 200 processes: cost, reaction."""
    run.take(reaction.metagpu_model())

    async def measure(form: Form, people: Crowd) -> None:
        async with full_node(form, people) as node:
            run.take(await cost.at_work(node, run.effort, "work"), form.name)
            run.take(await reaction.measure(node, run.effort), form.name)
            run.take(await cost.when_memory_moves(node, run.effort), form.name)

    await _with_people(run, WORK, measure)


async def _full(run: Run) -> None:
    """200 containers with 800 processes: cost, scans, scrapes, the device API."""

    async def measure(form: Form, people: Crowd) -> None:
        async with full_node(form, people) as node:
            run.take(await cost.at_work(node, run.effort, "full"), form.name)
            for part in (scans.measure, device_api.measure, mgctl.measure, scrapes.measure):
                run.take(await part(node, run.effort), form.name)

    await _with_people(run, FULL, measure)


async def _with_people(run: Run, size: tuple[int, int], measure: Callable[[Form, Crowd], Awaitable[None]]) -> None:
    stage = f"{size[0]} containers with {size[0] * size[1]} processes"
    if why := why_no_crowd():
        run.left_out.append(LeftOut(stage, why))
        return
    with crowd(*size) as people:
        for form in run.forms:
            await run.calibrate(f"{stage}, {form.name}")
            await measure(form, people)


STAGES: dict[str, Stage] = {"programs": _programs, "idle": _idle, "sizes": _sizes, "work": _work, "full": _full}
"""By the name the command line knows them by, in order."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is to measure. `before` is another binary to measure beside this tree's."""

    stages: Sequence[str]
    is_short: bool = False
    before: Path | None = None


async def measure(plan: Plan) -> Report:
    """Measure and return the report; the short form takes the frozen program alone, where there is one.

    Raises AssertionError where the daemon does not do its part.
    """
    watch = Watch()
    with tempfile.TemporaryDirectory(prefix="mgb-") as folder:
        this, static = unfrozen(Path(folder)), frozen(Path(folder))
        forms = [this] if static is None else [static] if plan.is_short else [this, static]
        forms += [built(BEFORE, plan.before, Path(folder))] if plan.before else []
        run = Run(SHORT if plan.is_short else LONG, forms)
        if static is None:
            run.left_out.append(LeftOut("the frozen form", "build/mortalgpu is not there, and MORTALGPU_BIN names nothing"))
        for form in forms:
            # What compiles modules, or reads a program from the disk, is another daemon than those that are measured.
            await start.to_registered(form)
        for name in plan.stages:
            await STAGES[name](run)
    rows = [row_of(name, form, samples) for (name, form), samples in run.samples.items() if samples]
    return report_of(rows, run.left_out, watch.machine(), is_short=plan.is_short)
