"""Follows the pods of this node: the only writer of `Latest[PodsView]`."""

import trio

from mortalgpu.cluster.base import Cluster, PodsView
from mortalgpu.latest import Latest


async def serve(
    cluster: Cluster, pods: Latest[PodsView], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Publish every view of the cluster until cancelled; started with the first, which comes at once."""
    async with cluster.pods() as views:
        async for view in views:
            pods.publish(view)
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
