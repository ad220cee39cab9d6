"""The long search: libFuzzer by way of atheris, which follows what each input reaches; without atheris, mutation alone.

    python -m tests.fuzz.guided search config-file token --seconds 60

Each target is searched by a process of its own, so that a hang, a crash of the interpreter or a leak ends no more than that.
What is found is kept in the corpus. atheris is not among the tools of development: `pip install atheris`.
"""

import argparse
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

from tests.fuzz.corpus import keep, known
from tests.fuzz.mutation import inputs
from tests.fuzz.target import LONGEST_INPUT, MOST_CPU_SECONDS, Target, probe

ROOT = Path(__file__).parents[2]
INSTRUMENTED = ["mortalgpu", "purerpc", "h2", "hpack", "hyperframe", "h11", "jwt", "yaml", "pynvml"]
MOST_RESIDENT_MIB = 1024
MOST_FOUND = 5
FEWEST_SECONDS = 2
"""After so many findings a target's search ends: they are likely one."""


@dataclass(slots=True)
class Result:
    """What the search of one target did. `edges` is 0 where nothing counts them."""

    name: str
    inputs: int = 0
    edges: int = 0
    seconds: float = 0.0
    found: list[str] = field(default_factory=list)
    log: str = ""


def search(target: Target, seconds: float) -> Result:
    """Search one target for so long, in processes of their own; keep what is found in the corpus."""
    result, ends = Result(target.name), time.monotonic() + seconds
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mortalgpu-fuzz-") as folder:
        grown, crashes = Path(folder, "grown"), Path(folder, "found")
        grown.mkdir()
        crashes.mkdir()
        for number, data in enumerate(known(target)):
            Path(grown, f"known-{number:04}").write_bytes(data)
        while time.monotonic() < ends - FEWEST_SECONDS and len(result.found) < MOST_FOUND:
            output = _run(target, grown, crashes, ends - time.monotonic())
            result.inputs += _last(r"number_of_executed_units: (\d+)", output)
            result.edges = max(result.edges, _last(r"cov: (\d+)", output))
            fresh = sorted(crashes.iterdir())
            for path in fresh:
                result.found.append(str(keep(target, path.read_bytes()).relative_to(ROOT)))
                result.log += _reason(output)
                path.unlink()
            if not fresh and time.monotonic() < ends - FEWEST_SECONDS:
                result.found.append("the search ended by itself")
                result.log += output[-2000:]
        _keep_grown(target, grown)
    result.seconds = time.monotonic() - begun
    return result


def _keep_grown(target: Target, grown: Path) -> None:
    """Leave what a search has grown where MORTALGPU_FUZZ_GROWN says, for choosing from it by hand."""
    place = os.environ.get("MORTALGPU_FUZZ_GROWN")
    if place:
        shutil.copytree(grown, Path(place, target.name), dirs_exist_ok=True)


def _run(target: Target, grown: Path, crashes: Path, seconds: float) -> str:
    words = _dictionary(target, crashes.parent)
    options = [
        f"-max_len={LONGEST_INPUT}",
        f"-timeout={4 * int(MOST_CPU_SECONDS)}",
        f"-report_slow_units={4 * int(MOST_CPU_SECONDS)}",
        f"-rss_limit_mb={MOST_RESIDENT_MIB}",
        f"-artifact_prefix={crashes}/",
        f"-dict={words}",
        "-print_final_stats=1",
        "-verbosity=1",
    ]
    where = [_module_of(target), target.name, str(time.time() + seconds)]
    command = [sys.executable, "-m", "tests.fuzz.guided", "run", *where, *options, str(grown)]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=seconds + 120
    )
    return done.stdout.decode(errors="replace")


def _module_of(target: Target) -> str:
    """Return the module that has the target: importing that one only is what makes a search begin soon."""
    check = target.check.func if isinstance(target.check, partial) else target.check
    return check.__module__


def _dictionary(target: Target, folder: Path) -> Path:
    path = folder / "words"
    lines = ('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"' for word in target.words if 0 < len(word) <= 64)
    path.write_text("\n".join(lines) + "\n")
    return path


def _last(pattern: str, output: str) -> int:
    numbers = re.findall(pattern, output)
    return int(numbers[-1]) if numbers else 0


def _reason(output: str) -> str:
    at = output.find("Uncaught Python exception")
    return output[at : at + 3000] if at >= 0 else output[-1500:]


def as_table(results: Iterable[Result]) -> str:
    """Return a line for each target, and the sum."""
    rows = list(results)
    lines = [f"{'target':24}{'inputs':>12}{'edges':>8}{'seconds':>9}  found"]
    lines += [f"{row.name:24}{row.inputs:>12,}{row.edges:>8,}{row.seconds:>9.0f}  {len(row.found)}" for row in rows]
    found, seconds = sum(len(row.found) for row in rows), sum(row.seconds for row in rows)
    lines.append(f"{len(rows):<24}{sum(row.inputs for row in rows):>12,}{'':8}{seconds:>9.0f}  {found}")
    return "\n".join(lines + [f"\n{row.name}: {', '.join(row.found)}\n{row.log}" for row in rows if row.found])


# In the process of one target.


def run(module: str, name: str, ends_at: float, options: list[str]) -> None:
    """Search one target until `ends_at`, seconds since the epoch, or until something is found. Does not return."""
    if importlib.util.find_spec("atheris") is None:
        run_unguided(_loaded(module, name), ends_at, options)
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        target = _loaded(module, name)
    seconds = max(FEWEST_SECONDS, int(ends_at - time.time()))
    atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", *options], lambda data: probe(target, data))
    atheris.Fuzz()


def _loaded(module: str, name: str) -> Target:
    targets: tuple[Target, ...] = importlib.import_module(module).TARGETS
    return next(target for target in targets if target.name == name)


def run_unguided(target: Target, ends_at: float, options: list[str]) -> None:
    """The same by mutation alone. Does not return."""
    tried = 0
    given = dict(option.lstrip("-").split("=", 1) for option in options if "=" in option)
    begun_with = [path.read_bytes() for path in sorted(Path(options[-1]).iterdir())]
    for turn in count():
        for data in inputs(begun_with, target.words, 500, f"{os.urandom(8).hex()}-{turn}"):
            tried += 1
            try:
                probe(target, data)
            except Exception as error:
                Path(f"{given['artifact_prefix']}crash").write_bytes(data)
                print(f"Uncaught Python exception: {error!r}")
                ends_at = 0.0
                break
        if time.time() >= ends_at:
            print(f"stat::number_of_executed_units: {tried}")
            sys.exit(0)


def main() -> None:
    """Search some targets, or all."""
    if sys.argv[1:2] == ["run"]:
        run(sys.argv[2], sys.argv[3], float(sys.argv[4]), sys.argv[5:])
    from tests.fuzz.registry import TARGETS

    words = argparse.ArgumentParser(prog="python -m tests.fuzz.guided", description=__doc__)
    words.add_argument("search", choices=["search"])
    words.add_argument("targets", nargs="*", choices=[[], *TARGETS])
    words.add_argument("--seconds", type=float, default=60.0, help="for each target")
    chosen = words.parse_args()
    results = [search(TARGETS[name], chosen.seconds) for name in chosen.targets or TARGETS]
    print(as_table(results))
    sys.exit(any(result.found for result in results))


if __name__ == "__main__":
    main()
