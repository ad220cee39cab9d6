"""mgctl as a person runs it: a fresh process, from its start to its end."""

import subprocess
from functools import partial

import trio

from tests.bench.effort import Effort
from tests.bench.full_node import FullNode
from tests.bench.timing import Samples, timed


async def measure(node: FullNode, effort: Effort) -> Samples:
    """Time it; nothing where this form has no mgctl that runs here."""
    if not node.form.mgctl:
        return {}
    return {
        "mgctl_version": await run(node, "version", times=effort.processes),
        "mgctl_processes": await run(node, "get", "processes", times=effort.processes),
    }


async def run(node: FullNode, *words: str, times: int = 1) -> list[float]:
    """Run it so often, as root of the node; return the milliseconds of each. Nothing where there is none."""
    if not node.form.mgctl:
        return []
    argv = [*node.form.mgctl, "--addr", f"unix://{node.admin_socket}", *words]
    action = partial(subprocess.run, argv, env=node.form.environment, check=True, stdout=subprocess.DEVNULL)
    return await trio.to_thread.run_sync(timed, times, action)
