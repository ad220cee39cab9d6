"""The daemon in one of its forms, as a process of its own."""

import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.bench.forms import Form
from tests.scenario.machine import Daemon, Machine


@asynccontextmanager
async def daemon(form: Form, on: Machine, *more: str, **variables: str) -> AsyncIterator[Daemon]:
    """Run the daemon for the length of a block, and hold it to a clean end; killed when the block fails."""
    log_path = on.root / f"{form.name}.log"
    given = {"MORTALGPU_DRIVER_LIBRARY": str(on.library), **on.driver.environment, **variables}
    with log_path.open("wb") as log:
        argv = [*form.mortalgpu, *on.run_words, *more]
        environment = {**form.environment, **given}
        child = subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        ours = Daemon(child, log_path)
        yield ours
        ours.signal(signal.SIGTERM)
        assert await ours.ended() == 0, log_path.read_text()
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
