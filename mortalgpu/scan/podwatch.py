"""Follows the pods of this node: the only writer of `Latest[PodsView]`.

The port never fails and never ends; a source that does is a fault, and the watch crashes, to be started again.
"""

import math

import trio

from mortalgpu.cluster.base import Cluster, PodsView
from mortalgpu.errors import ClusterError
from mortalgpu.latest import Latest

FIRST_VIEW_SECONDS = 15.0
"""How long the first view, which comes at once, may take."""


async def serve(
    cluster: Cluster, pods: Latest[PodsView], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Publish every view of the cluster until cancelled; started with the first, which comes at once.

    Raises ClusterError when there is none at once, or when there are no more.
    """
    with trio.CancelScope(deadline=trio.current_time() + FIRST_VIEW_SECONDS) as patience:
        async with cluster.pods() as views:
            async for view in views:
                patience.deadline = math.inf
                pods.publish(view)
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
    raise ClusterError("the source of pods said nothing" if patience.cancelled_caught else "the watch of pods came to an end")
