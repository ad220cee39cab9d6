"""How long a full scan takes, as the daemon counts it: from the driver's list of processes to the published usage."""

import trio

from tests.bench.effort import Effort
from tests.bench.full_node import USED_MIB, FullNode
from tests.bench.timing import Samples

COUNT, SUM = "mortalgpu_scan_duration_seconds_count", "mortalgpu_scan_duration_seconds_sum"
PATIENCE_SECONDS = 10.0


async def measure(node: FullNode, effort: Effort) -> Samples:
    """Let every process's memory move, and take the scan that follows; where two followed, they are not told apart."""
    taken: list[float] = []
    for number in range(effort.scans):
        before = await node.figures("daemon")
        node.show(standing_mib=USED_MIB + number % 2)
        after = await _scanned(node, before[COUNT])
        if after[COUNT] == before[COUNT] + 1:
            taken.append((after[SUM] - before[SUM]) * 1000)
    node.show()
    return {"scan": taken}


async def _scanned(node: FullNode, count: float) -> dict[str, float]:
    with trio.fail_after(PATIENCE_SECONDS):
        while (found := await node.figures("daemon"))[COUNT] <= count:
            await trio.sleep(0.02)
    return found
