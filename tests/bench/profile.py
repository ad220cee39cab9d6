"""What a figure is made of, for the unfrozen daemon: `just bench --profile idle|work|memory`.

Shown for processor time: the functions of the event loop's thread, over some seconds. For memory: what each package's modules
keep once the daemon is imported, and which modules keep most.
"""

import os
import pstats
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import trio

from tests.bench.forms import unfrozen
from tests.bench.full_node import Crowd, crowd, full_node
from tests.bench.suite import WORK

SECONDS = 20.0
SETTLE_SECONDS = 6.0
LINES = 30


async def of_processor(people: Crowd | None) -> str:
    """Return the functions that cost most on a node, with containers or without: by themselves, and with what they call."""
    with tempfile.TemporaryDirectory(prefix="mgb-") as folder:
        path = Path(folder) / "profile"
        form = replace(unfrozen(Path(folder)), mortalgpu=(sys.executable, "-m", "tests.bench.profiled", str(path)))
        async with full_node(form, people) as node:
            await trio.sleep(SETTLE_SECONDS)
            os.kill(node.pid, signal.SIGUSR1)
            await trio.sleep(SECONDS)
            os.kill(node.pid, signal.SIGUSR1)
            await node.ours.until(path.exists, "the profile")
        text = StringIO()
        shown = pstats.Stats(str(path), stream=text).strip_dirs()
        shown.sort_stats("tottime").print_stats(LINES)
        shown.sort_stats("cumulative").print_stats(2 * LINES)
    return text.getvalue()


async def of_memory() -> str:
    """Return what importing the daemon keeps, in KiB."""
    command = [sys.executable, "-m", "tests.bench.imports", "mortalgpu.daemon"]
    done = await trio.run_process(command, capture_stdout=True, stderr=subprocess.DEVNULL)
    return done.stdout.decode()


async def _idle() -> str:
    return await of_processor(None)


async def _work() -> str:
    with crowd(*WORK) as people:
        return await of_processor(people)


KINDS: dict[str, Callable[[], Awaitable[str]]] = {"idle": _idle, "work": _work, "memory": of_memory}
