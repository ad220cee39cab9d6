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

from tests.soak.ledger import Ledger
from tests.soak.run import soak


def main() -> None:
    """Run, and leave with 1 when the daemon did not keep its promises."""
    parser = argparse.ArgumentParser(prog="tests.soak", description=__doc__)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--hours", type=float, default=2.0, help="how long (default: 2)")
    length.add_argument("--for", type=float, dest="seconds", metavar="SECONDS", help="how long, in seconds")
    parser.add_argument("--samples", type=Path, default=Path("build/soak.jsonl"), help="where the samples go, as JSON lines")
    parser.add_argument("--seed", type=int, default=20_241_122)
    chosen = parser.parse_args()
    chosen.samples.parent.mkdir(parents=True, exist_ok=True)
    chosen.samples.unlink(missing_ok=True)
    seconds = chosen.seconds or chosen.hours * 3600
    ledger = Ledger(chosen.samples)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    trio.run(soak, ledger, seconds, chosen.seed)
    print(json.dumps(ledger.counts, indent=1))
    for text in ledger.wrongs:
        print(f"BROKEN: {text}")
    sys.exit(bool(ledger.wrongs))


if __name__ == "__main__":
    main()
