"""`just bench [STAGE ...]`: every figure of the program, frozen and not, from one run, as a table and in build/bench.json.

Compares with the last result that was kept, tests/bench/result.json. `--keep` makes this run that result, and the README's
figures with it; `--check` ends with 1 where a figure got worse or is missing. `--short` takes a minute and a half, asks only
whether a figure is far from its aim, and ends with 1 if so. `--profile KIND` shows what a figure is made of instead.
"""

import argparse
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import trio

from tests.bench import profile
from tests.bench.compare import broken_bounds, compare, regressions
from tests.bench.forms import BEFORE, UNFROZEN
from tests.bench.priority import ahead
from tests.bench.readme import put_figures
from tests.bench.report import Report, read
from tests.bench.suite import STAGES, Plan, measure
from tests.bench.table import footnotes, row_line, table

RESULT = Path(__file__).with_name("result.json")
README = Path(__file__).parents[2] / "README.md"


def main() -> int:
    """Measure, compare, tell; return the exit code."""
    chosen = _chosen()
    if chosen.profile:
        print(trio.run(profile.KINDS[chosen.profile]))
        return 0
    is_whole = not chosen.stages
    with ahead() if chosen.ahead else nullcontext():
        report = trio.run(measure, Plan(chosen.stages or list(STAGES), chosen.short, chosen.before))
    report.write(chosen.json)
    last = read(RESULT)
    compared = compare(report, last, is_whole=is_whole) if last and not chosen.short else []
    print(f"\n{table(report, compared)}\n\n{footnotes(report, compared)}")
    if chosen.short:
        return _tell_catastrophes(report, last)
    if chosen.keep:
        return _keep(report, is_whole=is_whole)
    return 1 if chosen.check and regressions(compared) else 0


def _tell_catastrophes(report: Report, last: Report | None) -> int:
    broken = broken_bounds(report, last)
    for row in broken:
        print(f"far from its aim: {row_line(row)}")
    return 1 if broken else 0


def _keep(report: Report, *, is_whole: bool) -> int:
    """Keep a whole run of both forms; any other would lose figures."""
    report = report.without(BEFORE)
    if not is_whole or report.left_out or len(report.forms) == 1:
        print("not kept: only a run of every stage, in both forms, replaces the last one", file=sys.stderr)
        return 1
    report.write(RESULT)
    put_figures(README, report)
    return 0


def _chosen() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="just bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of: {', '.join(STAGES)}; all if none")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), metavar="FILE", help="where the JSON goes")
    parser.add_argument("--short", action="store_true", help="few samples, loose bounds")
    parser.add_argument("--ahead", action="store_true", help="go ahead of whatever else runs on the machine (root)")
    parser.add_argument("--keep", action="store_true", help="make this run the one that later ones are compared with")
    parser.add_argument("--check", action="store_true", help="fail where a figure got worse")
    parser.add_argument(
        "--before", type=Path, metavar="BINARY", help="measure this static binary too, to show a change's effect"
    )
    parser.add_argument("--profile", choices=list(profile.KINDS), help=f"profile the {UNFROZEN} daemon instead")
    chosen = parser.parse_args()
    unknown = [name for name in chosen.stages if name not in STAGES]
    if unknown:
        parser.error(f"no such stage: {', '.join(unknown)}; there are: {', '.join(STAGES)}")
    if chosen.ahead and os.geteuid() != 0:
        parser.error("--ahead needs root")
    if chosen.short and (chosen.keep or chosen.check):
        parser.error("a short run has too few samples to be kept, or checked against what was kept")
    return chosen


if __name__ == "__main__":
    sys.exit(main())
