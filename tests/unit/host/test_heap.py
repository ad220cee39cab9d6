"""Freed memory leaves the process, also after a large block has taught glibc to keep more."""

import subprocess
import sys

PROGRAM = """
import sys
from mortalgpu.host import heap

def resident_mib():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096 / 2**20

if sys.argv[1] == "shrinking":
    heap.return_freed_memory()
before = resident_mib()
large = bytearray(30 * 2**20)
del large
blocks = [b"x" * 100_000 for _ in range(200)]
del blocks
print(resident_mib() - before)
"""


def kept_mib(how: str) -> float:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True, timeout=60)
    return float(done.stdout)


def test_what_is_freed_is_given_back() -> None:
    assert kept_mib("shrinking") < 5.0 < 15.0 < kept_mib("as it is")
