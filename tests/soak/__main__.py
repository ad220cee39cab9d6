"""`python -m tests.soak [--hours N | --for SECONDS]`: a node that never rests, sampled; then the judgement, and pictures.

Needs no GPU and no kubelet. Root with a cgroup v2 hierarchy that may be written, for tenants in cgroups of their own; without
it there is no enforcement to see. The daemon is `mortalgpu` beside this Python, or the program that MORTALGPU_BIN names.
"""

import argparse
import json
import signal
import sys
from pathlib import Path

import trio

from tests.soak import picture
from tests.soak.judge import judge, passed
from tests.soak.ledger import Ledger, read_run
from tests.soak.run import soak


def main() -> None:
    """Run, or read an earlier run, and judge; leaves with 1 when the daemon did not keep its promises."""
    parser = argparse.ArgumentParser(prog="tests.soak", description=__doc__.partition("\n")[0])
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--hours", type=float, default=2.0, help="how long (default: 2)")
    length.add_argument("--for", type=float, dest="seconds", metavar="SECONDS", help="how long, in seconds")
    length.add_argument("--judge", action="store_true", help="judge the samples of an earlier run instead")
    parser.add_argument("--samples", type=Path, default=Path("build/soak.jsonl"), help="where the samples go, as JSON lines")
    parser.add_argument("--json", type=Path, default=Path("build/soak.json"), help="where the judgement goes, with a series")
    parser.add_argument("--charts", type=Path, default=Path("build/soak.txt"), help="where the table and the charts go")
    parser.add_argument("--seed", type=int, default=20_241_122, help="of everything that happens by chance")
    chosen = parser.parse_args()
    if not chosen.judge:
        for path in (chosen.samples, chosen.json, chosen.charts):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        trio.run(soak, Ledger(chosen.samples), chosen.seconds or chosen.hours * 3600, chosen.seed)
    sys.exit(0 if _tell(chosen.samples, chosen.json, chosen.charts) else 1)


def _tell(samples: Path, as_json: Path, as_text: Path) -> bool:
    """Judge a run, print it, keep it in two files; tell whether it passed."""
    run = read_run(samples)
    findings = judge(run)
    verdict = "as it was in the beginning" if passed(findings) else "NOT as it was in the beginning"
    head = f"mortalgpu {run.about['version']}, {'frozen' if run.about['frozen'] else 'unfrozen'}: {verdict}"
    parts = [f"{head}, after {run.seconds:.0f} s", picture.table(findings), picture.counts(run), picture.charts(run)]
    parts += [f"BROKEN: {text}" for text in run.wrongs]
    text = "\n\n".join(parts)
    as_text.write_text(f"{text}\n")
    as_json.write_text(json.dumps(picture.document(run, findings), separators=(",", ":")) + "\n")
    print(text)
    return passed(findings)


if __name__ == "__main__":
    main()
