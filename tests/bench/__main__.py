"""`python -m tests.bench [--json FILE] [PART…]`: every figure of the node daemon from one run, as a table and as JSON."""

import argparse
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import trio

from mortalgpu import __version__
from tests.bench import exporter, plugin, reaction
from tests.bench.row import Row, table

REACTION_AIMS = {"reaction_p99_ms": 200.0, "scan_800_median_ms": 20.0, "cpu_idle_percent": 1.0}
UNITS = {"ms": "ms", "percent": "% of a core", "mib": "MiB", "seconds": "s"}


def _plugin() -> list[Row]:
    return trio.run(plugin.measure)


def _reaction() -> list[Row]:
    return [
        Row(name, value, UNITS.get(name.rpartition("_")[2], ""), REACTION_AIMS.get(name))
        for name, value in reaction.measure().items()
    ]


PARTS: dict[str, Callable[[], list[Row]]] = {"plugin": _plugin, "reaction": _reaction, "exporter": exporter.rows}
"""What is measured, in this order. The second part needs root and a cgroup v2 hierarchy that may be written."""


def _measure(names: list[str]) -> list[Row]:
    rows: list[Row] = []
    for name in names:
        print(f"measuring: {name}", file=sys.stderr)
        rows += PARTS[name]()
    return rows


def main() -> None:
    """Measure, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(prog="tests.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"what to measure, of: {', '.join(PARTS)}; all if none")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), metavar="FILE", help="where the JSON goes")
    chosen = parser.parse_args()
    unknown = [name for name in chosen.parts if name not in PARTS]
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; there are: {', '.join(PARTS)}")
    rows = _measure(chosen.parts or list(PARTS))
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    where = {"version": __version__, "python": platform.python_version(), "machine": platform.machine()}
    chosen.json.write_text(json.dumps({**where, "rows": [row.document() for row in rows]}, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
