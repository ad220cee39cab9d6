"""The judge of the soak: what leaks or slows down must fail, what is noisy and flat must pass."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.soak.judge import KEPT, LATENCIES, Run, judge, passed, slope
from tests.soak.picture import chart, charts, counts, document, table

HOURS = 2.0
TURN_SECONDS = 300.0
Change = Callable[[dict[str, Any], float], None]
"""Changes a sample that was taken so many hours after the beginning."""


def run(change: Change | None = None, *, hours: float = HOURS, enforces: bool = True, wrongs: tuple[str, ...] = ()) -> Run:
    """A run of a daemon that is well, with the noise that was seen, changed by `change`."""
    dice = random.Random(7)
    samples: list[dict[str, Any]] = []
    for number in range(int(hours * 360)):
        moment = number * 10.0
        warm = min(1.0, moment / 600)
        is_quiet = moment % TURN_SECONDS > TURN_SECONDS - 25
        samples.append({
            "t": moment,
            "quiet": is_quiet,
            "rss_kib": 51_000 + 3_000 * warm + dice.gauss(0, 200),
            "uss_kib": 51_000,
            "fds": 26 if is_quiet else dice.randint(28, 60),
            "threads": 3 if is_quiet else dice.randint(3, 6),
            "tasks": 70 if is_quiet else dice.randint(70, 90),
            "children": 1,
            "cpu_seconds": moment * 0.03,
            "yardstick_ms": 0.55 + dice.expovariate(20),
            "load": dice.uniform(0.5, 2),
            "latencies": {name: [dice.lognormvariate(1.5, 0.6) for _ in range(3)] for name in LATENCIES},
            "counts": {"rests": int(moment // TURN_SECONDS), "processes stopped": number},
        })  # fmt: skip
        if is_quiet and number % 2:
            samples[-1]["fds"] += 2  # Somebody scrapes just now.
        if change is not None:
            change(samples[-1], moment / 3600)
    return Run({"version": "0", "frozen": False, "enforces": enforces}, samples, wrongs)


def troubles(found: Run) -> set[str]:
    return {finding.name for finding in judge(found) if not finding.good}


def test_a_flat_and_noisy_run_passes() -> None:
    assert troubles(run()) == set()
    assert passed(judge(run()))


def test_a_short_run_is_judged_by_what_it_can_show() -> None:
    assert troubles(run(hours=0.4)) == set()


def test_a_short_run_needs_more_than_two_rests() -> None:
    assert "fds at rest" in troubles(run(hours=0.16))


def leak(what: str, an_hour: float) -> Change:
    def change(sample: dict[str, Any], hours: float) -> None:
        sample[what] += type(sample[what])(an_hour * hours)

    return change


def slower(name: str, an_hour: float) -> Change:
    def change(sample: dict[str, Any], hours: float) -> None:
        sample["latencies"][name] = [each * (1 + an_hour * hours) for each in sample["latencies"][name]]

    return change


@pytest.mark.parametrize("mib_an_hour", [1.3, 3.0, 20.0])
def test_a_daemon_that_grows_fails(mib_an_hour: float) -> None:
    assert "its slope" in troubles(run(leak("rss_kib", mib_an_hour * 1024)))


def test_growth_in_one_jump_fails_though_its_slope_is_small() -> None:
    def jump(sample: dict[str, Any], hours: float) -> None:
        sample["rss_kib"] += 2_000 if hours > HOURS * 0.7 else 0

    assert "resident memory" in troubles(run(jump))


def test_what_is_made_once_in_the_warm_up_is_no_growth() -> None:
    def warm(sample: dict[str, Any], hours: float) -> None:
        sample["rss_kib"] += 20_000 * min(1.0, hours / 0.25)
        sample["fds"] += 5 if hours > 0.1 else 0

    assert troubles(run(warm)) == set()


@pytest.mark.parametrize("what", KEPT)
@pytest.mark.parametrize("hours", [HOURS, 0.4])
def test_a_single_thing_that_is_kept_at_rest_fails(what: str, hours: float) -> None:
    def keep(sample: dict[str, Any], moment: float) -> None:
        sample[what] += 1 + KEPT[what] if moment > hours * 0.6 else 0

    assert troubles(run(keep, hours=hours)) == {f"{what} at rest"}


def test_what_lingers_in_some_rests_is_no_leak() -> None:
    def linger(sample: dict[str, Any], hours: float) -> None:
        sample["fds"] += 20 if int(hours * 3600 / TURN_SECONDS) % 3 else 0

    assert troubles(run(linger)) == set()


def test_what_is_open_while_somebody_is_there_is_no_leak() -> None:
    def busier(sample: dict[str, Any], hours: float) -> None:
        sample["fds"] += 0 if sample["quiet"] else int(20 * hours)

    assert troubles(run(busier)) == set()


@pytest.mark.parametrize("name", LATENCIES)
def test_an_answer_that_takes_longer_and_longer_fails(name: str) -> None:
    assert troubles(run(slower(name, 40.0 if name == "kill" else 3.0))) == {f"{name}, median", f"{name}, best tenth"}


def test_a_machine_that_became_slow_is_no_fault_of_the_daemon() -> None:
    def loaded(sample: dict[str, Any], hours: float) -> None:
        if hours > 1:
            sample["yardstick_ms"] *= 3
            sample["latencies"] = {name: [each * 3 for each in taken] for name, taken in sample["latencies"].items()}

    assert troubles(run(loaded)) == set()


def waiting(longer: Callable[[float], float]) -> Run:
    """A run on a machine that many share in its second half; `longer` is what that makes of a latency."""

    def busy(sample: dict[str, Any], hours: float) -> None:
        if hours > 1:
            sample["load"] *= 5
            sample["latencies"] = {name: [longer(each) for each in taken] for name, taken in sample["latencies"].items()}

    return run(busy)


def test_waiting_for_a_busy_machine_is_no_fault_of_the_daemon() -> None:
    assert troubles(waiting(lambda each: each if each < 2.5 else 3 * each)) == set()


def test_a_daemon_that_is_slow_even_when_nobody_is_in_its_way_is_not_excused_by_a_busy_machine() -> None:
    assert "list, best tenth" in troubles(waiting(lambda each: 3 * each))


def test_work_that_costs_more_and_more_fails() -> None:
    def busier(sample: dict[str, Any], hours: float) -> None:
        sample["cpu_seconds"] *= 1 + hours

    assert troubles(run(busier)) == {"CPU"}


def test_one_broken_promise_is_one_too_many() -> None:
    assert troubles(run(wrongs=("a process was stopped that was within its limit",))) == {"broken promises"}


def test_a_run_that_saw_nothing_has_not_passed() -> None:
    nothing = Run({"enforces": True}, [])
    assert {"resident memory", "fds at rest", "kills missing"} <= troubles(nothing)

    def restless(sample: dict[str, Any], hours: float) -> None:
        sample["quiet"] = False

    assert {"fds at rest", "threads at rest", "tasks at rest"} <= troubles(run(restless))


def test_a_run_without_a_kill_has_passed_only_where_nobody_enforces() -> None:
    def harmless(sample: dict[str, Any], hours: float) -> None:
        del sample["counts"]["processes stopped"]
        del sample["latencies"]["kill"]

    assert troubles(run(harmless)) == {"kills missing", "kill, median", "kill, best tenth"}
    assert troubles(run(harmless, enforces=False)) == set()


def test_the_slope_is_that_of_most_points_whatever_the_others_say() -> None:
    points = [(float(moment), 3.0 * moment) for moment in range(50)]
    points[7] = (7.0, 10_000.0)
    points[30] = (30.0, -10_000.0)
    assert slope(points) == pytest.approx(3.0)


def test_the_pictures_show_what_there_is() -> None:
    found = run()
    findings = judge(found)
    assert "TOO MUCH" not in table(findings)
    assert "TOO MUCH" in table(judge(run(leak("tasks", 20))))
    assert charts(found).count(" min") == 4 + len(LATENCIES)
    assert "processes stopped" in counts(found)
    kept = document(found, findings)
    assert kept["minutes"] == list(range(120))


def test_a_chart_rises_where_its_points_do() -> None:
    lines = chart("rising", [(float(moment), float(moment)) for moment in range(100)]).splitlines()
    assert lines[1].endswith("*")
    assert lines[8].partition("|")[2].startswith("*")
    assert chart("nothing", []) == ""
